"""Files of projects: whole or not at all, within limits, tidied after a crash."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from terascope.core.config import FilesConfig
from terascope.core.errors import BodyTooLarge, FileLost, NotFound, QuotaExceeded, StorageFull
from terascope.files.blobs import Blobs
from terascope.files.directory import DirectoryShelf
from terascope.files.files import GRACE_S, Files
from terascope.store.database import Database
from terascope.store.files import FileRow
from terascope.testing.clock import ManualClock
from terascope.testing.databases import new_sqlite
from terascope.testing.shelves import SmallDisk

NOW = 1_800_000_000.0


async def chunks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


class Room:
    """Files over a directory and a database, opened anew as a start does it."""

    def __init__(self, database: Database, directory: Path, clock: ManualClock) -> None:
        self.database, self.directory, self.clock = database, directory, clock
        self.opened: list[Blobs] = []

    def files(self, *, room: int | None = None, **config: object) -> Files:
        shelf = DirectoryShelf(self.directory)
        self.opened.append(Blobs(shelf if room is None else SmallDisk(shelf, room)))
        return Files(self.database, self.opened[-1], FilesConfig(**config), self.clock)  # type: ignore[arg-type]

    @property
    def there(self) -> set[str]:
        return {path.name for path in self.directory.iterdir()}


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    database = await Database.open(new_sqlite(tmp_path / "test.db"))
    made = Room(database, tmp_path / "files", ManualClock(NOW))
    yield made
    for blobs in made.opened:
        await blobs.aclose()
    await database.aclose()


async def kept(files: Files, data: bytes = b"content", expires: float | None = None) -> FileRow:
    async with files.draft("local", "ada", "key_1") as draft:
        await draft.fill(chunks(data))
        return await draft.keep("user_data", "a.txt", expires)


async def content(files: Files, row: FileRow) -> bytes:
    return b"".join([piece async for piece in await files.content(row, 0, row.bytes)])


async def test_a_file_from_its_making_to_its_end(room: Room) -> None:
    files = room.files()
    row = await kept(files)
    assert (row.bytes, row.sha256, row.created) == (7, hashlib.sha256(b"content").hexdigest(), NOW)
    assert await room.files().get(row.id) == row
    assert await content(files, row) == b"content"
    assert await files.total("local") == (1, 7)
    await files.remove(row)
    assert room.there == set()
    with pytest.raises(NotFound):
        await files.get(row.id)
    with pytest.raises(NotFound):
        await files.remove(row)


async def abandoned(files: Files) -> None:
    async with files.draft("local", "ada", "key_1") as draft:
        await draft.fill(chunks(b"x"))
        raise RuntimeError("meanwhile")


async def test_what_is_not_kept_leaves_nothing(room: Room) -> None:
    files = room.files()
    async with files.draft("local", "ada", "key_1") as draft:
        await draft.fill(chunks(b"x"))
        assert room.there == {draft.id}
    with pytest.raises(RuntimeError, match="meanwhile"):
        await abandoned(files)
    assert room.there == set()
    assert await files.of("local", 10) == []


async def test_limits(room: Room) -> None:
    files = room.files(max_file_bytes=10, max_project_bytes=15)
    with pytest.raises(BodyTooLarge, match="10 bytes"):
        await kept(files, bytes(11))
    await kept(files, bytes(10))
    with pytest.raises(QuotaExceeded, match="keeps 10 bytes of files and may keep 15"):
        await kept(files, bytes(6))
    await kept(files, bytes(5))
    assert await files.total() == (2, 15)
    assert len(room.there) == 2
    other = room.files(max_project_bytes=1, projects={"local": 0})
    await kept(other, bytes(1000))


async def test_what_is_on_its_way_counts_too(room: Room) -> None:
    files = room.files(max_project_bytes=10)
    coming, go = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield bytes(8)
        coming.set()
        await go.wait()

    async def upload() -> FileRow:
        async with files.draft("local", "ada", "key_1") as draft:
            await draft.fill(slow())
            return await draft.keep("user_data", "slow", None)

    task = asyncio.create_task(upload())
    await coming.wait()
    with pytest.raises(QuotaExceeded):
        await kept(files, bytes(3))
    await kept(files, bytes(2))
    go.set()
    await task
    assert await files.total("local") == (2, 10)


async def test_two_gateways_do_not_go_over_it_together(room: Room) -> None:
    one, other = room.files(max_project_bytes=10), room.files(max_project_bytes=10)
    async with one.draft("local", "ada", "key_1") as first, other.draft("local", "ada", "key_2") as second:
        await first.fill(chunks(bytes(6)))
        await second.fill(chunks(bytes(6)))
        await first.keep("user_data", "first", None)
        with pytest.raises(QuotaExceeded):
            await second.keep("user_data", "second", None)
    assert room.there == {first.id}


async def test_a_full_disk_leaves_nothing(room: Room) -> None:
    files = room.files(room=5)
    with pytest.raises(StorageFull):
        await kept(files, bytes(6))
    assert room.there == set()
    assert await files.total() == (0, 0)
    await kept(files, bytes(5))


async def test_files_expire(room: Room) -> None:
    files = room.files()
    lasting, ending = await kept(files), await kept(files, expires=NOW + 10)
    room.clock.advance(10)
    with pytest.raises(NotFound):
        await files.get(ending.id)
    assert await files.of("local", 10) == [lasting]
    await files.tidy(grace_s=GRACE_S)
    assert room.there == {lasting.id}
    assert await files.total() == (1, 7)


async def test_expired_files_go_while_the_gateway_runs(room: Room) -> None:
    files = room.files()
    await kept(files, expires=NOW + 10)
    tidying = asyncio.create_task(files.keep_tidying())
    await room.clock.slept(3600)
    room.clock.advance(3600)
    await room.clock.slept(3600)
    assert room.there == set()
    tidying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await tidying


@pytest.mark.parametrize(("grace_s", "left"), [(0.0, False), (GRACE_S, True)])
async def test_what_a_crash_left_goes(room: Room, grace_s: float, left: bool) -> None:
    """Content without a row and half-written content: at once where nobody else writes, else when it is old."""
    files = room.files()
    row = await kept(files)
    new, old, half = (f"file_{number:032x}" for number in range(3))
    for name, age_s in {f"{new}.part": 60, old: GRACE_S + 1, f"{half}.part": GRACE_S + 1, "notes": 1e9}.items():
        (room.directory / name).write_bytes(b"x")
        os.utime(room.directory / name, (NOW - age_s, NOW - age_s))
    os.utime(room.directory / row.id, (NOW - 2 * GRACE_S, NOW - 2 * GRACE_S))
    await files.tidy(grace_s=grace_s)
    assert room.there == {row.id, "notes"} | ({f"{new}.part"} if left else set())
    assert await content(files, row) == b"content"


async def test_content_that_is_gone(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    files = room.files()
    row = await kept(files)
    (room.directory / row.id).rename(room.directory / "elsewhere")
    await files.tidy()
    assert row.id in caplog.text
    assert await files.get(row.id) == row
    with pytest.raises(FileLost, match="not in the store any more"):
        await files.content(row, 0, 1)
    (room.directory / row.id).write_bytes(b"cut")
    with pytest.raises(FileLost, match="has 3 bytes"):
        await files.content(row, 0, 1)
    (room.directory / "elsewhere").rename(room.directory / row.id)
    assert await content(files, row) == b"content"


async def test_a_store_that_cannot_be_listed_is_no_end(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    files = room.files()
    room.directory.rmdir()
    await files.tidy()
    assert "not tidied" in caplog.text
