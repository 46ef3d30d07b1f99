"""`hf:org/name@revision`: a snapshot of the Hugging Face Hub, in its library's own cache.

The library's environment holds here as everywhere: HF_HOME and HF_HUB_CACHE say where the cache is, HF_TOKEN who
asks, HF_HUB_OFFLINE=1 that only the cache is looked at. Without the Hub, a snapshot in the cache will do.
"""

import errno
import json
import re
import sys
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from terascope.catalog.sources.child import run_child
from terascope.catalog.sources.contract import Fetched, Progress
from terascope.core import environment
from terascope.core.errors import BadRequest, ServiceError, SourceUnavailable

_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?\Z")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*\Z")


@dataclass(frozen=True, slots=True)
class HubSource:
    """One repository at one revision; without a revision, whatever its main branch is at when it is fetched."""

    repository: str
    revision: str = ""

    @classmethod
    def parse(cls, rest: str) -> "HubSource":
        """Read `org/name[@revision]`. Raises `BadRequest`."""
        repository, at, revision = rest.partition("@")
        if not _REPOSITORY.match(repository) or (at and not _REVISION.match(revision)):
            raise BadRequest(f"'hf:{rest[:200]}' does not name a revision; write hf:org/name@revision", param="source")
        return cls(repository, revision)

    @property
    def text(self) -> str:
        return f"hf:{self.repository}@{self.revision}" if self.revision else f"hf:{self.repository}"

    @property
    def pinned(self) -> bool:
        return bool(_COMMIT.match(self.revision))

    async def fetch(self, progress: Progress) -> Fetched:
        progress(f"fetching {self.text}", None)
        heard = _Heard(f"fetching {self.text}", progress)
        program = (sys.executable, "-m", "terascope.catalog.sources.hub_program", self.repository, self.revision)
        code = await run_child(program, environment.for_child(), heard.line)
        if code != 0 or not heard.directory:
            raise _error(self, heard)
        directory = Path(heard.directory)
        if not _COMMIT.match(directory.name):
            raise SourceUnavailable(f"{self.text} did not resolve to a commit: {directory}")
        return Fetched(replace(self, revision=directory.name).text, directory)


@dataclass
class _Heard:
    """What the program said."""

    message: str
    progress: Progress
    directory: str = ""
    error: str = ""
    reason: str = ""
    number: int = 0
    percent: int = 0
    other: deque[str] = field(default_factory=lambda: deque(maxlen=100))

    def line(self, text: str) -> None:
        said = _object(text)
        if said is None:
            self.other.append(text)
        elif "total" in said:
            self._advance(100 * said["done"] // said["total"])
        else:
            self.directory, self.error = said.get("directory", ""), said.get("error", "")
            self.reason, self.number = said.get("message", ""), said.get("errno") or 0

    def _advance(self, percent: int) -> None:
        if self.percent < percent <= 100:
            self.percent = percent
            self.progress(self.message, percent / 100)


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


_WRONG = {
    "gated": "{0} is open only to those who accepted its licence on the Hub; accept it there, then set "
    "HF_TOKEN to a token of that account",
    "repository": "the Hub has no repository {1!r}, or not for this token; check the name, or set HF_TOKEN",
    "revision": "{1!r} on the Hub has no revision {2!r}",
    "name": "{1!r} is not a name the Hub can have; write hf:org/name@revision",
}
_LATER = {
    "incomplete": "the snapshot of {0} in the Hugging Face cache is incomplete and the Hub cannot be reached; fetch it "
    "where there is a network and copy the cache here (HF_HUB_CACHE)",
    "unreachable": "the Hub cannot be reached for {0} and the Hugging Face cache has no snapshot of it; check the "
    "network and HF_HUB_OFFLINE, or copy a cache here (HF_HUB_CACHE)",
    "disk": "the Hugging Face cache cannot be written; free space, or name another directory with HF_HUB_CACHE",
}


def _error(source: HubSource, heard: _Heard) -> ServiceError:
    detail = heard.reason or "\n".join(heard.other)
    names = (source.text, source.repository, source.revision or "main")
    if heard.error in _WRONG:
        return BadRequest(_WRONG[heard.error].format(*names), param="source", detail=detail)
    kind = "disk" if heard.number in (errno.ENOSPC, errno.EDQUOT) else heard.error
    if kind in _LATER:
        return SourceUnavailable(_LATER[kind].format(*names), detail=detail)
    last = detail.strip().rpartition("\n")[2]
    return SourceUnavailable(f"{source.text} could not be fetched: {last[:300] or 'no reason given'}", detail=detail)
