"""What a request may cost at most, as far as that can be said without a tokenizer."""

from typing import NamedTuple

import orjson

from terascope.core.models import ModelVersion
from terascope.core.prices import Price
from terascope.internals.limits import BYTES_PER_MICRO, GRADIENT_SHARE, Cost
from terascope.protocol.embeds import count
from terascope.protocol.request import ModelRequest

_TEMPLATE_TOKENS = 512  # what a chat template writes around all of a conversation,
_MESSAGE_TOKENS = 16  # and around each message
_FREE = ("tokenize", "detokenize", "traces/sites")
_NO_OUTPUT = ("embeddings",)
_IN_WINDOWS = 4  # times that a token is computed at most: two windows have it, half of whose tokens only stand around
_ENDLESS = 1 << 60  # the context of a model that does not say
_BYTES_A_TOKEN = 4  # of ordinary text: what a prompt probably has when nobody counted


class Estimate(NamedTuple):
    """Upper bounds in tokens, and bytes of results. `output` is None when the request does not limit its answer."""

    prompt: int
    output: int | None
    choices: int = 1
    captured_bytes: int = 0
    probable: int = 0
    """Tokens that the prompt probably has, where nobody counted them; no bound."""

    @classmethod
    def exact(cls, cost: Cost) -> "Estimate":
        """What an engine says that a trace takes."""
        prompt = cost.prompt_tokens + GRADIENT_SHARE * cost.gradient_tokens
        return cls(prompt, cost.output_tokens, captured_bytes=cost.captured_bytes)

    def amount(self, price: Price, slice_tokens: int) -> int:
        """Micro service units; of an answer without a limit the first `slice_tokens` of each choice."""
        output = slice_tokens * self.choices if self.output is None else self.output
        captured = -(-self.captured_bytes // BYTES_PER_MICRO) if self.captured_bytes else 0
        return price.prompt * self.prompt + price.output * output + captured

    @classmethod
    def of(cls, request: ModelRequest, version: ModelVersion) -> "Estimate":
        """Estimate `request`: every byte of it may be a token, and a template adds to it."""
        if is_free(request):
            return cls(0, 0)
        if request.endpoint == "traces":
            return _trace(request, version)
        fields, choices, longest = request.fields, request.choices, version.context_length or _ENDLESS
        messages, inputs = fields.get("messages"), fields.get("input")
        around = _TEMPLATE_TOKENS + _MESSAGE_TOKENS * (len(messages) if isinstance(messages, list) else 1)
        parts = len(inputs) if isinstance(inputs, list) and inputs and not isinstance(inputs[0], int) else 1
        text, vectors = _text_and_vectors(request)
        prompt = min(text + vectors + around, longest * max(parts, choices))
        probable = min(text // _BYTES_A_TOKEN + vectors, longest * choices)
        if request.endpoint in _NO_OUTPUT:
            if fields.get("windows") is not None:
                prompt = _IN_WINDOWS * (text + around)  # long inputs are welcome there, and windows may overlap
            return cls(prompt, 0, probable=probable)
        choices = max(choices, _positive(fields.get("best_of")))
        limit = _positive(fields.get("max_completion_tokens")) or _positive(fields.get("max_tokens"))
        return cls(prompt, min(limit, longest) * choices if limit else None, choices, probable=probable)


def _trace(request: ModelRequest, version: ModelVersion) -> Estimate:
    """Where no engine says it: every byte of a prompt may be a token; a gradient reads them again in each of its steps,
    at its own price. Arrays are no tokens."""
    prompts, gradient = request.fields.get("prompts"), request.fields.get("gradient")
    rows = len(prompts) if isinstance(prompts, list) and prompts else 1
    steps = max(1, _positive(gradient.get("steps"))) if isinstance(gradient, dict) else 0
    text, vectors = _text_and_vectors(request)
    prompt = _capped(text + rows * _TEMPLATE_TOKENS, version, rows) * (1 + GRADIENT_SHARE * steps)
    output = _capped(_positive(request.fields.get("max_tokens")), version, 1) * rows
    return Estimate(prompt, output, probable=_probable(text, vectors, request, version))


def is_free(request: ModelRequest) -> bool:
    """Whether it asks for next to no work, and so neither costs nor waits for its turn."""
    return request.endpoint in _FREE or request.dry_run


def probable_prompt_tokens(request: ModelRequest, version: ModelVersion) -> int:
    """How many tokens the prompt probably had, where no engine said."""
    if is_free(request):
        return 0
    return _probable(*_text_and_vectors(request), request, version)


def _probable(text: int, vectors: int, request: ModelRequest, version: ModelVersion) -> int:
    return _capped(text // _BYTES_A_TOKEN + vectors, version, _prompts(request))


def _prompts(request: ModelRequest) -> int:
    prompts = request.fields.get("prompts") if request.endpoint == "traces" else None
    return len(prompts) if isinstance(prompts, list) and prompts else request.choices


def _text_and_vectors(request: ModelRequest) -> tuple[int, int]:
    """Bytes that are not of vectors, and how many vectors there are, each of which counts as a token.

    Of a trace its prompts are counted, not its arrays and operations.
    """
    if request.endpoint == "traces":
        return len(orjson.dumps(request.fields.get("prompts"))), 0
    found = request.embeds
    if not found:
        return request.size, 0
    return max(0, request.size - sum(map(len, found))), sum(map(count, found))


def _capped(tokens: int, version: ModelVersion, times: int) -> int:
    return min(tokens, version.context_length * times) if version.context_length else tokens


def _positive(value: object) -> int:
    return min(value, 1 << 40) if type(value) is int and value > 0 else 0
