"""From the bytes of a request to its model, with errors that name the field."""

from collections.abc import Sequence
from typing import TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from terascope.core.errors import BadRequest
from terascope.protocol.openai import Wire

Model = TypeVar("Model", bound=BaseModel)


def parse(kind: type[Model], body: bytes) -> Model:
    """Return `body` as a `kind`.

    Raises `BadRequest` whose message says what is wrong where, and whose `param` is the field.
    """
    return validate(kind, load(body))


def load(body: bytes) -> dict[str, object]:
    """Return the JSON object in `body`. Raises `BadRequest` when it is anything else, NaN and bad UTF-8 included."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadRequest("the body must be a JSON object")
    return value


def validate(kind: type[Model], value: dict[str, object]) -> Model:
    """Return `value` as a `kind`. Raises `BadRequest`."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise bad_request(error.errors(include_url=False, include_context=False), value) from None


def ignored_fields(request: Wire) -> tuple[str, ...]:
    """Return the names of the top-level fields of `request` that its model does not know."""
    return tuple(request.model_extra or ())


def bad_request(errors: Sequence[ErrorDetails], value: object) -> BadRequest:
    """The error that tells the likeliest of what pydantic found wrong with `value`."""
    found = max(errors, key=lambda e: _likelihood(e, value))
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in _place(found, value)).lstrip(".")
    message = found["msg"].removeprefix("Value error, ").replace("Input should be", "must be") + _given(found)
    return BadRequest(f"{where or 'body'}: {message}", param=where or None)


def _given(error: ErrorDetails) -> str:
    """The value, where it is a word in place of one of few known words; no other value is repeated."""
    word = error["input"]
    return f", not {word!r}" if error["type"] == "literal_error" and isinstance(word, str) and len(word) < 40 else ""


def _likelihood(error: ErrorDetails, value: object) -> tuple[bool, int, bool, int]:
    """Order the errors of a union's members: the member that was meant fits further into the value than others.

    An error of our own knows best what was meant.
    """
    place = _place(error, value)
    index = place[-1] if place and isinstance(place[-1], int) else 0
    return not error["type"].endswith("_type"), len(place), error["type"] == "value_error", index


def _place(error: ErrorDetails, value: object) -> list[int | str]:
    """The error's location without the names of union members, which are not in the request."""
    place: list[int | str] = []
    for i, part in enumerate(error["loc"]):
        missing = error["type"] == "missing" and i == len(error["loc"]) - 1
        if isinstance(value, dict) and (part in value or missing):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            continue
        place.append(part)
    return place
