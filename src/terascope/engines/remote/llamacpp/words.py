"""`tokenize` and `detokenize` in llama.cpp's form, and its answers in ours."""

from itertools import accumulate
from typing import Any

import orjson

from terascope.core.errors import BadRequest, UnsupportedFeature
from terascope.protocol.openai import DetokenizeRequest, TokenizeRequest
from terascope.protocol.parse import validate

_OF_TEMPLATES = (
    "messages", "tools", "add_generation_prompt", "continue_final_message", "chat_template_kwargs",
)  # fmt: skip


def tokenize_request(fields: dict[str, Any]) -> TokenizeRequest:
    """Return `fields` checked. Raises `BadRequest`, also as `UnsupportedFeature`."""
    request = validate(TokenizeRequest, fields)
    if request.messages is None and request.prompt is None:
        raise BadRequest("give `prompt`, a text, or `messages`", param="prompt")
    if request.messages is not None and request.return_offsets:
        raise UnsupportedFeature("llama.cpp's server tells no offsets of conversations", param="return_offsets")
    return request


def template_of(fields: dict[str, Any]) -> dict[str, Any]:
    """Return what `apply-template` is asked for the text of a conversation."""
    return {name: fields[name] for name in _OF_TEMPLATES if fields.get(name) is not None}


def words_of(request: TokenizeRequest, text: str) -> dict[str, Any]:
    """Return what `tokenize` is asked for `text`: the prompt, or that of a conversation."""
    special = request.add_special_tokens is not False if request.messages is None else bool(request.add_special_tokens)
    return {"content": text, "add_special": special, "parse_special": True, "with_pieces": True}


def tokens_told(request: TokenizeRequest, text: str, said: dict[str, Any], context_length: int) -> bytes:
    """Return a `tokenize` answer in our form.

    Raises `UnsupportedFeature` when offsets are asked for and the tokens do not spell the text.
    """
    found = [one for one in said.get("tokens") or [] if isinstance(one, dict)]
    pieces = [_bytes(one.get("piece")) for one in found]
    told: dict[str, Any] = {
        "count": len(found),
        "max_model_len": context_length,
        "tokens": [one["id"] for one in found],
    }
    if request.return_token_strs:
        told["token_strs"] = [one.decode("utf-8", "replace") for one in pieces]
    if request.return_offsets:
        told["offsets"] = _offsets(text, pieces)
    return orjson.dumps(told)


def tokens_of(fields: dict[str, Any], vocabulary: int) -> dict[str, Any]:
    """Return what `detokenize` is asked. Raises `BadRequest`, for tokens that there are not, too."""
    request = validate(DetokenizeRequest, fields)
    if request.return_pieces:
        raise UnsupportedFeature("llama.cpp's server tells no pieces of tokens; leave it out", param="return_pieces")
    if vocabulary and any(one >= vocabulary for one in request.tokens):
        raise BadRequest(f"tokens: the model's tokens go from 0 to {vocabulary - 1}", param="tokens")
    return {"tokens": request.tokens}


def text_told(said: dict[str, Any]) -> bytes:
    """Return a `detokenize` answer in our form."""
    return orjson.dumps({"prompt": str(said.get("content") or "")})


def _bytes(piece: object) -> bytes:
    """A piece is text, or the numbers of its bytes where it is no whole character."""
    return bytes(piece) if isinstance(piece, list) else str(piece or "").encode()


def _offsets(text: str, pieces: list[bytes]) -> list[list[int]]:
    """The characters of `text` that each piece is a part of."""
    if b"".join(pieces) != text.encode():
        told = "these tokens do not spell the text; ask without `return_offsets` or with `add_special_tokens: false`"
        raise UnsupportedFeature(told, param="return_offsets")
    character = [at for at, one in enumerate(text) for _ in one.encode()]
    ends = [*accumulate(map(len, pieces))]
    return [
        [character[end - len(piece)], character[end - 1] + 1] if piece else [0, 0]
        for piece, end in zip(pieces, ends, strict=True)
    ]
