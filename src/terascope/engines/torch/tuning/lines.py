"""The lines of training files, one at a time: no file is ever in memory as a whole."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import orjson

from terascope.core.errors import BadRequest
from terascope.core.tuning import TuningMethod
from terascope.protocol.embeds import PART
from terascope.protocol.fine_tuning import ChatLine, CompletionLine
from terascope.protocol.openai import ContentPart
from terascope.protocol.parse import validate

MOST_LINE = 64 << 20
"""Bytes of a line."""
Line = ChatLine | CompletionLine


@dataclass(frozen=True, slots=True)
class Raw:
    """A line as it is in the file: its number from 1, where it begins, its bytes."""

    number: int
    start: int
    text: bytes


def raw_lines(file: BinaryIO, name: str = "training_file") -> Iterator[Raw]:
    """Yield the lines of `file` that are not empty. Raises `BadRequest` at one that is too long."""
    start = number = 0
    while text := file.readline(MOST_LINE + 1):
        number += 1
        if len(text) > MOST_LINE:
            raise at_line(number, BadRequest(f"it has more than {MOST_LINE:,} bytes"), name)
        if text.strip():
            yield Raw(number, start, text)
        start += len(text)


def read_line(text: bytes, method: TuningMethod) -> Line:
    """Return what a line says. Raises `BadRequest` when it is nothing that `method` can learn from."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"it is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadRequest("it is not a JSON object")
    if ("messages" in value) == ("completion" in value):
        raise BadRequest('it must be {"messages": [...]} or {"prompt": ..., "completion": ...}')
    line = validate(ChatLine, value) if "messages" in value else validate(CompletionLine, value)
    _check_vectors(line, method)
    return line


def at_line(number: int, error: BadRequest, name: str = "training_file") -> BadRequest:
    """The error of a line as an error of its file."""
    return BadRequest(f"{name}, line {number}: {error.message}", param=name)


def vectors_of(line: Line) -> list[str]:
    """Return all vectors of a line, as they were sent."""
    if isinstance(line, CompletionLine):
        given = line.prompt_embeds
        parts = given if isinstance(given, list) else []
        return [given] if isinstance(given, str) else _in_parts(parts)
    return _in_parts([part for one in line.messages if isinstance(one.content, list) for part in one.content])


def _in_parts(parts: Sequence[ContentPart]) -> list[str]:
    return [part.prompt_embeds or "" for part in parts if part.type == PART]


def _check_vectors(line: Line, method: TuningMethod) -> None:
    has = bool(vectors_of(line))
    if has and method is not TuningMethod.PROJECTOR:
        raise BadRequest(f"it has vectors (`{PART}`), which only a projector learns from")
    if not has and method is TuningMethod.PROJECTOR:
        raise BadRequest(f"it has no vectors (`{PART}`), and a projector learns from nothing else")
