"""The file of a backup: a zip of parts, and last the manifest that says what they must be.

A zip's directory stands at its end, so a file that was cut short is no zip; any program for zips can look inside.
"""

import hashlib
import io
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Literal
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile

import orjson
from pydantic import TypeAdapter

from terascope.core.errors import BackupUnusable, Conflict

FORMAT = 1
MANIFEST = "manifest.json"
_QUICK = 1  # zlib's level: rows of a ledger become a fifth of their size, at ten times the speed of a ninth
_CHUNK = 1 << 20
_DAMAGE = (
    BadZipFile,
    EOFError,
    KeyError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What `zipfile` raises for files that are not what they should be."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part: how many lines and bytes it has, and the sha256 of the bytes."""

    name: str
    lines: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup is: of which Terascope and schema, from when (seconds since the epoch), of which parts."""

    version: str
    schema: str
    time: float
    parts: tuple[Part, ...] = ()
    format: int = FORMAT
    kind: Literal["terascope-backup"] = "terascope-backup"


class PartWriter:
    """Takes the lines of one part."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sum = hashlib.sha256()
        self._lines = self._bytes = 0

    def write(self, lines: Sequence[bytes]) -> None:
        """Append lines, each with its end. Raises `OSError`."""
        data = b"".join(lines)
        self._file.write(data)
        self._sum.update(data)
        self._lines += len(lines)
        self._bytes += len(data)

    def part(self, name: str) -> Part:
        """What was written so far."""
        return Part(name, self._lines, self._bytes, self._sum.hexdigest())


class ArchiveWriter:
    """Takes the parts, one after the other."""

    def __init__(self, zipped: ZipFile) -> None:
        self._zip = zipped
        self.parts: list[Part] = []

    @contextmanager
    def part(self, name: str) -> Iterator[PartWriter]:
        """A part to write to until the block ends."""
        with self._zip.open(name, "w", force_zip64=True) as file:
            writer = PartWriter(file)
            yield writer
        self.parts.append(writer.part(name))


@contextmanager
def new_archive(path: Path, *, version: str, schema: str, time: float) -> Iterator[ArchiveWriter]:
    """A new file of mode 0600, which is at `path`, whole and on the disk, once the block has ended.

    It is written beside and renamed, so `path` never has half a backup; on any raise nothing is left of it. Raises
    `Conflict` when `path` is taken or cannot be written.
    """
    if os.path.lexists(path):
        raise Conflict(f"{path} is there already; remove it or name another file")
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with _removed_on_raise(beside):
            with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                with ZipFile(file, "w", ZIP_DEFLATED, compresslevel=_QUICK) as zipped:
                    yield (writer := ArchiveWriter(zipped))
                    manifest = Manifest(version, schema, time, tuple(writer.parts))
                    zipped.writestr(MANIFEST, orjson.dumps(asdict(manifest), option=orjson.OPT_INDENT_2))
                file.flush()
                os.fsync(file.fileno())
            beside.rename(path)
        _sync_directory(path.parent)
    except OSError as error:
        raise Conflict(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def _removed_on_raise(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Archive:
    """A backup that is read; `manifest` says what is in it."""

    def __init__(self, zipped: ZipFile, path: Path, manifest: Manifest) -> None:
        self._zip = zipped
        self._path = path
        self.manifest = manifest

    def check(self) -> None:
        """Read all of it. Raises `BackupUnusable` when a part is not what the manifest says, or is missing."""
        for part in self.manifest.parts:
            with self._part(part.name) as file:
                found = hashlib.sha256()
                while chunk := file.read(_CHUNK):
                    found.update(chunk)
            if found.hexdigest() != part.sha256:
                raise _damaged(self._path, f"{part.name} has another sha256 than its manifest says")

    def lines(self, name: str) -> Iterator[bytes]:
        """The lines of a part, in order. Raises `BackupUnusable` when it is damaged or not there."""
        with self._part(name) as file:
            yield from file

    @contextmanager
    def _part(self, name: str) -> Iterator[IO[bytes]]:
        try:
            with self._zip.open(name) as file, io.BufferedReader(file, _CHUNK) as buffered:  # type: ignore[type-var] # what zipfile opens is a RawIOBase in all but name
                yield buffered
        except _DAMAGE as error:
            raise _damaged(self._path, f"{name}: {error}") from error


@contextmanager
def opened_archive(path: Path) -> Iterator[Archive]:
    """Open a backup; its parts are not looked at yet.

    Raises `BackupUnusable` when the file cannot be read, is none of ours, was cut short, or is of a newer Terascope.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise BackupUnusable(f"cannot read {path}: {error.strerror}") from None
    with file, _zip(path, file) as zipped:
        yield Archive(zipped, path, _manifest(path, zipped))


def _zip(path: Path, file: IO[bytes]) -> ZipFile:
    begins_as_ours = file.read(2) == b"PK"
    try:
        return ZipFile(file)
    except _DAMAGE as error:
        if begins_as_ours:
            raise _damaged(path, f"{error}; was it copied to its end?") from None
        raise BackupUnusable(f"{path} is no backup of Terascope") from None


def _manifest(path: Path, zipped: ZipFile) -> Manifest:
    try:
        text = zipped.read(MANIFEST)
        form = orjson.loads(text).get("format")
        if isinstance(form, int) and form > FORMAT:
            raise BackupUnusable(f"{path} was written by a newer Terascope; restore it with that one")
        return TypeAdapter(Manifest).validate_json(text)
    except KeyError:
        raise BackupUnusable(f"{path} is no backup of Terascope") from None
    except (*_DAMAGE, AttributeError) as error:
        raise _damaged(path, f"its manifest cannot be read ({type(error).__name__})") from None


def _damaged(path: Path, why: str) -> BackupUnusable:
    return BackupUnusable(f"{path} is damaged ({why}); take another backup")
