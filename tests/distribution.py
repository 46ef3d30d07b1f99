"""In which order test files are given to the processes of `pytest -n`, and which of them go to the same one.

A file is the unit: its tests share what its fixtures have started. By itself pytest-xdist begins with the files that
have the most tests, and the dearest have few: the last of them would keep one process busy while the others are done.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest
from xdist.scheduler import LoadFileScheduling

TESTS = Path(__file__).parent
TOGETHER = {
    "tests/unit/engines/vllm/test_real_modes.py": "tests/unit/engines/vllm/test_real.py",
    "tests/unit/engines/vllm/test_real_states.py": "tests/unit/engines/vllm/test_real.py",
    "tests/flow/test_soft_prompts.py": "tests/flow/test_capture.py",
    "tests/flow/test_traces.py": "tests/flow/test_capture.py",
    "tests/unit/engines/openvino/test_real.py": "tests/unit/engines/openvino/test_gateway.py",
}
"""A file, and the one that begins what the same process runs: one real engine serves all of it."""
DEAREST = (
    "tests/unit/engines/vllm/test_real.py",
    "tests/unit/engines/vllm/test_real_modes.py",
    "tests/unit/engines/vllm/test_real_states.py",
    "tests/docs/test_blocks.py",
    "tests/unit/engines/torch/tuning/test_trainer.py",
    "tests/unit/engines/torch/test_real.py",
    "tests/unit/engines/torch/tuning/test_real.py",
    "tests/flow/test_fine_tuning.py",
    "tests/unit/planner/test_real_engines.py",
    "tests/flow/test_schemathesis.py",
    "tests/flow/test_trace_limits.py",
)
"""The files that take the longest, the longest first. Next come those with slow tests, then all others."""


def unit_of(file: str) -> str:
    """The name of what is given to a process as one: a file, or several of `TOGETHER`."""
    return TOGETHER.get(file, file)


def place_of(path: Path, *, slow: bool) -> int:
    """Where a file stands in the order; `slow` says whether one of its tests is marked so."""
    name = path.relative_to(TESTS.parent).as_posix()
    return DEAREST.index(name) if name in DEAREST else len(DEAREST) + (not slow)


def in_order(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The tests, those of the dearest files first; otherwise as they were."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    return sorted(items, key=lambda item: place_of(item.path, slow=item.path in slow))


class DearestFirst(LoadFileScheduling):  # type: ignore[misc] # xdist ships no types
    """What `--dist loadfile` does, in the order that tests were collected in, with several files as one unit."""

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(super()._split_scope(nodeid))
