"""Constants from timings: found back where they are known, refused where the timings are of something else."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.core.errors import BadRequest
from terascope.planner import find_gpu, find_model, make_load, needs, parse_cluster, search, split
from terascope.planner.calibration import calibrate, check_layers, gpu_of, load_calibration, read_timings, stored
from terascope.planner.constants import constants
from terascope.planner.report import plans_report

H100 = find_gpu("H100")
ABOUT = {
    "card": "NVIDIA H100 80GB HBM3",
    "memory": 85.0e9,
    "driver": "580.1",
    "torch": "2.11",
    "date": "2026-11-26T12:00:00+00:00",
    "small": False,
}
PARTS = st.floats(0.05, 1.0)


def timed(read: float, computed: float, **about: Any) -> dict[str, Any]:
    """The timings of an H100 that reads and computes at these parts of its figures."""
    peak, rows = H100.peaks["bf16"] * computed, []

    def add(part: str, name: str, shape: dict[str, int], size: float, operations: float) -> None:
        seconds = max(size / (H100.bandwidth * read), operations / peak)
        row = {"part": part, "name": name, "format": "bf16", "shape": shape}
        rows.append(row | {"read": size, "operations": operations, "seconds": seconds})

    for number in range(1, 4):
        add("products", "o", {"tokens": number}, 1e8 * number, 1e6)
        add("products", "o", {"tokens": 8192}, 1e8, 1e13 * number)
        add("experts", "experts", {"tokens": number, "rows": 8, "hit": 8}, 7e8, 1e6)
        add("experts", "experts", {"tokens": 65536, "rows": 65536, "hit": 48}, 1e8, 1e13 * number)
        add("decode", "grouped", {"batch": 8, "context": 8192}, 3e8, 1e6)
        add("decode", "latent", {"batch": 8, "context": 8192}, 3e8, 1e15)  # three kernels: shows nothing
        add("prompt", "grouped", {"length": 8192 * number}, 0, 1e12)
    return {"format": 1, "about": ABOUT | about, "timings": rows}


@given(PARTS, PARTS)
def test_known_parts_are_found_back(read: float, computed: float) -> None:
    found = calibrate(timed(read, computed)).found
    assert set(found) == {"stream", "stream_experts", "stream_cache", "multiply", "multiply_experts", "attend"}
    for name, one in found.items():
        assert one.value == pytest.approx(read if name.startswith("stream") else computed, rel=1e-3)
        assert one.low <= one.value <= one.high
        assert one.timings >= 3


def test_what_a_single_gpu_does_not_show_stays_as_it_ships() -> None:
    found = calibrate(timed(0.5, 0.5))
    changed = {name for name, value in asdict(found.constants).items() if value != getattr(constants(), name)}
    assert changed == set(found.found)
    assert found.constants.network == constants().network


def test_few_timings_show_nothing() -> None:
    some = timed(0.5, 0.5)
    some["timings"] = [one for one in some["timings"] if one["part"] != "prompt"][:8]
    assert "attend" not in calibrate(some).found


@pytest.mark.parametrize(
    ("card", "memory", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", 85.0e9, "H100"),
        ("NVIDIA H200", 150.1e9, "H200"),
        ("NVIDIA A100-SXM4-40GB", 42.4e9, "A100-40"),
        ("NVIDIA A100-SXM4-80GB", 85.0e9, "A100"),
        ("NVIDIA GH200 480GB", 102.0e9, "GH200"),
        ("NVIDIA B200", 191.5e9, "B200"),
    ],
)
def test_a_card_is_known_by_its_name_and_memory(card: str, memory: float, expected: str) -> None:
    assert gpu_of(card, memory).name == expected


@pytest.mark.parametrize(
    ("card", "memory"),
    [("NVIDIA H100 PCIe", 85.0e9), ("NVIDIA H100 NVL", 100.0e9), ("NVIDIA GeForce RTX 4090", 25e9), ("NVIDIA H100", 0)],
)
def test_other_cards_have_to_be_named(card: str, memory: float) -> None:
    with pytest.raises(BadRequest, match="say with --gpu which of A100-40"):
        gpu_of(card, memory)
    assert calibrate(timed(0.5, 0.5, card=card, memory=memory), "h100").gpu == "H100"


def test_timings_that_no_such_gpu_can_have_are_refused() -> None:
    with pytest.raises(BadRequest, match=r"would be 2\.\d+ of what A100-40 can do"):
        calibrate(timed(0.96, 0.96), "A100-40")
    with pytest.raises(BadRequest, match="small shapes"):
        calibrate(timed(0.5, 0.5, small=True))


@pytest.mark.parametrize("broken", [{}, {"format": 1}, {"format": 1, "about": [], "timings": []}, {"format": 9}])
def test_other_files_are_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        calibrate({"about": ABOUT, "timings": [{}]} | broken if broken else broken)


def test_what_is_kept_is_read_back(tmp_path: Path) -> None:
    told = timed(0.8, 0.6)
    found = calibrate(told)
    path = tmp_path / "H100.json"
    path.write_text(stored(told, found))
    assert load_calibration(path) == found
    kept = json.loads(path.read_text())
    assert kept["about"] == ABOUT
    assert kept["timings"] == told["timings"]
    assert kept["constants"]["stream"]["value"] == pytest.approx(0.8, rel=1e-3)
    assert kept["constants"]["stream"]["shipped"] == constants().stream


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="cannot read"):
        read_timings(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(BadRequest, match="is no JSON"):
        read_timings(tmp_path / "broken.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(BadRequest, match="no file that"):
        read_timings(tmp_path / "list.json")


def test_slower_constants_make_slower_plans() -> None:
    shapes, cluster, load = find_model("kimi-k2"), parse_cluster("8x8xH100"), make_load(1000, 500, 64)
    slow, fast = calibrate(timed(0.3, 0.3)), calibrate(timed(0.9, 0.9))
    plans = [search(shapes, cluster, load, calibration=one) for one in (slow, fast)]
    assert plans[0].best.output < plans[1].best.output
    apart = [split(one) for one in plans]
    assert apart[0]
    assert apart[1]
    assert apart[0].output < apart[1].output
    assert plans[0].values == slow.constants
    assert len(plans[0].plans) == len(plans[1].plans) == len(search(shapes, cluster, load).plans)
    report = plans_report(plans[0])
    assert "NVIDIA H100 80GB HBM3, driver 580.1, torch 2.11, 2026-11-26" in report["constants"]
    assert plans_report(search(shapes, cluster, load))["constants"] == "shipped"


def test_slower_constants_need_more_nodes() -> None:
    shapes, load = find_model("llama-3.1-70b"), make_load(2000, 500, 512, itl="40ms")
    (slow,) = needs(shapes, load, names=("H100",), calibrations={"H100": calibrate(timed(0.3, 0.2))})
    (fast,) = needs(shapes, load, names=("H100",), calibrations={"H100": calibrate(timed(0.9, 0.9))})
    assert slow.nodes > fast.nodes > 0


def test_timings_of_a_real_card() -> None:
    """Those of an H200, kept with the benchmarks: every constant is found, as a part of what the data sheet says."""
    kept = Path(__file__).parents[3] / "benchmarks" / "planner_data" / "h200_timings.json"
    found = calibrate(read_timings(kept))
    assert found.gpu == "H200"
    assert set(found.found) == {
        "stream", "stream_experts", "stream_cache", "multiply", "multiply_experts", "attend",
    }  # fmt: skip
    assert all(0.5 < one.value < 0.9 and one.low <= one.value <= one.high for one in found.found.values())


def test_whole_layers_stand_beside_their_prediction() -> None:
    told = timed(0.25, 0.25)
    row = {"part": "layer", "name": "kimi-k2 layer", "format": "bf16", "read": 1e9, "operations": 1e9, "seconds": 0.004}
    told["timings"] += [row | {"shape": {"tokens": n, "batch": n, "context": 1024}} for n in (1, 32)]
    few, many = check_layers(told, calibrate(told))
    assert (few.model, few.tokens, few.context, few.measured) == ("kimi-k2", 1, 1024, 0.004)
    least = 8 * 3 * 7168 * 2048 * 2 / H100.bandwidth  # eight experts are read
    assert few.found > few.shipped > least
    assert few.found < 2 * 4 * least  # at a quarter of the bandwidth, with attention beside them
    assert many.found > 10 * few.found  # 32 tokens reach half of the experts
    assert check_layers(timed(0.5, 0.5), calibrate(told)) == []
