"""What vLLM is told besides the client's request, and what it would get wrong without a word."""

import hashlib
from functools import lru_cache
from typing import Any

import orjson

from terascope.core.errors import BadRequest, UnsupportedFeature
from terascope.engines.contract import EngineCall

_TOLD = frozenset({"chat/completions", "completions", "embeddings"})
_SALT = 32  # characters; vLLM takes up to 128, but not all characters that a scope may have
_SUSPECTS = (b'"prompt_embeds"', b'"soft_prompt"', b'"reproducible"', b'"stream":"', b'"stream":1', b'"stream":0')


def body_of(call: EngineCall) -> bytes:
    """Return the body to send: the client's, with the call's priority and with whom prefixes are shared at its end.

    Both take the place of fields of these names that the client has sent: of two equal names in an object the last
    one counts. Raises `BadRequest` for what vLLM would silently misunderstand.
    """
    body = call.body
    if call.endpoint not in _TOLD:
        return body
    if any(one in body for one in _SUSPECTS):
        _refuse_misunderstood(body)
    head = body.rstrip()
    if not head.endswith(b"}") or not head.startswith(b"{"):
        return body  # no object: vLLM says so
    terms = b'"priority":%d,"cache_salt":%b' % (call.priority, _salt(call.scope))
    before = head[:-1].rstrip()
    return before + (b"" if before.endswith(b"{") else b",") + terms + b"}"


@lru_cache(maxsize=4096)
def _salt(scope: str) -> bytes:
    """The value of `cache_salt`: computed prefixes are shared by equal salts only."""
    return b'"%b"' % hashlib.sha256(scope.encode()).hexdigest()[:_SALT].encode() if scope else b"null"


def _refuse_misunderstood(body: bytes) -> None:
    """Raise for fields that vLLM would pass over, or read as something else; bytes that are no JSON are its own to see.

    In 0.32 a top-level `prompt_embeds` of a chat gets an answer to the chat without it.
    """
    try:
        fields: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return
    if not isinstance(fields, dict):
        return
    for name in ("prompt_embeds", "soft_prompt", "reproducible"):
        if fields.get(name) not in (None, False, []):
            raise UnsupportedFeature(f"vLLM cannot do `{name}` here; ask a replica of the torch engine", param=name)
    if not isinstance(fields.get("stream"), bool | None):
        raise BadRequest("`stream` must be true or false", param="stream")
