"""Rows of vector stores and of the files in them, on every kind of database."""

from dataclasses import replace

import pytest

from terascope.core.errors import NotFound
from terascope.core.states import Ingestion
from terascope.store.database import Database
from terascope.store.projects import ProjectRow, ProjectStore
from terascope.store.vector_store_files import BatchRow, Counts, EntryRow, Step, VectorStoreFileStore
from terascope.store.vector_stores import StoreRow, VectorStoreStore, newer

STORE = StoreRow("vs_1", "local", "ada", "key_1", "sky", "m@1", 10.0, 10.0, labels={"a": "b"}, lasts_days=2)
ENTRY = EntryRow("vs_1", "file_1", "vsf_1", "a.txt", "ada", "key_1", 10.0, attributes={"n": 1.5, "ok": True})


@pytest.fixture
async def stores(database: Database) -> VectorStoreStore:
    made = VectorStoreStore(database)
    await made.add(STORE)
    return made


@pytest.fixture
def files(database: Database) -> VectorStoreFileStore:
    return VectorStoreFileStore(database)


async def test_stores_by_pages(database: Database, stores: VectorStoreStore) -> None:
    await ProjectStore(database).add(ProjectRow("ocean", "", 1.0))
    rows = [STORE, *(replace(STORE, id=f"vs_{number}", labels={}, lasts_days=None) for number in range(2, 6))]
    for row in rows[1:]:
        await stores.add(row)
    await stores.add(replace(STORE, id="vs_9", project="ocean"))
    assert await stores.get("vs_1") == STORE
    assert STORE.expires == 10.0 + 2 * 86_400
    assert await stores.of("local", 10) == rows[::-1]
    assert await stores.of("local", 2, order="asc", after="vs_2") == rows[2:4]
    assert await stores.of("local", 9, after="vs_4", before="vs_1") == [rows[2], rows[1]]
    assert await stores.of("local", 9, order="asc", after="vs_2", before="vs_5") == rows[2:4]
    assert [row.id for row in await stores.all()] == [*(row.id for row in rows), "vs_9"]
    with pytest.raises(NotFound, match="there is no project"):
        await stores.add(replace(STORE, id="vs_8", project="nowhere"))


async def test_changes(stores: VectorStoreStore) -> None:
    changed = replace(STORE, name="stars", labels={}, lasts_days=None, active=20.0)
    await stores.change(changed)
    assert await stores.get("vs_1") == changed
    await stores.touch("vs_1", 30.0)
    assert await stores.get("vs_1") == replace(changed, active=30.0)


async def test_a_store_goes_with_all_that_hangs_on_it(stores: VectorStoreStore, files: VectorStoreFileStore) -> None:
    batch = BatchRow("vsfb_1", "vs_1", 10.0)
    assert await files.ask([replace(ENTRY, batch="vsfb_1")], batch)
    await stores.use("vs_1", 0, 12.0)
    assert await stores.remove("vs_1")
    assert not await stores.remove("vs_1")
    assert await files.get("vs_1", "file_1") is None
    assert await files.batch("vs_1", "vsfb_1") is None
    assert not await files.ask([ENTRY])
    assert not await files.advance(Step(newer(STORE), (), 20.0))
    await stores.use("vs_1", 0, 13.0)
    assert await stores.oldest_used("vs_1", 0.0) is None


async def test_files_by_pages(stores: VectorStoreStore, files: VectorStoreFileStore) -> None:
    rows = [replace(ENTRY, file=f"file_{9 - n}", attempt=f"vsf_{n}", batch="ab"[n % 2]) for n in range(5)]
    assert await files.ask(rows)
    assert await files.of("vs_1", 9) == rows[::-1]
    assert await files.of("vs_1", 2, order="asc", after="file_8") == rows[2:4]
    assert await files.of("vs_1", 9, after="file_6", before="file_9") == [rows[2], rows[1]]
    assert await files.of("vs_1", 9, order="asc", batch="a") == rows[::2]
    assert await files.of("vs_1", 9, status="completed") == []
    assert await files.waiting("vs_1", 2) == rows[:2]
    assert await files.unfinished() == ["vs_1"]
    assert await files.some("vs_1", ["file_9", "file_0"]) == rows[:1]


async def test_a_version_and_what_it_says_of_files(stores: VectorStoreStore, files: VectorStoreFileStore) -> None:
    others = [replace(ENTRY, file=f"file_{n}", attempt=f"vsf_{n}") for n in (2, 3)]
    await files.ask([ENTRY, *others])
    done = replace(ENTRY, status=Ingestion.COMPLETED, usage=100, passages=2)
    failed = replace(others[0], status=Ingestion.FAILED, error="invalid_file", message="empty")
    assert await files.advance(Step(newer(STORE, 8), [done, failed], 20.0, ("file_3",)))
    assert await stores.get("vs_1") == replace(STORE, version=1, width=8, active=20.0)
    assert await files.of("vs_1", 9, order="asc") == [done, failed]
    assert await files.counts("vs_1") == Counts({Ingestion.COMPLETED: 1, Ingestion.FAILED: 1}, 100)
    assert await files.usage("local") == 100
    assert await files.usage("ocean") == 0
    assert await files.unfinished() == []


async def test_what_was_asked_for_again_is_not_settled_by_the_first_asking(
    stores: VectorStoreStore, files: VectorStoreFileStore
) -> None:
    await files.ask([ENTRY])
    again = replace(ENTRY, attempt="vsf_2")
    await files.ask([again])
    await files.settle([replace(ENTRY, status=Ingestion.FAILED)])
    await files.advance(Step(newer(STORE), [replace(ENTRY, status=Ingestion.COMPLETED)], 20.0))
    assert await files.get("vs_1", "file_1") == again


async def test_batches(stores: VectorStoreStore, files: VectorStoreFileStore) -> None:
    batch = BatchRow("vsfb_1", "vs_1", 10.0)
    rows = [replace(ENTRY, file=f"file_{n}", attempt=f"vsf_{n}", batch="vsfb_1") for n in range(3)]
    await files.ask(rows, batch)
    await files.settle([replace(rows[0], status=Ingestion.COMPLETED)])
    assert await files.batch("vs_1", "vsfb_1") == batch
    assert await files.batch("vs_2", "vsfb_1") is None
    await files.cancel("vsfb_1")
    assert await files.batch("vs_1", "vsfb_1") == replace(batch, cancelled=True)
    counts = await files.counts("vs_1", "vsfb_1")
    assert (counts.of(Ingestion.COMPLETED), counts.of(Ingestion.CANCELLED)) == (1, 2)


async def test_which_versions_were_used(stores: VectorStoreStore, files: VectorStoreFileStore) -> None:
    """Each at least until the next came; a later use counts too, and what is not kept is forgotten."""
    row = STORE
    for now in (20.0, 30.0, 40.0):
        row = newer(row)
        await files.advance(Step(row, (), now))
    assert [await stores.oldest_used("vs_1", since) for since in (0.0, 21.0, 31.0, 40.0)] == [0, 1, 2, 2]
    assert await stores.oldest_used("vs_1", 41.0) is None
    await stores.use("vs_1", 1, 50.0)
    assert await stores.oldest_used("vs_1", 41.0) == 1
    await stores.keep_from("vs_1", 2)
    assert await stores.oldest_used("vs_1", 0.0) == 2
    await stores.keep_from("vs_1", 1)
    found = await stores.get("vs_1")
    assert found is not None
    assert (found.kept, found.version) == (2, 3)
