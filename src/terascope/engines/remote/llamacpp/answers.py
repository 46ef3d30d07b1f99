"""What llama.cpp's server says, in OpenAI's form: choices brought together, what they took added up, errors told."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from terascope.core.errors import BadRequest, ContextLengthExceeded, ServiceError, UnsupportedFeature
from terascope.engines.made import MadeAnswer
from terascope.engines.remote.llamacpp.calls import as_call
from terascope.engines.remote.llamacpp.requests import COMPLETIONS, Order
from terascope.protocol.errors import engine_error, error_body

_TOO_LONG = re.compile(r"input \((\d+) tokens\) is too large")
_WRONG = ("failed to parse messages", "failed to parse tools", "_m_range_check")
"""How the server begins to tell of its own failure when the request is wrong."""


def whole(order: Order, said: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the one answer that those to the order's bodies are together."""
    choices = [Choice(order, index).whole(one["choices"][0]) for index, one in enumerate(said)]
    choices = [as_call(one) for one in choices] if order.calls_tool else choices
    first = {name: value for name, value in said[0].items() if name != "timings" or len(said) == 1}
    return first | {"choices": choices, "usage": usage_of(order, [one.get("usage") or {} for one in said])}


def usage_of(order: Order, usages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the whole request took: each prompt is counted once, the tokens of all choices are."""
    prompts = usages[:: order.choices]
    prompt = sum(int(one.get("prompt_tokens") or 0) for one in prompts)
    made = sum(int(one.get("completion_tokens") or 0) for one in usages)
    cached = sum(int((one.get("prompt_tokens_details") or {}).get("cached_tokens") or 0) for one in prompts)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": made,
        "total_tokens": prompt + made,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


class Choice:
    """One choice of an answer, number `index`; of a stream it is told piece by piece, in order."""

    def __init__(self, order: Order, index: int) -> None:
        self._order = order
        self._index = index
        self._written = 0  # characters of tokens with log-probabilities

    def whole(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """Return the choice, or a piece of it, numbered and with its log-probabilities in OpenAI's form."""
        choice = {**said, "index": self._index}
        found = said.get("logprobs")
        if isinstance(found, dict) and isinstance(found.get("content"), list):
            choice["logprobs"] = self._logprobs(found["content"])
        return choice

    def _logprobs(self, entries: list[dict[str, Any]]) -> dict[str, Any]:
        if self._order.endpoint == COMPLETIONS:
            return self._listed(entries)
        rivals = self._order.rivals or 0
        return {"content": [one | {"top_logprobs": one.get("top_logprobs", [])[:rivals]} for one in entries]}

    def _listed(self, entries: list[dict[str, Any]]) -> dict[str, Any]:
        """What a chat says entry by entry is four lists in a completion; it begins at the answer's first character."""
        tokens = [str(one.get("token", "")) for one in entries]
        offsets = []
        for token in tokens:
            offsets.append(self._written)
            self._written += len(token)
        numbers = [float(one["logprob"]) for one in entries]
        return {
            "tokens": tokens,
            "token_logprobs": numbers,
            "top_logprobs": [self._rivals(*one) for one in zip(tokens, numbers, entries, strict=True)],
            "text_offset": offsets,
        }

    def _rivals(self, token: str, number: float, entry: Mapping[str, Any]) -> dict[str, float]:
        """The likeliest tokens, and the one that came."""
        rivals = entry.get("top_logprobs", [])[: self._order.rivals or 0]
        return {str(one["token"]): float(one["logprob"]) for one in rivals} | {token: number}


def late_error(said: Mapping[str, Any], request_id: str) -> MadeAnswer:
    """Return the answer that an error is which was told when a stream had begun."""
    body = orjson.dumps(said)
    code = engine_error(body).get("code")
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    meant = error_of(status, body)
    return MadeAnswer(meant.status, error_body(meant, request_id)) if meant else MadeAnswer(status, body)


def error_of(status: int, body: bytes) -> ServiceError | None:
    """Return what the server's error means where it says it otherwise than it is; None where it does not.

    It says 500 of some wrong requests, which would be sent again and again, and has a type of its own for a long one.
    """
    said = engine_error(body)
    message = str(said.get("message") or "")
    if said.get("type") == "exceed_context_size_error":
        return ContextLengthExceeded(message)
    if status != 500:
        return None
    if found := _TOO_LONG.search(message):
        return ContextLengthExceeded(f"this server takes no input of {found[1]} tokens at once: {message}")
    if "input is not supported" in message or "does not support" in message:
        return UnsupportedFeature(message)
    return BadRequest(message) if any(one in message.lower() for one in _WRONG) else None
