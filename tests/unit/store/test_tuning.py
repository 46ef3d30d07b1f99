"""Jobs and events in the database: what changes together, and what may not change any more."""

from dataclasses import replace

import pytest

from terascope.core.errors import Conflict, NotFound
from terascope.core.tuning import TUNING_TRANSITIONS, TuningMethod, TuningStatus
from terascope.store.database import Database
from terascope.store.tuning import CHECKPOINT, JobChange, JobRow, Said, TuningStore

ROW = JobRow(
    "ftjob_1", "req_1", "local", "ada", "key_1", 5.0, TuningMethod.SOFT_PROMPT, "soft_prompt", "m@1", "d" * 64,
    "file_1", "", "tone", -(2**63), {"vectors": 3, "hidden": [1, 2]}, {"a": "b"},
)  # fmt: skip


@pytest.fixture
async def store(database: Database) -> TuningStore:
    found = TuningStore(database)
    await found.add(ROW, Said("made"))
    return found


async def test_what_was_stored_comes_back(store: TuningStore) -> None:
    assert await store.get(ROW.id) == ROW
    assert await store.get("ftjob_2") is None
    with pytest.raises(NotFound):
        await store.add(replace(ROW, id="ftjob_2", project="nobody's"), Said("made"))


async def test_a_change_and_its_events_are_one(store: TuningStore) -> None:
    values = {"status": "queued", "most_tokens": 2**40, "handle": {"pid": 3}}
    row = await store.change(JobChange(ROW.id, 6.0, values, [Said("one"), Said("two", "warn", data={"x": 1})]))
    assert row == await store.get(ROW.id)
    assert (row.status, row.most_tokens, row.handle) == (TuningStatus.QUEUED, 2**40, {"pid": 3})
    told = await store.events(ROW.id, 10)
    assert [(one.message, one.level, one.time) for one in told] == [
        ("two", "warn", 6.0), ("one", "info", 6.0), ("made", "info", 5.0)
    ]  # fmt: skip
    with pytest.raises(Conflict):
        await store.change(JobChange(ROW.id, 7.0, {"status": "succeeded"}, [Said("three")]))
    assert await store.events(ROW.id, 10) == told


@pytest.mark.parametrize("status", list(TuningStatus))
async def test_only_what_the_table_says(store: TuningStore, status: TuningStatus) -> None:
    ways = {
        TuningStatus.VALIDATING: [], TuningStatus.QUEUED: ["queued"], TuningStatus.RUNNING: ["queued", "running"],
        TuningStatus.SUCCEEDED: ["queued", "running", "succeeded"], TuningStatus.FAILED: ["failed"],
        TuningStatus.CANCELLED: ["cancelled"],
    }  # fmt: skip
    for one in ways[status]:
        await store.change(JobChange(ROW.id, 6.0, {"status": one}))
    for wanted in TuningStatus:
        if wanted in TUNING_TRANSITIONS[status] or (wanted is status and not status.final):
            continue
        with pytest.raises(Conflict, match=f"is {status}"):
            await store.change(JobChange(ROW.id, 7.0, {"status": wanted.value}))
    assert status.final == (not TUNING_TRANSITIONS[status])


async def test_events_come_in_pages_both_ways(store: TuningStore) -> None:
    said = [Said(str(number), kind=CHECKPOINT if number % 3 == 0 else "metrics") for number in range(10)]
    for start in range(0, 10, 4):
        await store.change(JobChange(ROW.id, 6.0, {}, said[start : start + 4]))
    forward, after = [], ""
    while page := await store.events(ROW.id, 3, after=after, oldest_first=True):
        forward += [one.message for one in page]
        after = page[-1].id
    assert forward == ["made", *map(str, range(10))]
    backward, after = [], ""
    while page := await store.events(ROW.id, 3, after=after):
        backward += [one.message for one in page]
        after = page[-1].id
    assert backward == forward[::-1]
    assert [one.message for one in await store.events(ROW.id, 9, kind=CHECKPOINT)] == ["9", "6", "3", "0"]


async def test_jobs_of_a_project_newest_first(store: TuningStore) -> None:
    for number in (2, 3, 4):
        await store.add(replace(ROW, id=f"ftjob_{number}"), Said("made"))
    assert [one.id for one in await store.of("local", 2)] == ["ftjob_4", "ftjob_3"]
    assert [one.id for one in await store.of("local", 5, after="ftjob_3")] == ["ftjob_2", "ftjob_1"]
    assert await store.of("another", 5) == []
