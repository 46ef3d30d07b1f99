"""Speed under load, and what is asked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.core.errors import BadRequest
from terascope.planner import find_model, make_layout, make_load, parse_cluster
from terascope.planner.precision import FORMATS
from terascope.planner.serving import Copy, most

K2, CLUSTER, FP8 = find_model("kimi-k2"), parse_cluster("4x8xH200"), FORMATS["fp8"]
WIDE = make_layout(1, dp=32, ep=32, weights=FP8)
LOAD = make_load(4000, 800)
COPY = Copy(K2, CLUSTER, WIDE, LOAD)


@given(st.integers(1, 4000))
def test_more_sequences_wait_longer_and_make_more(sequences: int) -> None:
    few, more = COPY.speed(sequences), COPY.speed(sequences + 32)
    assert few.itl <= more.itl
    assert few.ttft <= more.ttft
    assert few.output < more.output


@given(st.integers(1, 4000))
def test_answers_come_sooner_where_prompts_are_computed_elsewhere(sequences: int) -> None:
    assert COPY.decode(sequences).itl < COPY.speed(sequences).itl


def test_the_rates_fit_the_times() -> None:
    speed = COPY.speed(320)
    assert speed.output == pytest.approx(320 * 800 / (speed.ttft + 800 * speed.itl))
    assert speed.total == pytest.approx(speed.output * 4800 / 800)


def test_the_first_token_takes_a_prompt_and_some_of_a_step() -> None:
    alone = COPY.speed(1)
    assert alone.ttft > COPY.prompt * 4000 / 8192
    assert alone.ttft < 2 * COPY.prompt + alone.itl


def test_the_most_sequences_within_the_times_asked() -> None:
    load = make_load(4000, 800, itl="50ms")
    copy = Copy(K2, CLUSTER, WIDE, load)
    found = most(copy, 8000, load)
    assert copy.speed(found).itl <= 0.05 < copy.speed(found + 1).itl
    assert most(copy, 10, load) == 10
    assert most(copy, 0, load) == 0
    assert most(copy, 10, make_load(4000, 800, itl="1us")) == 0


@pytest.mark.parametrize(("text", "expected"), [("2s", 2.0), ("50ms", 0.05), ("1.5 s", 1.5), ("200us", 2e-4)])
def test_times_have_units(text: str, expected: float) -> None:
    assert make_load(1, 1, ttft=text).ttft == pytest.approx(expected)


@pytest.mark.parametrize("text", ["2", "fast", "-1s", "0s", "2h", "1e3s"])
def test_times_without_a_unit_are_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="write a time with its unit, such as 2s or 50ms"):
        make_load(1, 1, itl=text)


@pytest.mark.parametrize(
    ("load", "message"),
    [((0, 1, 0), "--input is 0; it must be from 1"), ((1, 0, 0), "--output is 0"), ((1, 1, -4), "--users is -4")],
)
def test_nonsense_is_refused(load: tuple[int, int, int], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        make_load(*load)
