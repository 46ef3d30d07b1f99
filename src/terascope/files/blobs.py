"""Content by name, awaited: a shelf that is called in threads, with sums, and with our errors for its own."""

import asyncio
import errno
import hashlib
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from terascope.core.errors import FileLost, ServiceError, StorageFull, StorageUnavailable
from terascope.files.contract import Seen, Shelf, Sink
from terascope.files.directory import DirectoryShelf

T = TypeVar("T")
PIECE = 1 << 20
"""Bytes that are read and written at once: what one upload or download has in memory, a few times over."""
_THREADS = 8
_NAME = re.compile(r"[a-z0-9_]{1,64}")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class Blob:
    """What was kept: how many bytes, and their sha256 in hex."""

    bytes: int
    sha256: str


class Blobs:
    """Keeps content by name. A blob is there as a whole or not at all."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._threads = ThreadPoolExecutor(_THREADS, "files")

    async def put(self, name: str, chunks: AsyncIterator[bytes]) -> Blob:
        """Keep what `chunks` yields; memory does not grow with it. Return once it is durable.

        On any raise and on cancellation nothing of it is left. Raises what `chunks` raises, `StorageFull` and
        `StorageUnavailable`.
        """
        writing = _Writing(self._shelf, _checked(name))
        try:
            async for piece in gathered(chunks):
                await self._run(writing.write, piece)
            return await self._run(writing.commit)
        except BaseException:
            with suppress(ServiceError):  # what made it fail is told; what is left of it goes when the store is tidied
                await asyncio.shield(self._run(writing.discard))
            raise

    async def read(self, name: str, start: int, stop: int) -> AsyncIterator[bytes]:
        """Yield the bytes from `start` to before `stop`.

        Raises `FileLost` when they are not there, `StorageUnavailable`.
        """
        _checked(name)
        while start < stop:
            piece = await self._run(self._shelf.read, name, start, min(start + PIECE, stop))
            if not piece:
                raise FileLost("the content of this file is shorter than it was")
            start += len(piece)
            yield piece

    async def size(self, name: str) -> int | None:
        """Return how many bytes a blob has; None when there is none. Raises `StorageUnavailable`."""
        return await self._run(self._shelf.size, _checked(name))

    async def delete(self, name: str, *, partial: bool = False) -> None:
        """Remove a blob, or what is half-written of it. Idempotent. Raises `StorageUnavailable`."""
        await self._run(lambda: self._shelf.delete(_checked(name), partial=partial))

    async def scan(self) -> list[Seen]:
        """Return all that could be ours, half-written blobs too. Raises `StorageUnavailable`."""
        return await self._run(lambda: [one for one in self._shelf.scan() if _NAME.fullmatch(one.name)])

    async def aclose(self) -> None:
        """End the threads, once they have done what they do. Idempotent."""
        await asyncio.to_thread(self._threads.shutdown)

    async def _run(self, call: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, _told, call, arguments)


def open_blobs(url: str, options: Mapping[str, str], default: Path) -> Blobs:
    """Blobs at `url`, a directory or what fsspec knows; empty: in the directory `default`. Raises `ConfigError`."""
    if "://" in url:
        from terascope.files.remote import FsspecShelf  # fsspec takes its time to import

        return Blobs(FsspecShelf(url, options))
    return Blobs(DirectoryShelf(Path(url) if url else default))


class _Writing:
    """A blob on its way. Calls may overlap when an upload is cancelled: a thread cannot be."""

    def __init__(self, shelf: Shelf, name: str) -> None:
        self._shelf, self._name = shelf, name
        self._lock = threading.Lock()
        self._sink: Sink | None = None
        self._over = False
        self._size = 0
        self._sum = hashlib.sha256()

    def write(self, data: bytes) -> None:
        with self._lock:
            if not self._over:
                self._begun().write(data)
                self._size += len(data)
                self._sum.update(data)

    def commit(self) -> Blob:
        with self._lock:
            if not self._over:
                self._begun().commit()
        return Blob(self._size, self._sum.hexdigest())

    def discard(self) -> None:
        with self._lock:
            self._over = True
            if self._sink is not None:
                self._sink.discard()

    def _begun(self) -> Sink:
        if self._sink is None:
            self._sink = self._shelf.create(self._name)
        return self._sink


async def gathered(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Small chunks put together to pieces of about `PIECE` bytes."""
    waiting: list[bytes] = []
    size = 0
    async for chunk in chunks:
        waiting.append(chunk)
        size += len(chunk)
        if size >= PIECE:
            yield b"".join(waiting)
            waiting, size = [], 0
    if size:
        yield b"".join(waiting)


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):  # it becomes a path
        raise ValueError(f"{name[:80]!r} is no name of a blob")
    return name


def _told(call: Callable[..., T], arguments: tuple[object, ...]) -> T:
    with _translated():
        return call(*arguments)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except ServiceError:
        raise
    except FileNotFoundError as error:
        raise FileLost("the content of this file is not in the store any more", detail=str(error)) from error
    except OSError as error:
        if error.errno in _FULL:
            raise _full(error) from error
        raise _unavailable(error) from error
    except Exception as error:  # the edge to file systems of others, which raise what they like
        raise _unavailable(error) from error


def _full(error: OSError) -> StorageFull:
    told = StorageFull(
        "the store of files has no room left; delete files, or ask an operator for more", detail=str(error)
    )
    told.headers = {"x-should-retry": "false"}  # OpenAI's clients would send it all again
    return told


def _unavailable(error: Exception) -> StorageUnavailable:
    reason = f"{type(error).__name__}: {error}"
    return StorageUnavailable("the store of files cannot be used just now; try again", detail=reason, retry_after=30)
