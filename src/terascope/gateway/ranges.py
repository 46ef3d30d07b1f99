"""Parts of a content that is known by its length and its tag (RFC 9110, sections 13 and 14)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_ONE = re.compile(r"bytes\s*=\s*([0-9]*)\s*-\s*([0-9]*)\s*", re.IGNORECASE)
_DIGITS = 18


@dataclass(frozen=True, slots=True)
class Part:
    """What to send: the status, and the bytes from `start` to before `stop`."""

    status: int
    start: int = 0
    stop: int = 0


def part_of(headers: Mapping[str, str], size: int, etag: str) -> Part:
    """What a GET with `headers` (names in lower case) gets of `size` bytes: 200, 206, 304 or 416.

    A `Range` with several parts or in another unit gets the whole, as the RFC allows.
    """
    if _names(headers.get("if-none-match", ""), etag):
        return Part(304)
    condition = headers.get("if-range", "")
    found = _ONE.fullmatch(headers.get("range", ""))
    if found is None or (condition and condition != etag) or found.groups() == ("", ""):
        return Part(200, 0, size)
    first, last = (text[:_DIGITS] for text in found.groups())
    if not first:  # the last so many bytes
        return _within(max(0, size - int(last)), size, size)
    if last and int(last) < int(first):
        return Part(200, 0, size)  # no valid range, which is as if there were none
    return _within(int(first), min(size, int(last) + 1) if last else size, size)


def _within(start: int, stop: int, size: int) -> Part:
    return Part(206, start, stop) if start < min(stop, size) else Part(416)


def _names(listed: str, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in listed.split(",")]
    return "*" in tags or etag in tags
