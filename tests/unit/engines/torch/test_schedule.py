from hypothesis import given
from hypothesis import strategies as st

from terascope.engines.torch.cache import BLOCK, BlockPool
from terascope.engines.torch.rows import Row, RowPlan, Turn
from terascope.engines.torch.sampling import Sampling, TokenInfo
from terascope.engines.torch.schedule import Scheduler
from terascope.engines.worker.text import TokenTable


class Words:
    """As much of a vocabulary as a row asks for."""

    table = TokenTable([b"a"] * 100, ())
    ends = (99,)
    grammars = None


def _row(prompt: int, max_tokens: int = 100, score: int | None = None) -> Row:
    plan = RowPlan(list(range(prompt)), Sampling(), max_tokens, score_prompt=score)
    return Row(0, plan, Words())  # type: ignore[arg-type]


def _run(turns: list[Turn]) -> None:
    """What the loop does after computing: every row that is through gets a token."""
    for turn in turns:
        chooses = turn.chooses
        turn.row.computed = turn.span.end
        turn.row.scored += len(turn.row.scores(turn.span))
        if chooses:
            turn.row.take(TokenInfo(1))


def _scheduler(blocks: int = 64, max_batch: int = 4, step_tokens: int = 40) -> Scheduler:
    return Scheduler(BlockPool(blocks * BLOCK), max_batch, step_tokens)


def test_rows_run_in_the_order_of_their_coming() -> None:
    schedule = _scheduler()
    rows = [_row(5) for _ in range(6)]
    for row in rows:
        schedule.add(row)
    assert [turn.row for turn in schedule.plan()] == rows[:4]
    assert list(schedule.waiting) == rows[4:]


def test_a_row_that_leaves_makes_room_in_the_next_step() -> None:
    schedule = _scheduler(max_batch=1)
    first, second = _row(5), _row(5)
    schedule.add(first)
    schedule.add(second)
    _run(schedule.plan())
    schedule.drop(first)
    assert [turn.row for turn in schedule.plan()] == [second]
    schedule.drop(second)
    schedule.drop(second)
    assert schedule.plan() == []


def test_a_long_prompt_is_cut_and_answers_go_on_beside_it() -> None:
    schedule = _scheduler()
    quick, long = _row(3), _row(100)
    schedule.add(quick)
    _run(schedule.plan())
    schedule.add(long)
    steps = []
    for _ in range(3):
        turns = schedule.plan()
        steps.append([(turn.row is quick, turn.span.start, turn.span.count) for turn in turns])
        _run(turns)
    assert steps == [
        [(True, 3, 1), (False, 0, 39)],
        [(True, 4, 1), (False, 39, 39)],
        [(True, 5, 1), (False, 78, 22)],
    ]
    assert long.made == 1


def test_prompts_get_on_however_many_rows_answer() -> None:
    schedule = _scheduler(max_batch=4, step_tokens=1)
    for _ in range(3):
        schedule.add(_row(2))
        _run(schedule.plan())
    schedule.add(_row(50))
    assert schedule.plan()[-1].span.count > 10


def test_scored_prompts_are_cut_smaller() -> None:
    schedule = _scheduler(step_tokens=1000, blocks=100)
    schedule.add(_row(600, score=1))
    counts = []
    while not schedule.running or not schedule.running[0].made:
        turns = schedule.plan()
        counts.append(turns[0].span.count)
        _run(turns)
    assert max(counts) == 128
    assert sum(counts) == 600


def test_the_youngest_gives_its_blocks_to_the_oldest() -> None:
    schedule = _scheduler(blocks=5, step_tokens=100)
    old, young = _row(2 * BLOCK), _row(2 * BLOCK)
    schedule.add(old)
    schedule.add(young)
    _run(schedule.plan())
    assert [turn.row for turn in schedule.plan()] == [old]
    assert list(schedule.waiting) == [young]
    assert young.computed == 0
    assert young.blocks == []
    assert young.made == 1
    assert schedule.preemptions == 1


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=8))
def test_every_row_gets_its_tokens_whatever_the_memory(sizes: list[tuple[int, int]]) -> None:
    schedule = _scheduler(blocks=9, max_batch=4, step_tokens=30)
    free = schedule._pool.free
    rows = [_row(prompt, most) for prompt, most in sizes]
    for row in rows:
        schedule.add(row)
    for _ in range(3000):
        turns = schedule.plan()
        if not turns:
            break
        for turn in turns:
            assert len(turn.row.blocks) * BLOCK >= turn.span.end
        _run(turns)
        for turn in turns:
            if turn.row.made == turn.row.plan.max_tokens:
                schedule.drop(turn.row)
    assert [row.made for row in rows] == [most for _, most in sizes]
    assert schedule._pool.free == free
