"""Whose turn comes first among rows of different priority, and that nobody waits forever."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from terascope.engines.torch.encoder import Encoder, load_encoder
from terascope.engines.torch.intake import Terms
from terascope.engines.torch.model import CausalModel
from terascope.engines.torch.precedence import Precedence
from terascope.engines.torch.settings import WorkerSettings

from .conftest import Client
from .test_turns import Engine, Wish

TEXT = "v1/completions"
Start = Callable[..., Any]


def _saturated(engine: Engine, rows: int) -> Engine:
    """`rows` batch rows answer, as many wait."""
    for number in range(2 * rows):
        engine.add(Wish(request=100 + number, own=20, most=60, priority=2))
    for _ in range(rows):
        engine.step()
    return engine


@given(st.lists(st.sets(st.integers(0, 4), min_size=1), max_size=60), st.integers(1, 5))
def test_who_waits_is_passed_over_so_often_and_no_more(rounds: list[set[int]], patience: int) -> None:
    precedence = Precedence(patience)
    passed: dict[int, int] = {}
    for waiting in rounds:
        first = precedence.first(waiting)
        assert first == min(waiting) or passed[first] >= patience
        precedence.took(first, waiting)
        passed = {one: passed.get(one, 0) + 1 for one in waiting if one != first}
        assert all(count <= patience + 4 for count in passed.values())  # all five may be overdue at once


def test_better_rows_are_let_in_first() -> None:
    engine = Engine(max_batch=1)
    wishes = [Wish(request=number, priority=priority) for number, priority in enumerate((2, 1, 2, 0, 1, 0))]
    rows = [engine.add(wish) for wish in wishes]
    order = [engine.step()[0].row for _ in wishes]
    assert order == [rows[number] for number in (3, 5, 1, 4, 0, 2)]


def test_a_row_that_waits_is_let_in_however_many_better_ones_come() -> None:
    engine = Engine(max_batch=1)
    waiting = [engine.add(Wish(request=priority, priority=priority)) for priority in (1, 2)]
    for number in range(20):
        engine.add(Wish(request=10 + number, priority=0))
        engine.step()
    assert [row.made for row in waiting] == [1, 1]


def test_places_beyond_the_batch_are_for_better_rows() -> None:
    engine = _saturated(Engine(max_batch=4, extra_rows=2), 4)
    better = [engine.add(Wish(request=number, own=20, most=60, priority=number % 2)) for number in range(3)]
    engine.step()
    assert [row in engine.schedule.running for row in better] == [True, False, True]
    assert engine.schedule.full
    assert len(engine.schedule.running) == 6


@pytest.mark.parametrize("extra_rows", [1, 2])
def test_a_better_row_has_its_first_token_in_the_next_step_and_the_step_for_itself(extra_rows: int) -> None:
    engine = _saturated(Engine(max_batch=4, step_tokens=128, extra_rows=extra_rows), 4)
    paused = [row for row in engine.schedule.running if row.made]
    blocks = [list(row.blocks) for row in paused]
    row = engine.add(Wish(own=128, most=5, priority=1))
    assert [turn.row for turn in engine.step()] == [row]
    assert row.made == 1
    assert [row.blocks for row in paused] == blocks
    assert {turn.row for turn in engine.step()} == {row, *engine.schedule.running}


def test_rows_of_one_priority_do_not_pause_for_each_other() -> None:
    engine = Engine(max_batch=3)
    quick = engine.add(Wish(most=60))
    engine.step()
    long = engine.add(Wish(request=1, own=2000))
    assert {turn.row for turn in engine.step()} == {quick, long}


def test_better_answers_wait_for_small_parts_of_worse_prompts_only() -> None:
    engine = Engine(max_batch=3)
    long = engine.add(Wish(request=1, own=2000, priority=2))
    assert engine.step()[0].span.count == 512
    better = engine.add(Wish(most=60))
    engine.until(better, made=5)
    assert {turn.row: turn.span.count for turn in engine.step()} == {better: 1, long: 128}
    engine.until(long)
    engine.until(better, made=60)
    later = engine.add(Wish(request=2, own=3000, priority=2))
    assert engine.step()[-1].span.count == 128  # the next better one may come soon
    engine.schedule.drop(later)
    engine.finish(limit=1000)


def test_worse_prompts_are_read_in_large_parts_when_no_better_row_has_come_for_long() -> None:
    engine = Engine(max_batch=3)
    engine.add(Wish(most=1, priority=1))
    batch = engine.add(Wish(request=1, most=300, priority=2))
    engine.until(batch, made=260)
    engine.add(Wish(request=2, own=2000, priority=2))
    assert [turn.span.count for turn in engine.step()] == [1, 511]


def _steps_of(engine: Engine, rows: set[object]) -> Iterator[bool]:
    """Whether any of `rows` has part in each of the steps to come, while better prompts come without end."""
    number = 0
    while True:
        while sum(row.reading for row in engine.schedule.running) + len(engine.schedule.waiting) < 4:
            engine.add(Wish(request=number, own=100, most=1, priority=number % 2))
            number += 1
        yield any(turn.row in rows for turn in engine.step())


def test_worse_rows_go_on_while_better_prompts_come_without_end() -> None:
    engine = Engine(max_batch=8, step_tokens=128, extra_rows=2)
    rows: set[object] = {engine.add(Wish(request=-number, own=20, most=60, priority=2)) for number in (1, 2)}
    engine.step()
    steps = _steps_of(engine, rows)
    had = [next(steps) for _ in range(80)]
    assert all(any(had[at : at + 4]) for at in range(len(had) - 4))
    assert not all(had)


def test_a_worse_prompt_is_read_while_better_ones_come_without_end() -> None:
    engine = Engine(max_batch=8, step_tokens=64)
    row = engine.add(Wish(request=-1, own=640, most=1, priority=2))
    steps = _steps_of(engine, {row})
    for _ in range(10 * 5):
        next(steps)
    assert row.made == 1


@settings(max_examples=60)
@given(
    st.lists(
        st.builds(
            Wish,
            request=st.integers(0, 3),
            own=st.integers(1, 300),
            most=st.integers(1, 30),
            step=st.integers(0, 40),
            priority=st.integers(0, 2),
        ),
        min_size=2,
        max_size=14,
    ),
    st.sampled_from([16, 64, 128, 512]),
)
def test_no_running_row_waits_more_than_three_steps_for_its_next_token(wishes: list[Wish], step_tokens: int) -> None:
    """Where memory suffices; and a row of the best priority that answers never waits."""
    engine = Engine(max_batch=4, step_tokens=step_tokens, extra_rows=1)
    since: dict[object, int] = {}
    for now in range(600):
        for wish in wishes:
            if wish.step == now:
                engine.add(wish)
        answering = [row for row in engine.schedule.running if row.pending == 1]
        had = {turn.row for turn in engine.step()}
        since = {row: 0 if row in had else since.get(row, 0) + 1 for row in answering}
        assert max(since.values(), default=0) <= 3
        assert all(row in had for row in answering if row.priority == 0)
    assert not engine.schedule.running


def test_the_youngest_of_the_worst_gives_its_blocks() -> None:
    engine = Engine(blocks=9, max_batch=4)
    batch = [engine.add(Wish(request=number, own=31, most=40, priority=2)) for number in range(2)]
    engine.step()
    better = [engine.add(Wish(request=9, own=31, most=40, priority=priority)) for priority in (0, 1)]
    engine.step()
    assert set(engine.schedule.running) == {batch[0], *better}
    engine.until(better[0], made=30)
    assert set(engine.schedule.running) == set(better)
    engine.finish(limit=1000)
    assert [row.made for row in engine.rows] == [40] * 4


def test_who_lets_nobody_in_by_leaving_keeps_its_blocks() -> None:
    """A better row that does not fit whatever the worse ones give waits for its equals."""
    engine = Engine(blocks=10, max_batch=4)
    equal, worse = engine.add(Wish(own=90, most=30)), engine.add(Wish(request=1, own=10, most=30, priority=2))
    engine.step()
    engine.add(Wish(request=2, own=100, most=1))
    engine.step()
    assert engine.schedule.running == [equal, worse]
    assert engine.schedule.preemptions == 0


def test_a_row_that_loses_its_memory_again_and_again_gets_through() -> None:
    engine = Engine(blocks=8, max_batch=2, extra_rows=1)
    row = engine.add(Wish(request=-1, own=30, most=30, priority=2))
    for number in range(300):
        if row.made == 30:
            break
        while len(engine.schedule.running) + len(engine.schedule.waiting) < 3:
            engine.add(Wish(request=number, own=60, most=10, priority=1))
        engine.step()
    assert row.made == 30
    assert engine.schedule.preemptions > 1


@pytest.mark.parametrize(
    ("said", "expected"),
    [("0", 0), ("1", 1), ("2", 2), ("", 1), ("3", 1), ("-1", 1), ("00", 1), ("1.0", 1), ("urgent", 1), ("\u0662", 1)],
)
def test_what_is_no_priority_is_taken_for_interactive(said: str, expected: int) -> None:
    assert Terms.read({"X-Terascope-Priority": said}) == Terms(None, expected)
    assert Terms.read({"X-Terascope-Scope": "us"}) == Terms("us", 1)


def _priority(priority: int) -> dict[str, str]:
    return {"X-Terascope-Priority": str(priority)}


async def test_a_worker_does_what_it_is_told(tiny: CausalModel, start: Start) -> None:
    """One place, which a long answer of batch has, and one for better ones."""
    client: Client = await start(tiny, max_batch=1, extra_rows=1)
    asked = {"model": "tiny", "prompt": "x", "seed": 1, "ignore_eos": True}
    long = {**asked, "max_tokens": 450, "stream": True}
    async with client.session.post(f"http://engine/{TEXT}", json=long, headers=_priority(2)) as response:
        await response.content.readany()
        status, answer, _ = await client.post(TEXT, {**asked, "max_tokens": 3}, headers=_priority(1))
        assert (status, answer["usage"]["completion_tokens"]) == (200, 3)
        (batch,) = client.server.loop._rows.values()
        assert batch[0].made < 450
        assert (await response.content.read()).endswith(b"[DONE]\n\n")


async def test_embeddings_have_priorities(encoder_dir: Path, start: Start) -> None:
    encoder: Encoder = load_encoder(WorkerSettings(encoder_dir, "tiny"), lambda _: None)
    client: Client = await start(encoder, step_tokens=8)
    many = {"model": "tiny", "input": ["the cat"] * 2000}
    first = asyncio.create_task(client.post("v1/embeddings", many, headers=_priority(2)))
    status, answer, _ = await client.post("v1/embeddings", {"model": "tiny", "input": "dog"}, headers=_priority(1))
    assert (status, len(answer["data"])) == (200, 1)
    assert not first.done()
    assert (await first)[0] == 200
