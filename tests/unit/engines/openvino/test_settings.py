"""What OpenVINO is told, in a process of its own: beside torch it does not compute."""

import json
import subprocess
import sys
from typing import Any

import pytest

_TELL = """
import json, sys
from pathlib import Path
from terascope.engines.openvino.pipeline import properties_of, scheduler_of
from terascope.engines.openvino.settings import WorkerSettings
told = []
for fields in json.loads(sys.argv[1]):
    settings = WorkerSettings(Path("/nowhere"), "m", **fields)
    scheduler = scheduler_of(settings)
    told.append({"tokens": scheduler.max_num_batched_tokens, "rows": scheduler.max_num_seqs,
                 "prefixes": scheduler.enable_prefix_caching, "gib": scheduler.cache_size, **properties_of(settings)})
print(json.dumps(told))
"""
_CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"threads": 2}, {"tokens": 256, "rows": 32, "gib": 1, "INFERENCE_NUM_THREADS": 2}),
    ({"threads": 16, "cache_gib": 4}, {"tokens": 2048, "gib": 4}),
    ({"threads": 128}, {"tokens": 4096}),
    ({"threads": 1, "max_batch": 512}, {"tokens": 512, "rows": 512}),
    ({"dtype": "bfloat16"}, {"INFERENCE_PRECISION_HINT": "bf16", "KV_CACHE_PRECISION": "bf16"}),
    ({}, {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}),
]


@pytest.fixture(scope="module")
def told() -> list[dict[str, Any]]:
    asked = json.dumps([fields for fields, _ in _CASES])
    done = subprocess.run([sys.executable, "-c", _TELL, asked], capture_output=True, text=True, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_what_follows_from_the_command_line(told: list[dict[str, Any]]) -> None:
    for (fields, expected), found in zip(_CASES, told, strict=True):
        assert expected.items() <= found.items(), fields


def test_what_is_so_for_all(told: list[dict[str, Any]]) -> None:
    """Two replicas on one machine, pinned, would share the first of its cores; kept prefixes would be everybody's."""
    assert {(one["ENABLE_CPU_PINNING"], one["prefixes"]) for one in told} == {(False, False)}
    assert "INFERENCE_NUM_THREADS" not in told[-1]
