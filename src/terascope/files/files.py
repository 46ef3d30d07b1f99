"""Files of projects: a row for each in the database, its content in the blob store under the same id.

The row comes after the content and goes before it. So what one can find has its content, and what a crash leaves is
content without a row, which the next start removes.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from terascope.core.clock import Clock
from terascope.core.config import FilesConfig
from terascope.core.errors import BodyTooLarge, FileLost, NotFound, ServiceError
from terascope.core.ids import new_id
from terascope.files.blobs import Blob, Blobs
from terascope.files.contract import Seen
from terascope.store.database import Database
from terascope.store.files import FileRow, FileStore, Order, over_quota

log = logging.getLogger(__name__)
GRACE_S = 86_400.0
"""How old, in seconds, content without a row is before it is removed where other gateways may be writing it."""
_TIDY_EVERY_S = 3600.0
_OURS = re.compile(r"file_[0-9a-f]{32}")  # the store may be a directory with other things in it


class Draft:
    """A file that is being made: first its content, then what it is called."""

    def __init__(self, files: "Files", project: str, user_id: str, key_id: str) -> None:
        self.id = new_id("file")
        self._files = files
        self._owner = (project, user_id, key_id)
        self.blob = Blob(0, "")
        self.kept = False

    async def fill(self, chunks: AsyncIterator[bytes]) -> Blob:
        """Write the content, once. Raises as `Blobs.put`, and `BodyTooLarge` and `QuotaExceeded` once that is known."""
        self.blob = await self._files.put(self.id, self._owner[0], chunks)
        return self.blob

    async def keep(self, purpose: str, filename: str, expires: float | None = None) -> FileRow:
        """Make it a file of its project, durably on return. Raises `QuotaExceeded`."""
        row = FileRow(
            self.id, *self._owner, purpose, filename, self.blob.bytes, self.blob.sha256, self._files.now(), expires
        )
        self.kept = True  # from now on it may be: cancelled in mid-commit, nobody knows before the next start
        try:
            await self._files.add(row)
        except ServiceError:
            self.kept = False
            raise
        return row


class Files:
    """Keeps the files of all projects. Who may see them is for the caller to know."""

    def __init__(self, database: Database, blobs: Blobs, config: FilesConfig, clock: Clock) -> None:
        self._rows = FileStore(database)
        self._blobs = blobs
        self._config = config
        self._clock = clock
        self._coming: dict[str, int] = {}  # bytes on their way, by project: they count as if they were kept

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._clock.now()

    @asynccontextmanager
    async def draft(self, project: str, user_id: str, key_id: str) -> AsyncIterator[Draft]:
        """A new file; unless it was kept when the block ends, nothing is left of it."""
        draft = Draft(self, project, user_id, key_id)
        try:
            yield draft
        finally:
            if draft.blob.sha256 and not draft.kept:
                await asyncio.shield(self._drop(draft.id))

    async def get(self, file_id: str) -> FileRow:
        """Return a file. Raises `NotFound`, also for one that has expired."""
        row = await self._rows.get(file_id)
        if row is None or (row.expires is not None and row.expires <= self.now()):
            raise no_file(file_id)
        return row

    async def of(
        self, project: str, limit: int, *, order: Order = "desc", after: str = "", purpose: str = ""
    ) -> list[FileRow]:
        """Return up to `limit` files of a project, by creation; those past the id `after`, those of a purpose."""
        return await self._rows.of(project, limit, order=order, after=after, purpose=purpose, now=self.now())

    async def content(self, row: FileRow, start: int, stop: int) -> AsyncIterator[bytes]:
        """Return an iterator over the bytes from `start` to before `stop`.

        Raises `FileLost` and `StorageUnavailable`, before anything is read where it is known by then.
        """
        found = await self._blobs.size(row.id)
        if found != row.bytes:
            what = "is not in the store any more" if found is None else f"has {found} bytes in the store"
            raise FileLost(f"the content of {row.id} ({row.bytes} bytes) {what}; delete the file and make it again")
        return self._blobs.read(row.id, start, stop)

    async def remove(self, row: FileRow) -> None:
        """Remove a file. On return it is not known any more; its content may take until the next start to go."""
        if not await self._rows.remove(row.id):
            raise no_file(row.id)
        await self._drop(row.id)

    async def total(self, project: str = "") -> tuple[int, int]:
        """How many files there are, of one project or of all, and how many bytes they have."""
        return await self._rows.total(project)

    async def add(self, row: FileRow) -> None:
        """Make a file known whose content is there. Raises `QuotaExceeded`."""
        await self._rows.add(row, self.most(row.project))

    async def put(self, file_id: str, project: str, chunks: AsyncIterator[bytes]) -> Blob:
        """Write the content of a file to come; see `Draft.fill`."""
        _, kept = await self._rows.total(project)
        counted = _Counted(self, project, kept)
        try:
            return await self._blobs.put(file_id, counted.checked(chunks))
        finally:
            self.coming(project, -counted.size)

    def coming(self, project: str, size: int) -> int:
        """So many bytes more are on their way to a project; return how many are in all."""
        total = self._coming.get(project, 0) + size
        self._coming[project] = total
        if not total:
            del self._coming[project]
        return total

    def results_expire(self) -> float | None:
        """When a result that is made now expires (seconds since the epoch); None: never."""
        days = self._config.results_days
        return self.now() + days * 86_400 if days else None

    def most(self, project: str) -> int:
        """The most bytes that a project may keep; 0: no limit."""
        return self._config.projects.get(project, self._config.max_project_bytes)

    @property
    def most_of_one(self) -> int:
        """The most bytes that a file may have."""
        return self._config.max_file_bytes

    async def tidy(self, *, grace_s: float = GRACE_S) -> None:
        """Remove files that have expired and content without a row that is older than `grace_s` seconds.

        Files whose content is gone are named in the log and stay: it may come back. Raises nothing for a store that
        cannot be used just now.
        """
        try:
            await self._expire()
            seen = [one for one in await self._blobs.scan() if _OURS.fullmatch(one.name)]
            lost = await self._sweep(seen, self.now() - grace_s)
        except ServiceError as error:
            log.warning("the store of files was not tidied: %s", error.detail or error.message)
            return
        if lost:
            log.warning("the content of %d files is not in the store any more, such as %s", len(lost), lost[0])

    async def keep_tidying(self) -> None:
        """Tidy once, then remove what expires, until cancelled."""
        await self.tidy()
        while True:
            await self._clock.sleep(_TIDY_EVERY_S)
            await self._expire()

    async def _expire(self) -> None:
        while ids := await self._rows.expired(self.now()):
            await self._rows.remove(*ids)
            for one in ids:
                await self._drop(one)

    async def _sweep(self, seen: list[Seen], before: float) -> list[str]:
        """Remove what has no row; return the rows that have no content."""
        whole = {one.name for one in seen if not one.partial}
        old = {(one.name, one.partial) for one in seen if one.modified <= before}
        lost: list[str] = []
        async for ids in self._rows.ids():
            old -= {(one, False) for one in ids}
            lost += [one for one in ids if one not in whole]
        for name, partial in sorted(old):
            await self._blobs.delete(name, partial=partial)
        return lost

    async def _drop(self, file_id: str) -> None:
        try:
            await self._blobs.delete(file_id)
        except ServiceError as error:
            log.warning("the content of %s could not be removed yet: %s", file_id, error.detail or error.message)


class _Counted:
    """Counts the bytes of one file on their way, and ends it at a limit."""

    def __init__(self, files: Files, project: str, kept: int) -> None:
        self._files, self._project, self._kept = files, project, kept
        self.size = 0

    async def checked(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        most = self._files.most(self._project)
        async for chunk in chunks:
            self.size += len(chunk)
            coming = self._files.coming(self._project, len(chunk))
            if self.size > self._files.most_of_one:
                raise too_large(self._files.most_of_one)
            if most and self._kept + coming > most:
                raise over_quota(self._project, self._kept, most)
            yield chunk


def too_large(most: int) -> BodyTooLarge:
    """The error for a file of more than `most` bytes."""
    return BodyTooLarge(f"the file is larger than {most:,} bytes, the most this server keeps (`files.max_file_bytes`)")


def no_file(file_id: str) -> NotFound:
    """The error for a file that is not there, or that the caller may not know of."""
    return NotFound(
        f"there is no file {file_id[:60]!r} in your projects; GET /v1/files lists those of one", param="file_id"
    )
