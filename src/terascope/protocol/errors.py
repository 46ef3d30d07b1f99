"""Errors on the wire: OpenAI's shape, plus the request id."""

from typing import Any

import orjson

from terascope.core.errors import ServiceError


def error_body(error: ServiceError, request_id: str) -> bytes:
    """The JSON body of `error`."""
    return error_json(error.message, error.type, error.code, error.param, request_id)


def error_json(message: str, kind: str, code: str | None, param: str | None, request_id: str) -> bytes:
    """`{"error": {...}}` as OpenAI sends it, with `request_id` inside."""
    error = {"message": message, "type": kind, "code": code, "param": param, "request_id": request_id}
    return orjson.dumps({"error": error})


def engine_error(body: bytes) -> dict[str, Any]:
    """What an engine's error body says, whatever its shape: `message`, and `type`, `code`, `param` where given.

    Knows OpenAI's shape, vLLM's older one (`message` at the top), FastAPI's `detail`, and plain text.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(value, dict):
        return {}
    inner = value.get("error")
    if isinstance(inner, dict):
        return inner
    message = inner or value.get("message") or value.get("detail")
    return (
        value | {"message": message if isinstance(message, str) else orjson.dumps(message).decode()} if message else {}
    )
