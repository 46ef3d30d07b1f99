"""What a remote server is sent for a call."""

import hashlib
from typing import Any

import orjson

from terascope.engines.contract import EngineCall
from terascope.engines.remote.dialects import Dialect

_TOLD = frozenset({"chat/completions", "completions", "embeddings"})
_SALT = 32  # characters


def salted(call: EngineCall, dialect: Dialect) -> bytes:
    """Return the body to send: the client's, and at its end, where that is understood, with whom prefixes are shared.

    The other side learns a number only, not who asks. A client's own `cache_salt` divides its scope further. The empty
    scope is that of those who share with everybody: it adds nothing.
    """
    body = call.body.rstrip()
    if not dialect.salt or not call.scope or call.endpoint not in _TOLD or not body.endswith(b"}"):
        return call.body
    own = object_of(body).get("cache_salt") if b'"cache_salt"' in body else None
    if not isinstance(own, str | None):
        return call.body  # the server refuses it
    salt = hashlib.sha256(f"{call.scope}\0{own or ''}".encode()).hexdigest()[:_SALT]
    before = body[:-1].rstrip()
    return before + (b"" if before.endswith(b"{") else b",") + b'"cache_salt":"%b"}' % salt.encode()


def object_of(body: bytes) -> dict[str, Any]:
    """Return the JSON object that `body` is; an empty one when it is none."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return said if isinstance(said, dict) else {}
