"""`terascope calibrate` and the plans that use what it kept."""

import json
from pathlib import Path
from typing import Any

import pytest

from terascope.planner import find_gpu

from .conftest import Cli

H100 = find_gpu("H100")


@pytest.fixture
def timings(tmp_path: Path) -> Path:
    """Of an H100 that reads weights at half of its bandwidth."""
    row = {"part": "products", "name": "kimi-k2 o", "format": "bf16", "shape": {"tokens": 1}, "operations": 1e6}
    rows = [row | {"read": 1e9, "seconds": 1e9 / (0.5 * H100.bandwidth)}] * 3
    whole = {"part": "layer", "name": "kimi-k2 layer", "shape": {"tokens": 8, "batch": 8, "context": 1024}}
    rows.append(row | whole | {"read": 1e9, "seconds": 0.002})
    about = {"card": "NVIDIA H100 80GB HBM3", "memory": 85e9, "driver": "580.1", "torch": "2.11", "small": False}
    return _write(tmp_path / "timings.json", {"format": 1, "about": about | {"date": "2026-11-26"}, "timings": rows})


def _write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


def test_constants_are_kept_and_used_by_plans_for_that_gpu(bare: Cli, timings: Path, tmp_path: Path) -> None:
    asked = ("plan", "llama-3.1-70b", "--on", "8xH100", "--json")
    before = bare(*asked).json
    shown = bare("calibrate", "--timings", str(timings))
    assert shown.status == 0
    assert "stream" in shown.out
    assert "0.500" in shown.out
    assert "whole layers, microseconds" in shown.out
    assert shown.out.splitlines()[5].split()[:4] == ["kimi-k2", "8", "1,024", "2,000"]
    assert (tmp_path / "data" / "planner" / "H100.json").exists()
    after = bare(*asked).json
    assert "driver 580.1" in after["constants"]
    assert any(one.startswith("constants: stream found on") for one in after["cautions"])
    assert after["plans"][0]["itl_s"]["predicted"] > before["plans"][0]["itl_s"]["predicted"]
    assert bare(*asked, "--constants", "shipped").json == before
    assert bare("plan", "llama-3.1-70b", "--on", "8xH200", "--json").json["constants"] == "shipped"


def test_constants_of_a_file_are_used_when_it_is_named(bare: Cli, timings: Path) -> None:
    asked = ("--constants", str(timings))
    assert "driver 580.1" in bare("plan", "llama-3.1-70b", "--on", "8xH100", *asked, "--json").json["constants"]
    refused = bare("plan", "llama-3.1-70b", "--on", "8xH200", *asked)
    assert refused.status == 1
    assert "is of H100" in refused.err
    fit = bare("plan", "llama-3.1-70b", "--fit", "--users", "8", "--on", "H100", *asked, "--json")
    assert fit.json[0]["gpu"] == "H100"


def test_json_says_what_was_found(bare: Cli, timings: Path) -> None:
    found = bare("calibrate", "--timings", str(timings), "--json").json
    assert found["gpu"] == "H100"
    assert found["found"]["stream"] == {"value": 0.5, "low": 0.5, "high": 0.5, "timings": 3}


def test_a_machine_without_a_gpu_is_told_what_is_missing(bare: Cli) -> None:
    failed = bare("calibrate", "--device", "cuda:99", "--seconds", "30")
    assert failed.status == 1
    assert "cuda:99 could not be timed" in failed.err


def test_a_file_that_is_none_is_refused(bare: Cli, tmp_path: Path) -> None:
    assert "no file that `calibrate` wrote" in bare("calibrate", "--timings", str(_write(tmp_path / "x", {}))).err
    assert "cannot read" in bare("plan", "kimi-k2", "--on", "4x8xH200", "--constants", str(tmp_path / "none")).err
