"""Steps that are given up for who comes: nobody's answer changes, little is lost, and nothing bad stays behind."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from terascope.engines.torch.attachment import Part
from terascope.engines.torch.interruption import Interruptions
from terascope.engines.torch.jobs import Job
from terascope.engines.torch.loop import RowJob
from terascope.engines.torch.model import CausalModel
from terascope.engines.torch.rows import RowPlan

from .conftest import NAN_TOKEN
from .driver import Driver, plan

SIZE = 290  # tokens that are numbers in the damaged model, too
LAYERS = 2


def _prompt(number: int, length: int) -> list[int]:
    return [(number * 37 + i * 11 + i * i) % SIZE for i in range(length)]


@contextmanager
def arriving(driver: Driver, plans: dict[int, RowPlan]) -> Iterator[dict[int, RowJob]]:
    """Let a request come in the layers of these numbers, counted from here on over all steps."""
    seen = 0
    jobs: dict[int, RowJob] = {}

    def note(*_: object) -> None:
        nonlocal seen
        if seen in plans:
            jobs[seen] = Job("", [plans[seen]])
            driver.submit(jobs[seen])
        seen += 1

    layers = driver._packed.module.get_decoder().layers
    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        yield jobs
    finally:
        for handle in handles:
            handle.remove()


def _begin(model: CausalModel, *priorities: int, **options: int) -> Driver:
    """A driver with rows of these priorities that answer."""
    driver = Driver(model, **options)
    for number, priority in enumerate(priorities):
        driver.ask(plan(_prompt(number, 20), 30, priority=priority))
    driver.step()
    driver.step()
    return driver


def _given_up(driver: Driver) -> int:
    return driver._interruptions.count


@pytest.mark.parametrize(
    ("running", "comes", "layer", "expected"),
    [
        (2, 1, 0, 1),
        (2, 1, 1, 1),
        (2, 0, 0, 1),
        (1, 0, 0, 1),
        (2, 2, 0, 0),
        (1, 1, 0, 0),
        (0, 0, 0, 0),
        (1, 2, 0, 0),
    ],
)
def test_a_step_is_given_up_for_a_better_row_only(
    tiny: CausalModel, running: int, comes: int, layer: int, expected: int
) -> None:
    driver = _begin(tiny, running)
    with arriving(driver, {layer: plan(_prompt(9, 40), 1, priority=comes)}) as jobs:
        driver.step()
        assert _given_up(driver) == expected
        driver.step()
    assert jobs[layer] not in driver._rows
    driver.finish()


def test_the_step_after_it_is_the_newcomers(tiny: CausalModel) -> None:
    driver = _begin(tiny, 2, 2)
    with arriving(driver, {1: plan(_prompt(9, 40), 1, priority=1)}):
        driver.step()
        made = [row.made for row in driver._schedule.running]
        driver.step()
    assert [row.made for row in driver._schedule.running] == made
    assert driver.computed == 2 * 20 + 2 + 2 + 40  # the step that was given up counts here, too
    driver.finish()


def test_who_could_not_be_let_in_stops_nothing(tiny: CausalModel) -> None:
    driver = _begin(tiny, 2, max_batch=1)
    with arriving(driver, {0: plan(_prompt(9, 40), 1, priority=0)}):
        driver.step()
    assert _given_up(driver) == 0
    driver.finish()


class Seen:
    """An attachment that keeps what the last layer gave for its row."""

    def __init__(self) -> None:
        self.kept: list[torch.Tensor] = []

    @contextmanager
    def attach(self, module: PreTrainedModel, part: Part) -> Iterator[None]:
        def keep(_: torch.nn.Module, __: object, result: torch.Tensor) -> None:
            self.kept.append(result[0, part.first : part.last].clone())

        handles = [layer.register_forward_hook(keep) for layer in module.get_decoder().layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def test_a_step_in_which_somebody_watches_is_not_given_up(tiny: CausalModel) -> None:
    """It would see its first layers twice."""
    seen = Seen()
    driver = Driver(tiny)
    asked = driver.ask(plan(_prompt(1, 20), 4, priority=2, attachments=[seen]))
    with arriving(driver, {1: plan(_prompt(9, 40), 1, priority=1), 5: plan(_prompt(8, 4), 1, priority=0)}):
        driver.finish()
    assert len(asked.tokens()) == 4
    assert sum(len(one) for one in seen.kept) == (20 + 3) * LAYERS


def test_no_more_than_a_share_is_thrown_away() -> None:
    waste = Interruptions()
    lost = computed = 0.0
    for _ in range(2000):
        if waste.allowed:
            waste.lost(0.1)
            lost += 0.1
        else:
            waste.computed(0.2)
            computed += 0.2
    assert waste.count > 100
    assert lost <= 1.1 + computed / 20
    for _ in range(2000):
        waste.computed(1.0)
    saved = 0
    while waste.allowed:
        waste.lost(0.1)
        saved += 1
    assert saved <= 11


def test_the_loop_counts_what_it_computed_and_what_it_lost(tiny: CausalModel) -> None:
    driver = _begin(tiny, 2)
    driver._interruptions.lost(100.0)
    with arriving(driver, {0: plan(_prompt(9, 40), 1, priority=1)}):
        driver.step()
    assert _given_up(driver) == 1
    left = driver._interruptions._left_s
    driver.finish()
    assert left < driver._interruptions._left_s < 0
    assert "terascope_engine_interrupted_seconds_total 0.0" in driver._metrics.text().decode()


def test_bad_numbers_of_a_step_that_was_given_up_do_not_stay(broken_tiny: CausalModel) -> None:
    """The row had answered, and was writing what is not a number when somebody came; then its client left."""
    fine = plan(_prompt(5, 18), 20)  # its second block is only begun when the bad number would be seen in it
    expected = Driver(broken_tiny).alone(fine).tokens()
    driver = Driver(broken_tiny, cache_tokens=96)
    asked = driver.ask(plan(_prompt(1, 20), 30, priority=2))
    driver.step()
    asked.rows[0].tokens[-1] = NAN_TOKEN  # as if it had chosen that
    with arriving(driver, {1: plan(_prompt(2, 8), 1, priority=1)}):
        driver.step()
    assert _given_up(driver) == 1
    driver._end(asked.job)
    found = driver.alone(fine)
    assert found.error is None
    assert found.tokens() == expected


newcomers = st.dictionaries(
    st.integers(0, 60),
    st.tuples(st.integers(1, 100), st.integers(1, 8), st.integers(0, 2), st.none() | st.integers(0, 99), st.booleans()),
    max_size=8,
)
first = st.lists(
    st.tuples(
        st.integers(1, 150), st.integers(1, 20), st.integers(0, 2), st.none() | st.integers(0, 99), st.booleans()
    ),
    min_size=1,
    max_size=5,
)
Drawn = tuple[int, int, int, int | None, bool]


def _plan(number: int, drawn: Drawn, priority: Callable[[int], int]) -> RowPlan:
    length, most, given_priority, seed, fixed = drawn
    prompt = [*_prompt(0, min(length, 40)), *_prompt(number, max(0, length - 40))]  # all begin alike
    return plan(
        prompt, most, seed=seed, scope=None if fixed else "us", reproducible=fixed, priority=priority(given_priority)
    )


def _answers(
    model: CausalModel, own: Sequence[Drawn], late: dict[int, Drawn], priority: Callable[[int], int]
) -> list[list[int]]:
    driver = Driver(model, cache_tokens=800, max_batch=3, step_tokens=64, extra_rows=1)
    asked = [driver.ask(_plan(number, drawn, priority)) for number, drawn in enumerate(own)]
    come = {layer: _plan(100 + layer, drawn, priority) for layer, drawn in late.items()}
    with arriving(driver, come) as jobs:
        driver.finish()
        for layer in sorted(set(come) - set(jobs)):  # it was over before
            jobs[layer] = driver.alone(come[layer]).job
        driver.finish()
    return [one.tokens() for one in (*asked, *(driver._asked[jobs[layer]] for layer in sorted(jobs)))]


@settings(max_examples=30)
@given(first, newcomers)
def test_priorities_and_interruptions_change_no_answer(
    tiny: CausalModel, own: list[Drawn], late: dict[int, Drawn]
) -> None:
    """Greedy and drawn, with prefix hits and lost memory, reproducible or not: as when all are alike, and as alone."""
    found = _answers(tiny, own, late, lambda given_priority: given_priority)
    assert found == _answers(tiny, own, late, lambda _: 1)
    plans = [_plan(number, drawn, lambda _: 1) for number, drawn in enumerate(own)]
    plans += [_plan(100 + layer, late[layer], lambda _: 1) for layer in sorted(late)]
    assert found == [Driver(tiny).alone(one).tokens() for one in plans]


def test_reproducible_rows_keep_every_bit(half_tiny: CausalModel) -> None:
    """In a type in which nothing else would."""
    asked = plan(_prompt(3, 150), 20, seed=5, reproducible=True, priority=2)
    alone = Driver(half_tiny).alone(asked)
    driver = Driver(half_tiny, max_batch=4, extra_rows=2)
    mine = driver.ask(asked)
    with arriving(driver, {layer: plan(_prompt(layer, 50), 6, priority=layer % 2) for layer in range(1, 80, 7)}):
        driver.finish()
    assert _given_up(driver) > 3
    assert (mine.tokens(), mine.logprobs()) == (alone.tokens(), alone.logprobs())


def test_several_answers_to_one_prompt(tiny: CausalModel) -> None:
    plans = [plan(_prompt(1, 100), 10, seed=7, scope="us", priority=2)] * 3
    expected = Driver(tiny).alone(plans[0]).tokens()
    driver = Driver(tiny)
    asked = driver.ask(*plans)
    with arriving(driver, {layer: plan(_prompt(layer, 30), 3, priority=1) for layer in (1, 6, 11)}):
        driver.finish()
    assert _given_up(driver) >= 2
    assert asked.cached == [0, 96, 96]
    assert [asked.tokens(index) for index in range(3)] == [expected] * 3
