"""The files of a model directory and their sha256."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from terascope.catalog.hashes import HashCache
from terascope.catalog.threads import Work
from terascope.core.errors import BadRequest
from terascope.core.models import ModelFile

_CHUNK = 1024 * 1024
_HASHERS = min(4, os.cpu_count() or 1)


def is_junk(name: str) -> bool:
    """True for what is no part of a model: hidden files and folders (.git, .cache, ...) and compiled Python."""
    return name.startswith(".") or name == "__pycache__"


def list_files(directory: Path) -> list[str]:
    """Return the paths of all regular files below `directory`, sorted; symbolic links are followed.

    Raises `BadRequest` for a link to nothing, a folder or name that cannot be read.
    """
    try:
        return sorted(_walk(directory, "", frozenset({directory.resolve()})))
    except OSError as error:
        raise unreadable(error) from error


def _walk(directory: Path, prefix: str, above: frozenset[Path]) -> Iterator[str]:
    for entry in directory.iterdir():
        path = f"{prefix}{entry.name}"
        if is_junk(entry.name):
            continue
        if entry.is_dir():
            real = entry.resolve()
            if real not in above:  # a link to a folder above it has no end
                yield from _walk(entry, f"{path}/", above | {real})
        elif entry.is_file():
            yield _printable(path)
        elif entry.is_symlink():
            raise BadRequest(f"{entry} is a link to nothing; fetch the model again", param="source")


def _printable(path: str) -> str:
    if not path.isprintable():
        raise BadRequest(f"the model has a file whose name cannot be written down: {path[:100]!a}", param="source")
    return path


def hash_files(directory: Path, work: Work, cache: HashCache | None = None) -> tuple[ModelFile, ...]:
    """Read every file below `directory` and return their sha256, sorted by path.

    What `cache` knows is not read again. Raises `BadRequest` when a file cannot be read or changes meanwhile.
    """
    paths = list_files(directory)
    sizes = [_size(directory / path) for path in paths]
    total, done = sum(sizes) or 1, 0
    found: list[ModelFile] = []
    with ThreadPoolExecutor(_HASHERS, "terascope-hash") as pool:
        hashes = pool.map(lambda path: _hash(directory / path, work, cache), paths)
        for path, size, sha256 in zip(paths, sizes, hashes, strict=True):
            done += size
            work.report("hashing", done / total)
            found.append(ModelFile(path, size, sha256))
    return tuple(found)


def digest_of(files: Iterable[ModelFile]) -> str:
    """Return the sha256 over the sorted lines `sha256  path`, as `sha256sum` prints them."""
    lines = sorted(f"{file.sha256}  {file.path}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def sha256_of(path: Path, check: Callable[[], None]) -> str:
    """Return the sha256 of one file; `check` is called between pieces and may raise to end it."""
    digest = hashlib.sha256()
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            check()
            digest.update(view[:count])
    return digest.hexdigest()


def unreadable(error: OSError) -> BadRequest:
    """The error for a file of the model that cannot be read."""
    return BadRequest(f"{error.filename or 'a file of the model'} cannot be read: {error.strerror}", param="source")


def _hash(path: Path, work: Work, cache: HashCache | None) -> str:
    try:
        before = path.stat()
        known = cache.get(path, before) if cache else None
        sha256 = known or sha256_of(path, work.check)
        after = path.stat()
    except OSError as error:
        raise unreadable(error) from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise BadRequest(f"{path} changed while it was read; try again when nothing writes to it", param="source")
    if cache and not known:
        cache.put(path, before, sha256)
    return sha256


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise unreadable(error) from error
