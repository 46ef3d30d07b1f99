"""Answers that are errors, or wrong where they should be one; see `fault_scripts`."""

import orjson

from terascope.protocol.sse import DONE, event
from terascope.testing.scripts import TEXT, Asked, Fault, Script, Sleep

# in another shape than OpenAI's


def html(asked: Asked) -> Script:
    """The error page of a proxy in between."""
    return Script([b"<html><body><h1>502 Bad Gateway</h1></body></html>"], 502, "text/html")


def detail(asked: Asked) -> Script:
    """FastAPI's error body, 422. SwissAI's gateway passed such on."""
    said = {"detail": [{"loc": ["body", "temperature"], "msg": "Input should be a valid number", "type": "float_type"}]}
    return Script([orjson.dumps(said)], 422)


def detail_text(asked: Asked) -> Script:
    """FastAPI's other error body, 400."""
    return Script([orjson.dumps({"detail": "There is no such template"})], 400)


def plain_error(asked: Asked) -> Script:
    """Status 500 and plain text, as uvicorn answers when an application fails."""
    return Script([b"Internal Server Error"], 500, "text/plain; charset=utf-8")


def long_error(asked: Asked) -> Script:
    """Status 500 and `size` bytes (3 MB) of plain text."""
    return Script([b"x" * int(asked.number("size", 3_000_000))], 500, "text/plain")


def old_error(asked: Asked) -> Script:
    """The error body of older vLLM: everything at the top."""
    return Script([_old("max_tokens is too large")], 400)


def empty_error(asked: Asked) -> Script:
    """Status 503 and no body."""
    return Script([], 503)


def wrapped_error(asked: Asked) -> Script:
    """An error whose message is another error as JSON. AIBrix wraps errors twice."""
    return Script([_error(_error("the prompt is too long", "invalid_request_error").decode(), "proxy_error")], 400)


# in OpenAI's shape


def limited(asked: Asked) -> Script:
    """429 with `Retry-After: 7`."""
    return Script([_error("too many requests", "rate_limit_error")], 429, headers=(("Retry-After", "7"),))


def overloaded(asked: Asked) -> Script:
    """503 with `Retry-After: 11`."""
    return Script([_error("no slot is free", "server_error")], 503, headers=(("Retry-After", "11"),))


def failed(asked: Asked) -> Script:
    """An error of `status` (500) in OpenAI's shape."""
    return Script([_error("the engine ran out of memory", "server_error")], int(asked.number("status", 500)))


def key_refused(asked: Asked) -> Script:
    """The engine does not take the gateway's own key: `status` (401), and words that quote it."""
    said = {"message": "Incorrect API key provided: sk-up***am", "type": "invalid_request_error", "param": None}
    return Script([orjson.dumps({"error": said | {"code": "invalid_api_key"}})], int(asked.number("status", 401)))


def not_served(asked: Asked) -> Script:
    """The engine does not have the model: 404 as vLLM says it."""
    said = {"message": "The model `m` does not exist.", "type": "NotFoundError", "param": "model", "code": 404}
    return Script([orjson.dumps({"error": said})], 404)


def error_event(asked: Asked) -> Script:
    """An error event in mid-stream, then `[DONE]`, as vLLM sends it; instead of a whole answer, an error."""
    if not asked.stream:
        return failed(asked)
    return asked.broken(TEXT, event(_error("the request was aborted", "server_error")), DONE)


def old_error_event(asked: Asked) -> Script:
    """The same from older vLLM: everything at the top."""
    if not asked.stream:
        return failed(asked)
    return asked.broken(TEXT, event(_old("the request was aborted")), DONE)


# where there should be one


def error_as_200(asked: Asked) -> Script:
    """An error body with status 200."""
    return Script([_error("the engine ran out of memory", "server_error")])


def redirect(asked: Asked) -> Script:
    """Status 307 and a JSON body."""
    return Script([b'{"message":"moved"}'], 307, headers=(("Location", "https://login.example/"),))


def not_json(asked: Asked) -> Script:
    """Status 200 and a body that is not JSON."""
    return Script([b"Everything is fine, but this is not JSON."])


def json_for_stream(asked: Asked) -> Script:
    """A whole answer after `seconds` (0), although a stream was asked for."""
    return Script([Sleep(asked.number("seconds", 0)), *asked.right(TEXT, stream=False)])


ERRORS: tuple[Fault, ...] = (
    html, detail, detail_text, plain_error, long_error, old_error, empty_error, wrapped_error, limited, overloaded,
    failed, key_refused, not_served, error_event, old_error_event, error_as_200, redirect, not_json, json_for_stream,
)  # fmt: skip
"""Every fault of this module."""


def _error(message: str, kind: str) -> bytes:
    return orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": None}})


def _old(message: str) -> bytes:
    return orjson.dumps({"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": 400})
