"""Prompts from a file, one a line: JSON objects, or plain texts."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from terascope.core.errors import BadRequest, Conflict

_WAYS = ("text", "tokens", "messages")
_LONGEST = 64 << 20  # bytes of a line
_CHUNK = 1 << 20
_TEMPLATE_TOKENS = 64  # what a chat template adds, generously


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: its number, from 0; the number of its line, from 1; what is asked, and what goes with it.

    `end` is where its line ends in the file, in bytes.
    """

    number: int
    line: int
    id: str
    asked: dict[str, Any] = field(repr=False)
    labels: dict[str, Any] = field(repr=False)
    end: int
    most_tokens: int


class PromptFile:
    """Reads prompts line by line; memory does not grow with the file.

    `.jsonl`, `.ndjson` and `.json` have an object or a string a line; others have a text a line.
    """

    def __init__(self, path: Path) -> None:
        """Raises `BadRequest` when the file cannot be read."""
        self.path = path
        self._json = path.suffix in (".jsonl", ".ndjson", ".json")
        try:
            self.size = path.stat().st_size
            with path.open("rb"):
                pass
        except OSError as error:
            raise BadRequest(f"cannot read the prompts {path}: {error.strerror}") from None

    def read(self, start: int = 0, *, number: int = 0, line: int = 0) -> Iterator[Prompt]:
        """Yield the prompts from byte `start`, where prompt `number` and a line after `line` begin. Empty lines count
        as lines only. Raises `BadRequest` that names the line.
        """
        with self.path.open("rb") as file:
            file.seek(start)
            while raw := file.readline(_LONGEST + 1):
                line += 1
                start += len(raw)
                if len(raw) > _LONGEST:
                    raise self._wrong(line, f"it has more than {_LONGEST:,} bytes")
                if text := raw.strip():
                    yield self._prompt(text, number, line, start)
                    number += 1

    def check_beginning(self, end: int, sha256: str) -> None:
        """Raise `Conflict` unless the first `end` bytes of the file are those that `sha256` was made of."""
        if end and (self.size < end or digest(self.path, 0, end).hexdigest() != sha256):
            raise Conflict(f"{self.path} is not what it was: the prompts that are in the dataset have changed")

    def _prompt(self, text: bytes, number: int, line: int, end: int) -> Prompt:
        value = self._value(text, line)
        if isinstance(value, str):
            value = {"text": value}
        if not isinstance(value, dict):
            raise self._wrong(line, "it must be a text, or an object with `text`, `tokens` or `messages`")
        given = [way for way in _WAYS if value.get(way) is not None]
        if len(given) != 1:
            raise self._wrong(line, "it must have exactly one of `text`, `tokens` and `messages`")
        asked = {given[0]: value[given[0]]}
        labels = {name: one for name, one in value.items() if name not in (*_WAYS, "id")}
        return Prompt(number, line, str(value.get("id", number)), asked, labels, end, _most_tokens(asked))

    def _value(self, text: bytes, line: int) -> Any:
        try:
            return orjson.loads(text) if self._json else text.decode()
        except (orjson.JSONDecodeError, UnicodeDecodeError) as error:
            kind = "JSON" if self._json else "UTF-8"
            raise self._wrong(line, f"it is not {kind}: {error}") from None

    def _wrong(self, line: int, why: str) -> BadRequest:
        return BadRequest(f"{self.path}, line {line}: {why}")


def digest(path: Path, start: int, end: int, so_far: "hashlib._Hash | None" = None) -> "hashlib._Hash":
    """The sha256 of the bytes from `start` to before `end`, after those of `so_far`."""
    found = hashlib.sha256() if so_far is None else so_far.copy()
    with path.open("rb") as file:
        file.seek(start)
        while start < end and (piece := file.read(min(_CHUNK, end - start))):
            found.update(piece)
            start += len(piece)
    return found


def _most_tokens(asked: dict[str, Any]) -> int:
    """As many tokens as the prompt can have: a token has at least a byte."""
    if isinstance(tokens := asked.get("tokens"), list):
        return len(tokens)
    return len(orjson.dumps(asked)) + _TEMPLATE_TOKENS
