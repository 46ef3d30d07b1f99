"""What vLLM is told besides the client's request, and what it would get wrong without a word."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import orjson

from terascope.core.errors import BadRequest, UnsupportedFeature
from terascope.engines.contract import EngineCall
from terascope.engines.vllm.vectors import Form, with_vectors
from terascope.protocol.embeds import PART, SOFT_PROMPT, embeds_in, mixed

_TOLD = frozenset({"chat/completions", "completions", "embeddings"})
_SALT = 32  # characters; vLLM takes up to 128, but not all characters that a scope may have
_SUSPECTS = (
    b'"prompt_embeds"', b'"soft_prompt"', b'"reproducible"', b'"cache_salt"',
    b'"stream":"', b'"stream":1', b'"stream":0',
)  # fmt: skip
"""What is looked for in bytes, so that most bodies need not be read."""


def body_of(call: EngineCall, *, vectors: bool = False, adapter: str = "") -> bytes:
    """Return the body to send: the client's, with the call's priority and with whom prefixes are shared at its end.

    Both take the place of fields of these names that the client has sent: of two equal names in an object the last
    one counts. A client's own `cache_salt` divides its scope further. Raises `BadRequest` for what vLLM would silently
    misunderstand. `vectors` says that those in it are as vLLM takes them, `adapter` is vLLM's name of what is added.
    """
    body = call.body.rstrip()
    if call.endpoint not in _TOLD or not body.startswith(b"{") or not body.endswith(b"}"):
        return call.body  # no object: vLLM says so
    fields = _fields(body) if any(one in body for one in _SUSPECTS) else {}
    _refuse_misunderstood(fields, vectors=vectors and call.endpoint == "completions")
    terms = b'"priority":%d' % call.priority
    terms += b',"model":%b' % orjson.dumps(adapter) if adapter else b""
    if isinstance(own := fields.get("cache_salt"), str | None):  # vLLM refuses another
        terms += b',"cache_salt":%b' % _salt(call.scope, own or "")
    before = body[:-1].rstrip()
    return before + (b"" if before.endswith(b"{") else b",") + terms + b"}"


def vectors_of(call: EngineCall, form: Form) -> EngineCall | None:
    """Return `call` with its vectors as vLLM takes them; None when there are none. Raises `BadRequest`."""
    fields = _fields(call.body) if b'"prompt_embeds"' in call.body else {}
    if not embeds_in(fields):
        return None
    for name in ("encoder", "echo"):
        if fields.get(name):
            raise UnsupportedFeature(
                f"vLLM cannot do `{name}` with vectors; ask a replica of the torch engine", param=name
            )
    return replace(call, body=orjson.dumps(with_vectors(call.endpoint, fields, form)))


def mixed_in(call: EngineCall) -> dict[str, Any]:
    """The fields of a completion that has vectors beside anything else; empty of all other requests."""
    fields = _fields(call.body) if call.endpoint == "completions" else {}
    return fields if fields.get(SOFT_PROMPT) or (embeds_in(fields) and mixed(fields)) else {}


@lru_cache(maxsize=4096)
def _salt(scope: str, own: str) -> bytes:
    """The value of `cache_salt`: computed prefixes are shared by equal salts only."""
    if not scope and not own:
        return b"null"
    both = f"{len(scope)}:{scope}{own}".encode(errors="surrogatepass")
    return b'"%b"' % hashlib.sha256(both).hexdigest()[:_SALT].encode()


def _fields(body: bytes) -> dict[str, Any]:
    """The fields of a body that is an object; none of one that cannot be read, which vLLM sees for itself."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _refuse_misunderstood(fields: Mapping[str, Any], *, vectors: bool) -> None:
    """Raise for fields that vLLM would pass over, or read as something else.

    In 0.32 a top-level `prompt_embeds` of a chat gets an answer to the chat without it.
    """
    for name in ("soft_prompt", "reproducible", *(() if vectors else (PART,))):
        if fields.get(name) not in (None, False, []):
            raise UnsupportedFeature(f"vLLM cannot do `{name}` here; ask a replica of the torch engine", param=name)
    if not isinstance(fields.get("stream"), bool | None):
        raise BadRequest("`stream` must be true or false", param="stream")
