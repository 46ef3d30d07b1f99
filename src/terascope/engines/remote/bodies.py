"""What a remote server is sent for a call, and what its answer is turned into where it has words of its own."""

import hashlib
from typing import Any

import orjson

from terascope.core.errors import BadRequest, UnsupportedFeature
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


def llama_tokenize(fields: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return where and what llama.cpp is asked for the tokens of a `tokenize` request.

    A conversation is asked for as text first: then the path is `apply-template`. Raises `BadRequest`.
    """
    for name in ("return_token_strs", "return_offsets"):
        if fields.get(name):
            raise UnsupportedFeature(f"llama.cpp's server cannot do `{name}`; ask without it", param=name)
    if (messages := fields.get("messages")) is not None:
        return "apply-template", {"messages": messages}
    if not isinstance(prompt := fields.get("prompt"), str):
        raise BadRequest("give `prompt`, a text, or `messages`", param="prompt")
    return "tokenize", words_to_tokens(prompt, special=fields.get("add_special_tokens") is not False)


def words_to_tokens(text: str, *, special: bool) -> dict[str, Any]:
    """Return what llama.cpp is asked for the tokens of `text`."""
    return {"content": text, "add_special": special, "parse_special": True}


def llama_tokens(said: dict[str, Any], context_length: int) -> bytes:
    """Return a `tokenize` answer in our form."""
    tokens = said.get("tokens") or []
    return orjson.dumps({"count": len(tokens), "max_model_len": context_length, "tokens": tokens})


def llama_text(said: dict[str, Any]) -> bytes:
    """Return a `detokenize` answer in our form."""
    return orjson.dumps({"prompt": str(said.get("content") or "")})


def object_of(body: bytes) -> dict[str, Any]:
    """Return the JSON object that `body` is; an empty one when it is none."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return said if isinstance(said, dict) else {}
