"""Content by name: pieces of any size, sums, what is left when it goes wrong."""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from terascope.core.errors import ConfigError, FileLost, StorageFull, StorageUnavailable
from terascope.files.blobs import PIECE, Blobs, gathered, open_blobs
from terascope.files.directory import DirectoryShelf
from terascope.testing.shelves import SmallDisk


async def chunks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def read(blobs: Blobs, name: str, start: int, stop: int) -> bytes:
    return b"".join([piece async for piece in blobs.read(name, start, stop)])


@pytest.fixture
async def blobs(tmp_path: Path) -> AsyncIterator[Blobs]:
    opened = Blobs(DirectoryShelf(tmp_path))
    yield opened
    await opened.aclose()


@given(pieces=some.lists(some.binary(max_size=50)), start=some.integers(0, 200), length=some.integers(0, 200))
async def test_what_is_put_can_be_read(pieces: list[bytes], start: int, length: int) -> None:
    data = b"".join(pieces)
    with tempfile.TemporaryDirectory() as directory:
        blobs = Blobs(DirectoryShelf(Path(directory)))
        blob = await blobs.put("one", chunks(*pieces))
        assert (blob.bytes, blob.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert await blobs.size("one") == len(data)
        stop = min(start + length, len(data))
        assert await read(blobs, "one", start, stop) == data[start:stop]
        await blobs.aclose()


@given(sizes=some.lists(some.integers(0, PIECE + 5), max_size=6))
async def test_pieces_are_large_and_nothing_is_lost(sizes: list[int]) -> None:
    given_pieces = [bytes([number]) * size for number, size in enumerate(sizes)]
    found = [piece async for piece in gathered(chunks(*given_pieces))]
    assert b"".join(found) == b"".join(given_pieces)
    assert all(len(piece) >= PIECE for piece in found[:-1])
    assert b"" not in found


async def test_a_source_that_fails_leaves_nothing(blobs: Blobs, tmp_path: Path) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield bytes(3 * PIECE)
        raise RuntimeError("the source failed")

    with pytest.raises(RuntimeError, match="the source failed"):
        await blobs.put("one", failing())
    assert names(tmp_path) == []


async def test_cancelled_in_the_middle_leaves_nothing(blobs: Blobs, tmp_path: Path) -> None:
    waiting, never = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield bytes(2 * PIECE)
        waiting.set()
        await never.wait()

    task = asyncio.create_task(blobs.put("one", slow()))
    await waiting.wait()
    assert names(tmp_path) == ["one.part"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert names(tmp_path) == []


@pytest.mark.parametrize("room", [0, PIECE, 5 * PIECE // 2])
async def test_a_full_disk(tmp_path: Path, room: int) -> None:
    blobs = Blobs(SmallDisk(DirectoryShelf(tmp_path), room))
    await blobs.put("before", chunks())
    with pytest.raises(StorageFull, match="no room left") as refused:
        await blobs.put("one", chunks(*[bytes(PIECE)] * 4))
    assert refused.value.headers == {"x-should-retry": "false"}
    assert names(tmp_path) == ["before"]
    await blobs.aclose()


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), RuntimeError("a library's own")])
async def test_a_store_that_cannot_be_used(tmp_path: Path, error: Exception) -> None:
    blobs = Blobs(SmallDisk(DirectoryShelf(tmp_path), 0, error))
    with pytest.raises(StorageUnavailable) as refused:
        await blobs.put("one", chunks(b"x"))
    assert str(error) in refused.value.detail
    assert str(error) not in refused.value.message
    await blobs.aclose()


async def test_a_store_that_breaks_in_the_middle_does_not_hide_why(tmp_path: Path) -> None:
    disk = SmallDisk(DirectoryShelf(tmp_path), PIECE, OSError(5, "Input/output error"))
    blobs = Blobs(disk)

    async def breaking() -> AsyncIterator[bytes]:
        yield bytes(PIECE)
        disk.broken = True
        raise RuntimeError("the source failed")

    with pytest.raises(RuntimeError, match="the source failed"):
        await blobs.put("one", breaking())
    assert names(tmp_path) == ["one.part"]
    await blobs.aclose()


async def test_what_is_not_there(blobs: Blobs) -> None:
    assert await blobs.size("none") is None
    await blobs.delete("none")
    with pytest.raises(FileLost):
        await read(blobs, "none", 0, 1)
    await blobs.put("short", chunks(b"ab"))
    with pytest.raises(FileLost, match="shorter"):
        await read(blobs, "short", 0, 3)


@pytest.mark.parametrize("name", ["", "..", "a/b", "A", "x" * 65, "a.part"])
async def test_names_that_are_no_paths(blobs: Blobs, name: str) -> None:
    with pytest.raises(ValueError, match="no name of a blob"):
        await blobs.put(name, chunks(b"x"))


def test_where_files_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    for url, words in {
        str(tmp_path / "taken"): "cannot make the directory",
        "nonesuch://bucket": "Protocol not known",
        "sftp://host/files": "paramiko",
    }.items():
        with pytest.raises(ConfigError, match=words):
            open_blobs(url, {}, tmp_path)
