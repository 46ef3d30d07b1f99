"""Errors on the wire: OpenAI's shape, plus the request id."""

import re
from collections.abc import Mapping
from html import unescape
from typing import Any

import orjson

from terascope.core.errors import ServiceError

_MOST_TEXT = 500  # characters of an error that is not JSON
_TITLE = re.compile(r"<title[^>]*>([^<]*\S[^<]*)</title>", re.IGNORECASE)
_TAG = re.compile(r"<(script|style)\b.*?</\1\s*>|<[^>]*>", re.IGNORECASE | re.DOTALL)


def error_body(error: ServiceError, request_id: str) -> bytes:
    """The JSON body of `error`."""
    return error_json(error.message, error.type, error.code, error.param, request_id)


def error_json(message: str, kind: str, code: str | None, param: str | None, request_id: str) -> bytes:
    """`{"error": {...}}` as OpenAI sends it, with `request_id` inside."""
    error = {"message": message, "type": kind, "code": code, "param": param, "request_id": request_id}
    return orjson.dumps({"error": error})


def engine_error(body: bytes) -> dict[str, Any]:
    """What an engine's error body says, whatever its shape: `message`, and `type`, `code`, `param` where given.

    Knows OpenAI's shape, vLLM's older one (`message` at the top), FastAPI's `detail`, and an error whose message is
    another one as JSON. Empty when it is none of these.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return _unwrapped(_said(value)) if isinstance(value, dict) else {}


def text_of(body: bytes) -> str:
    """What is to be read on the page of a proxy, or the beginning of plain text."""
    text = body.decode("utf-8", "replace")
    if text.lstrip().startswith("<"):
        title = _TITLE.search(text)
        text = unescape(title[1] if title else _TAG.sub(" ", text))
    return " ".join(text.split())[:_MOST_TEXT]


def error_in(said: Mapping[str, Any]) -> dict[str, Any] | None:
    """The error that an answer or an event with status 200 is; None when it is none."""
    return _unwrapped(_said(said)) if said.get("error") or said.get("object") == "error" else None


def _said(value: Mapping[str, Any]) -> dict[str, Any]:
    inner = value.get("error")
    if isinstance(inner, dict):
        return inner
    detail = value.get("detail")
    if isinstance(detail, list) and detail and all(isinstance(one, dict) and "msg" in one for one in detail):
        return {"message": "; ".join(map(_finding, detail)), "param": _place(detail[0]) or None}
    message = inner or value.get("message") or detail
    said = message if isinstance(message, str) else orjson.dumps(message).decode()
    more = {name: value.get(name) for name in ("type", "code", "param") if name in value}
    return {"message": said, **more} if message else {}


def _unwrapped(error: dict[str, Any]) -> dict[str, Any]:
    message = error.get("message")
    if isinstance(message, str) and message.lstrip().startswith("{"):
        inner = engine_error(message.encode("utf-8", "surrogatepass"))
        return inner if inner.get("message") != message and "message" in inner else error
    return error


def _finding(one: Mapping[str, Any]) -> str:
    """One entry of FastAPI's `detail`."""
    place = _place(one)
    return f"{place}: {one['msg']}" if place else str(one["msg"])


def _place(one: Mapping[str, Any]) -> str:
    where = one.get("loc")
    return ".".join(str(part) for part in where if part != "body") if isinstance(where, list) else ""
