"""Rows of files, on every kind of database."""

from dataclasses import replace

import pytest

from terascope.core.errors import NotFound, QuotaExceeded
from terascope.store.database import Database
from terascope.store.files import FileRow, FileStore
from terascope.store.projects import ProjectRow, ProjectStore

ROW = FileRow("file_1", "local", "ada", "key_1", "batch", "a.jsonl", 10, "0" * 64, 1.0)


@pytest.fixture
async def store(database: Database) -> FileStore:
    return FileStore(database)


async def test_in_order_by_pages_and_by_purpose(store: FileStore) -> None:
    rows = [replace(ROW, id=f"file_{number}", purpose="ab"[number % 2]) for number in range(5)]
    for row in rows:
        await store.add(row)
    assert await store.of("local", 10) == rows[::-1]
    assert await store.of("local", 2, order="asc", after="file_1") == rows[2:4]
    assert await store.of("local", 9, after="file_2") == rows[1::-1]
    assert await store.of("local", 9, order="asc", purpose="b") == rows[1::2]
    assert await store.of("other", 9) == []
    assert [list(ids) async for ids in store.ids()] == [[row.id for row in rows]]


async def test_the_bytes_of_a_project_have_a_limit(database: Database, store: FileStore) -> None:
    await ProjectStore(database).add(ProjectRow("ocean", "", 1.0))
    await store.add(replace(ROW, bytes=1 << 40), most=1 << 40)
    await store.add(replace(ROW, id="file_2", project="ocean"), most=10)
    with pytest.raises(QuotaExceeded, match="1,099,511,627,776"):
        await store.add(replace(ROW, id="file_3", bytes=1), most=1 << 40)
    assert await store.total("local") == (1, 1 << 40)
    assert await store.total() == (2, (1 << 40) + 10)
    assert await store.remove("file_1", "file_9") == 1
    await store.add(replace(ROW, id="file_3", bytes=1), most=1 << 40)


async def test_of_no_project(store: FileStore) -> None:
    with pytest.raises(NotFound, match="there is no project"):
        await store.add(replace(ROW, project="nowhere"))


async def test_what_has_expired(store: FileStore) -> None:
    await store.add(ROW)
    await store.add(replace(ROW, id="file_2", expires=5.0))
    assert await store.expired(4.9) == []
    assert await store.expired(5.0) == ["file_2"]
    assert [row.id for row in await store.of("local", 9, now=5.0)] == ["file_1"]
    assert (await store.get("file_2")) == replace(ROW, id="file_2", expires=5.0)
    assert await store.get("file_9") is None
