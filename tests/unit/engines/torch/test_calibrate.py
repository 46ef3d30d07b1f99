"""Calibration on a CPU at small shapes: that everything is timed, counted right, kept within its budget and written."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from terascope.engines.torch import calibrate
from terascope.engines.torch.calibrate_attention import attend_latent
from terascope.engines.torch.calibrate_cases import KIMI_K2, SMALL, Case, Maker, Shelf
from terascope.engines.torch.calibrate_layers import Layer, Router
from terascope.engines.torch.calibrate_products import experts, matrices, products, spread
from terascope.engines.torch.stopwatch import Budget, Stopwatch

CPU = torch.device("cpu")
PARTS = {"bandwidth", "products", "experts", "decode", "prompt", "kernels", "layer"}


class Ticks:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("calibrate") / "timings.json"
    assert calibrate.main(["--device", "cpu", "--small", "--seconds", "100", "--out", str(out)]) == 0
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_every_part_is_timed_and_written_with_what_it_was_timed_on(written: dict[str, Any]) -> None:
    assert {one["part"] for one in written["timings"]} == PARTS
    assert written["finished"]
    assert written["launch_us"] > 0
    assert written["about"] | {"torch": torch.__version__, "device": "cpu", "small": True} == written["about"]
    assert all(one["shortest"] <= one["seconds"] <= one["longest"] for one in written["timings"])
    assert all(one["samples"] >= 3 and one["seconds"] > 0 for one in written["timings"])


def test_what_a_device_cannot_do_is_named_with_the_reason(written: dict[str, Any]) -> None:
    assert all(one["reason"] for one in written["skipped"])
    everything = len(written["timings"]) + len(written["skipped"])
    assert everything == sum(1 for _, part in calibrate.parts(Maker(CPU), small=True) for _ in part)


def test_parts_can_be_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "timings.json"
    calibrate.main(["--device", "cpu", "--small", "--only", "bandwidth,sampling", "--out", str(out)])
    assert {one["name"] for one in json.loads(out.read_text())["timings"]} == {"copy", "sum", "sampling"}
    with pytest.raises(SystemExit):
        calibrate.main(["--device", "cpu", "--small", "--only", "nothing", "--out", str(out)])
    assert "there is no part nothing" in capsys.readouterr().err


def test_a_machine_without_a_gpu_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert calibrate.main(["--out", str(tmp_path / "timings.json")]) == 1
    assert "finds no GPU" in capsys.readouterr().err


def test_it_needs_nothing_but_torch() -> None:
    """A machine with a GPU may have torch and nothing else of what Terascope depends on."""
    code = (
        "import sys\nimport terascope.engines.torch.calibrate\n"
        "bad = {'pydantic', 'yaml', 'aiohttp', 'transformers', 'httpx', 'typer'} & set(sys.modules)\n"
        "own = {n for n in sys.modules if n.startswith('terascope.')}\n"
        "print(sorted(bad), all(n.startswith(('terascope.engines', 'terascope._version')) for n in own))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert found.stdout.strip() == "[] True"


def test_no_case_begins_when_the_budget_is_over() -> None:
    ticks = Ticks()
    budget = Budget(10, ticks)

    def slow() -> Any:
        ticks.now += 6
        return lambda _: None

    cases = [Case("products", str(number), "bf16", 1, 1, slow) for number in range(5)]
    found = calibrate.Found({})
    assert not calibrate.time_part(iter(cases), found, Stopwatch(CPU), budget)
    assert [one["name"] for one in found.timings] == ["0", "1"]
    assert budget.over
    assert calibrate.time_part(iter(cases), calibrate.Found({}), Stopwatch(CPU), Budget(1000, ticks))


def test_the_process_ends_though_a_case_does_not(tmp_path: Path) -> None:
    code = (
        "import threading\nfrom terascope.engines.torch import calibrate\n"
        "with calibrate._ended_after(0.3):\n    threading.Event().wait(100)\n"
    )
    started = time.monotonic()
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 1
    assert time.monotonic() - started < 60


def test_a_stopwatch_takes_the_median_and_turns_between_copies() -> None:
    ticks, seen = Ticks(), []

    def work(run: int) -> None:
        seen.append(run)
        ticks.now += (5.0, 1.0, 2.0, 9.0)[len(seen) - 1]

    spell = Stopwatch(CPU, ticks).time(work, copies=2)
    assert (spell.seconds, spell.shortest, spell.longest, spell.samples) == (2.0, 1.0, 9.0, 3)  # the first warms up
    assert seen == [0, 0, 1, 0]
    assert not spell.captured


def test_launches_are_counted_by_the_piece() -> None:
    ticks = Ticks()

    def work(_: int) -> None:
        ticks.now += 3.0

    assert Stopwatch(CPU, ticks).launches(work, 7) == 3.0


def test_the_matrices_are_those_of_a_trillion_parameters() -> None:
    """All layers of Kimi-K2 have 1,026 billion; here are 60 layers with experts and one without."""
    found = {name: inputs * outputs for name, (inputs, outputs) in matrices(KIMI_K2).items()}
    attention = sum(found[name] for name in ("q_a", "q_b", "kv_a", "kv_b", "o"))
    shared = found["shared_up"] + found["shared_down"] + found["router"]
    expert = 3 * KIMI_K2.hidden * KIMI_K2.expert_inner
    whole = 61 * attention + 60 * (shared + KIMI_K2.experts * expert) + found["dense_up"] + found["dense_down"]
    assert (whole + 2 * found["head"]) / 1e9 == pytest.approx(1026.4, abs=0.1)


def test_products_are_those_of_the_weights() -> None:
    (case,) = products(Maker(CPU), SMALL, ["o"], ["bf16"], [3])
    assert (case.read, case.operations) == (2 * 64 * 64, 2 * 3 * 64 * 64)
    result = case.build()(0)
    assert isinstance(result, torch.Tensor)
    assert result.shape == (3, 64)


def test_experts_count_what_is_hit() -> None:
    loads = spread(CPU, SMALL, 5, SMALL.experts, seed=1)
    (case,) = experts(Maker(CPU), SMALL, ["bf16"], [5], SMALL.experts, seed=1)
    assert int(loads.sum()) == 5 * SMALL.chosen == case.shape["rows"]
    assert case.shape["hit"] == int((loads > 0).sum())
    assert case.read == case.shape["hit"] * 3 * SMALL.hidden * SMALL.expert_inner * 2
    assert case.build()(0)


def test_a_router_sends_every_token_to_its_experts_and_back() -> None:
    maker = Maker(CPU)
    router, given = Router(maker, SMALL), maker.normal(6, SMALL.hidden)
    rows, ends, tokens, weights = router.sort(given, maker.normal(6, SMALL.experts))
    assert torch.equal(torch.bincount(tokens, minlength=6), torch.full((6,), SMALL.chosen))
    assert int(ends[-1]) == 6 * SMALL.chosen
    assert torch.equal(rows, given[tokens])
    back = router.gather_back(rows, ends, tokens, weights)  # weights of a token add up to 1: experts that do nothing
    torch.testing.assert_close(back, given, rtol=0.03, atol=1e-3)


def test_latent_attention_is_attention() -> None:
    maker = Maker(CPU)
    query, cache = maker.normal(2, 4, 48).float(), maker.normal(2, 10, 48).float()
    keys, values = cache[:, None].expand(2, 4, 10, 48), cache[:, None, :, :32].expand(2, 4, 10, 32)
    expected = torch.nn.functional.scaled_dot_product_attention(query[:, :, None], keys, values)[:, :, 0]
    torch.testing.assert_close(attend_latent(query, cache, 32), expected)


def test_a_whole_layer_computes_each_sequence_by_itself() -> None:
    torch.manual_seed(0)
    maker = Maker(CPU)
    layer, hidden = Layer(maker, SMALL), maker.normal(3, SMALL.hidden) * 50
    cache, turns = maker.normal(3, 7, 48), (maker.normal(3, 1, 16), maker.normal(3, 1, 16))
    together = layer.run(hidden, cache.clone(), turns)
    alone = [
        layer.run(hidden[n : n + 1], cache[n : n + 1].clone(), (turns[0][n : n + 1], turns[1][n : n + 1]))
        for n in range(3)
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0.05, atol=0.05)
    assert bool(torch.isfinite(together).all())


def test_a_shelf_keeps_the_last() -> None:
    shelf, made = Shelf(), []

    def make() -> list[torch.Tensor]:
        made.append(1)
        return [torch.zeros(1)]

    assert shelf.get("a", make) is shelf.get("a", make)
    shelf.get("b", make)
    assert len(made) == 2
