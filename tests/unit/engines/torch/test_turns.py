"""Who computes when: every row gets on, whoever comes with it, and no two write to the same place."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from terascope.engines.torch.cache import BLOCK, BlockPool, blocks_for
from terascope.engines.torch.rows import Row, RowPlan, Turn
from terascope.engines.torch.sampling import Sampling, TokenInfo
from terascope.engines.torch.schedule import Scheduler
from terascope.engines.worker.text import TokenTable

FIXED_ROWS = 3
LONG = 10_000


class Words:
    """As much of a vocabulary as a row asks for."""

    table = TokenTable([b"a"] * 100, ())
    ends = (99,)
    grammars = None


@dataclass(frozen=True)
class Wish:
    """A row to come: `prefix` blocks that others of its scope begin with too, then tokens of its own."""

    request: int = 0
    prefix: int = 0
    own: int = 1
    most: int = 1
    scope: str | None = None
    score: int | None = None
    reproducible: bool = False
    step: int = 0  # when it comes
    priority: int = 1

    def row(self, number: int) -> Row:
        prompt = [3] * (self.prefix * BLOCK) + [number + 10] * self.own
        plan = RowPlan(
            prompt,
            Sampling(),
            self.most,
            score_prompt=self.score,
            scope=None if self.reproducible else self.scope,
            reproducible=self.reproducible,
            priority=self.priority,
        )
        return Row(number, plan, Words(), self.request)  # type: ignore[arg-type]


class Engine:
    """Does with a scheduler what the loop does, and sees in every step that nobody is wronged."""

    def __init__(self, blocks: int = 1000, max_batch: int = 4, step_tokens: int = 512, extra_rows: int = 0) -> None:
        self.pool = BlockPool(blocks * BLOCK)
        self.schedule = Scheduler(self.pool, max_batch, step_tokens, FIXED_ROWS, extra_rows)
        self.max_batch = max_batch
        self.extra_rows = extra_rows
        self.step_tokens = self.schedule._step_tokens
        self.rows: list[Row] = []
        self.steps = 0
        self.content: dict[int, list[int]] = {}  # what was written to every block

    def add(self, wish: Wish) -> Row:
        row = wish.row(len(self.rows))
        self.rows.append(row)
        self.schedule.add(row)
        return row

    def step(self) -> list[Turn]:
        turns = self.schedule.plan()
        self._check(turns)
        for turn in turns:
            self._compute(turn)
        self.pool.check()
        self.steps += 1
        return turns

    def until(self, row: Row, made: int = 1, limit: int = 1000) -> int:
        """Take steps until `row` has made so many tokens; return how many those were."""
        for count in range(limit):
            if row.made >= made:
                return count
            self.step()
        pytest.fail(f"not done after {limit} steps")

    def finish(self, limit: int) -> None:
        while self.schedule.running or self.schedule.waiting:
            assert self.steps < limit
            assert self.step()
        assert self.pool.free == self.pool.blocks

    def _check(self, turns: Sequence[Turn]) -> None:
        running = self.schedule.running
        assert len(running) <= self.max_batch + self.extra_rows
        assert sum(row.priority == 2 for row in running) <= self.max_batch
        assert len({turn.row for turn in turns}) == len(turns)
        assert len({turn.fixed for turn in turns}) <= 1
        if turns and turns[0].fixed:
            alone = len(turns) == 1 and turns[0].span.count <= 128
            assert alone or (len(turns) <= FIXED_ROWS and all(turn.span.count == 1 for turn in turns))
        else:
            assert sum(turn.span.count for turn in turns) <= self.step_tokens
        written: list[tuple[int, int]] = []
        for turn in turns:
            assert turn.row in self.schedule.running
            assert turn.fixed is turn.row.plan.reproducible
            assert turn.span.count > 0
            assert turn.span.start == turn.row.computed
            assert len(turn.row.blocks) == len(set(turn.row.blocks)) >= blocks_for(turn.span.end)
            written += [(turn.row.blocks[at // BLOCK], at % BLOCK) for at in range(turn.span.start, turn.span.end)]
        assert len(written) == len(set(written))
        own = {block for block, _ in written}
        for block in own:
            assert sum(block in row.blocks for row in self.schedule.running) == 1

    def _compute(self, turn: Turn) -> None:
        """Write the tokens down, having seen that those before them are what the row believes."""
        row = turn.row
        for number in range(blocks_for(turn.span.end)):
            first = number * BLOCK
            held = self.content.setdefault(row.blocks[number], [])
            del held[max(0, turn.span.start - first) :]
            assert held == row.tokens[first : min(first + BLOCK, turn.span.start)]
            held += row.tokens[first + len(held) : min(first + BLOCK, turn.span.end)]
        chooses = turn.chooses
        through = turn.span.end == len(row.tokens)
        row.computed = turn.span.end
        row.scored += len(row.scores(turn.span))
        if chooses:
            row.take(TokenInfo(1))
            self.schedule.publish(row)
        if through and row.made == row.plan.max_tokens:
            assert not row.unscored
            self.schedule.drop(row)


wishes = st.builds(
    Wish,
    request=st.integers(0, 3),
    prefix=st.integers(0, 4),
    own=st.integers(1, 70),
    most=st.integers(0, 40),
    scope=st.sampled_from([None, "a", "b"]),
    score=st.sampled_from([None, None, 1]),
    reproducible=st.sampled_from([False, False, True]),
    step=st.integers(0, 30),
    priority=st.integers(0, 2),
)


@settings(max_examples=150)
@given(
    st.lists(wishes, min_size=1, max_size=12),
    st.integers(11, 40),
    st.integers(1, 6),
    st.sampled_from([1, 30, 64, 512]),
    st.integers(0, 2),
)
def test_everybody_gets_everything(
    given_wishes: list[Wish], blocks: int, max_batch: int, step_tokens: int, extra_rows: int
) -> None:
    engine = Engine(blocks, max_batch, step_tokens, extra_rows)
    tokens = sum(wish.prefix * BLOCK + wish.own + wish.most for wish in given_wishes)
    for now in range(31):
        for wish in given_wishes:
            if wish.step == now:
                engine.add(wish)
        engine.step()
    engine.finish(limit=31 + 4 * tokens)
    assert sorted(row.made for row in engine.rows) == sorted(wish.most for wish in given_wishes)


@settings(max_examples=50)
@given(st.lists(wishes, min_size=2, max_size=10), st.data())
def test_who_leaves_takes_nothing_along(given_wishes: list[Wish], data: st.DataObject) -> None:
    engine = Engine(20, 4, 64)
    rows = [engine.add(wish) for wish in given_wishes]
    leaving = data.draw(st.lists(st.sampled_from(rows), unique=True))
    for row in leaving:
        for _ in range(data.draw(st.integers(0, 5))):
            engine.step()
        engine.schedule.drop(row)
        assert row.blocks == []
        engine.pool.check()
    engine.finish(limit=10_000)
    stayed = [(row, wish) for row, wish in zip(rows, given_wishes, strict=True) if row not in leaving]
    assert all(row.made == wish.most for row, wish in stayed)


def test_a_prefix_is_computed_once() -> None:
    engine = Engine()
    first = engine.add(Wish(prefix=4, own=5, most=3, scope="a"))
    engine.finish(limit=10)
    assert first.cached == 0
    second, stranger = engine.add(Wish(1, prefix=4, own=5, scope="a")), engine.add(Wish(2, prefix=4, own=5, scope="b"))
    turns = {turn.row: turn.span for turn in engine.step()}
    assert (turns[second].start, turns[second].count, second.cached) == (4 * BLOCK, 5, 4 * BLOCK)
    assert (turns[stranger].start, stranger.cached) == (0, 0)


def test_a_whole_prompt_that_is_known_is_computed_from_its_last_block_on() -> None:
    """Something must give the logits."""
    engine = Engine()
    engine.add(Wish(prefix=5, own=1, scope="a"))
    engine.finish(limit=20)
    row = engine.add(Wish(prefix=5, own=0, scope="a"))
    (turn,) = engine.step()
    assert (turn.span.start, turn.span.count, row.cached, row.made) == (4 * BLOCK, BLOCK, 4 * BLOCK, 1)


def test_a_request_of_many_rows_does_not_hold_up_one_of_one() -> None:
    engine = Engine(max_batch=4)
    for _ in range(100):
        engine.add(Wish(request=1, own=20, most=5))
    engine.step()
    late = engine.add(Wish(request=2, own=20, most=5))
    assert engine.until(late) <= 2 * 5  # those that run, and at most one more of the others


def test_requests_take_turns_whatever_their_rows() -> None:
    engine = Engine(max_batch=1)
    for request, count in ((1, 5), (2, 2), (3, 1)):
        for _ in range(count):
            engine.add(Wish(request=request))
    order: list[object] = []
    while turns := engine.step():
        order += [turn.row.group for turn in turns]
    assert order == [1, 2, 3, 1, 2, 1, 1, 1]


@pytest.mark.parametrize("step_tokens", [40, 100, 128, 512])
def test_a_long_prompt_does_not_hold_up_a_short_one(step_tokens: int) -> None:
    engine = Engine(max_batch=8, step_tokens=step_tokens)
    long = engine.add(Wish(own=LONG))
    engine.step()
    short = engine.add(Wish(request=1, own=100))
    needed = 100 + 2 * 128  # its own tokens, and one turn of the other before and after
    assert engine.until(short) <= -(-needed // step_tokens) + 1
    assert long.made == 0
    engine.until(long, limit=LONG)


def test_many_long_prompts_share_the_steps() -> None:
    engine = Engine(blocks=3000, step_tokens=200)
    rows = [engine.add(Wish(request=number, own=4000)) for number in range(4)]
    for _ in range(20):
        engine.step()
    assert max(row.computed for row in rows) - min(row.computed for row in rows) <= 200


def test_reproducible_rows_answer_while_others_read() -> None:
    """New prompts keep coming; who answers gets its turn all the same."""
    engine = Engine(max_batch=3)
    row = engine.add(Wish(request=-1, own=5, most=20, reproducible=True))
    engine.until(row)
    for number in range(20 * 3 * 2):
        if row.made == 20:
            break
        while len(engine.schedule.running) + len(engine.schedule.waiting) < 6:
            engine.add(Wish(request=number, own=200, reproducible=True))
        engine.step()
    assert row.made == 20


def test_reproducible_rows_and_others_take_turns() -> None:
    engine = Engine(max_batch=8)
    fixed = [engine.add(Wish(own=5, most=50, reproducible=True)) for _ in range(2)]
    free = [engine.add(Wish(own=5, most=50)) for _ in range(2)]
    for _ in range(40):
        engine.step()
    assert all(15 <= row.made <= 25 for row in fixed + free)


@pytest.mark.parametrize("length", [1, 2, 127, 128, 129, 300])
def test_reproducible_prompts_are_cut_at_the_same_places(length: int) -> None:
    """Also when the row lost its blocks in between."""
    seen: list[list[tuple[int, int]]] = []
    for lost in (False, True):
        engine = Engine()
        row = engine.add(Wish(own=length, most=3, reproducible=True))
        engine.until(row, made=2)
        if lost:
            engine.schedule._preempt(row)
        spans: list[tuple[int, int]] = []
        while row.made < 3:
            spans += [(turn.span.start, turn.span.count) for turn in engine.step()]
        seen.append(spans)
    prompt = [(at, min(128, length - at)) for at in range(0, length, 128)]
    assert seen[1] == [*prompt, (length, 1), (length + 1, 1)]
    assert seen[0] == seen[1][-1:]


def test_a_row_that_was_put_back_is_told_its_first_hits_only() -> None:
    engine = Engine()
    engine.add(Wish(prefix=2, own=3, scope="a"))
    engine.finish(limit=5)
    row = engine.add(Wish(prefix=2, own=3, most=40, scope="a"))
    engine.until(row, made=35)
    engine.schedule._preempt(row)
    engine.until(row, made=36)
    assert row.cached == 2 * BLOCK


def test_dropping_twice_and_dropping_strangers() -> None:
    engine = Engine(max_batch=1)
    running, waiting = engine.add(Wish(most=5)), engine.add(Wish())
    engine.step()
    freed = [engine.schedule.drop(row) for row in (running, waiting, running, waiting, Wish().row(9))]
    assert freed == [[1], [], [], [], []]
    assert not engine.schedule.running
    assert not engine.schedule.waiting
