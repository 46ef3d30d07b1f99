"""Run records come back as they went in, newest first."""

from dataclasses import replace

import pytest

from terascope.core.clock import SystemClock
from terascope.core.config import RecordsConfig
from terascope.core.errors import NotFound
from terascope.core.ids import lowest_id, new_id
from terascope.core.runs import RunRecord
from terascope.core.states import Outcome
from terascope.provenance.recorder import Recorder
from terascope.store.database import Database
from terascope.store.runs import RunStore

RECORD = RunRecord(
    id="req_5",
    started=1000.0,
    endpoint="chat/completions",
    key_id="key_a",
    model="m@1",
    parameters={"seed": 7, "applied": {"temperature": 1.0}},
    stream=True,
    outcome=Outcome.COMPLETED,
    status=200,
    prompt_tokens=3,
    completion_tokens=4,
    cached_tokens=2,
    total_s=0.5,
)


async def test_a_record_comes_back_as_it_was(database: Database) -> None:
    store = RunStore(database)
    await store.add(RECORD)
    assert await store.get("req_5") == RECORD
    assert await store.get("req_6") is None


async def test_newest_first_by_key_model_and_page(database: Database) -> None:
    store = RunStore(database)
    for number in range(6):
        owner = "key_a" if number % 2 else "key_b"
        await store.add(replace(RECORD, id=f"req_{number}", key_id=owner, model=f"m@{number % 3}"))
    assert [run.id for run in await store.newest(2)] == ["req_5", "req_4"]
    assert [run.id for run in await store.newest(9, key_id="key_a")] == ["req_5", "req_3", "req_1"]
    assert [run.id for run in await store.newest(9, model="m@0")] == ["req_3", "req_0"]
    assert [run.id for run in await store.newest(2, before="req_4")] == ["req_3", "req_2"]


async def test_old_records_are_forgotten(database: Database) -> None:
    store = RunStore(database)
    clock = SystemClock()
    old, new = lowest_id("req", clock.now() - 40 * 86400), new_id("req")
    await store.add(replace(RECORD, id=old))
    await store.add(replace(RECORD, id=new))
    assert await Recorder(store, RecordsConfig(retention_days=0), clock).forget_old() == 0
    assert await Recorder(store, RecordsConfig(retention_days=30), clock).forget_old() == 1
    assert [run.id for run in await store.newest(9)] == [new]


async def test_another_keys_record_is_not_found(database: Database) -> None:
    recorder = Recorder(RunStore(database), RecordsConfig(), SystemClock())
    await recorder.save(RECORD)
    assert (await recorder.get("req_5", key_id="key_a")).id == "req_5"
    with pytest.raises(NotFound):
        await recorder.get("req_5", key_id="key_b")
