"""What a request to a model says, as far as Terascope needs to know it; all else is the engine's."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import orjson

from terascope.core.errors import BadRequest
from terascope.core.models import Feature, Mode
from terascope.protocol.embeds import PART, embeds_in, mixed, prompts_in

ENDPOINTS: dict[str, tuple[str, Mode]] = {
    "/v1/chat/completions": ("chat/completions", Mode.QUERY),
    "/v1/completions": ("completions", Mode.QUERY),
    "/v1/embeddings": ("embeddings", Mode.EMBED),
    "/tokenize": ("tokenize", Mode.QUERY),
    "/detokenize": ("detokenize", Mode.QUERY),
    "/v1/traces": ("traces", Mode.INTERNALS),
    "/v1/traces/sites": ("traces/sites", Mode.INTERNALS),
}
"""Path of the gateway -> endpoint of the engine, and the mode of use that it needs."""
_STREAMED = frozenset({"chat/completions", "completions", "embeddings", "traces"})
"""Endpoints that can stream; to others `stream` is a field like any that they do not know."""

FILE_SEARCH = "file_search"
"""The tool that is the gateway's and not the engine's."""
_ANSWERS = ("chat/completions", "completions")

# The parameters that go into a run record: how the model was asked, never what.
_PARAMETERS = frozenset({
    "temperature", "top_p", "top_k", "min_p", "seed", "n", "max_tokens", "max_completion_tokens", "min_tokens",
    "presence_penalty", "frequency_penalty", "repetition_penalty", "logprobs", "top_logprobs", "echo", "best_of",
    "ignore_eos", "dimensions", "layer", "normalize", "priority", "reproducible",
})  # fmt: skip
_WORDS = {
    "encoding_format": ("float", "base64"),
    "pooling": ("last", "mean", "cls", "max", "weighted", "none"),
    "truncate": ("error", "start", "end"),
    "reasoning_effort": ("none", "minimal", "low", "medium", "high", "xhigh", "max"),
}
"""Parameters that are words, with those that are recorded: any other word could be content."""
_MOST_DIGITS = 40  # Python's integers have no end, but a setting has


Kind = tuple[str, frozenset[Mode], frozenset[str]]
"""Endpoint, modes and needed features: requests of one kind can be served by the same replicas."""


@dataclass(frozen=True)  # without slots: what follows from the fields is worked out once
class ModelRequest:
    """A request's body, read once.

    `fields` is the whole JSON object as it came: the OpenAI schema is a floor, not a cage. `stream` is what is
    asked of an endpoint that can stream. `dry_run` is a trace that is only to be priced: it is never streamed.
    """

    endpoint: str
    mode: Mode
    model: str
    stream: bool
    keep_usage: bool
    size: int
    fields: dict[str, Any] = field(repr=False)
    dry_run: bool = False
    soft_prompt: str = ""
    """The name of the soft prompt after the `+` of `model`."""
    labels: Mapping[str, object] = field(default_factory=dict, hash=False)
    """What was put in the place of names, for the record."""
    annotations: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    """What the answer is to name as its sources."""
    sources: str = ""
    """The vector stores that were searched for it, each with its version."""
    adapted: bool = False
    """Whether `model` turned out to be an adapter."""

    @classmethod
    def read(cls, endpoint: str, mode: Mode, raw: bytes) -> "ModelRequest":
        """Parse `raw`.

        Raises `BadRequest` when it is not a JSON object or a field that Terascope itself reads has the wrong type.
        """
        fields = read_object(raw)
        model = fields.get("model")
        if not isinstance(model, str) or not model:
            raise BadRequest("`model` must name a model; GET /v1/models lists them", param="model")
        stream = fields.get("stream")
        if stream is not None and not isinstance(stream, bool):
            raise BadRequest("`stream` must be true or false", param="stream")
        options = fields.get("stream_options")
        if options is not None and not isinstance(options, dict):
            raise BadRequest("`stream_options` must be an object", param="stream_options")
        if stream and endpoint == "traces" and fields.get("format") == "file":
            raise BadRequest("what goes into a file is not streamed; leave `stream` out", param="stream")
        keep_usage = endpoint not in _ANSWERS or bool(options and options.get("include_usage"))
        name, plus, soft_prompt = model.partition("+")
        if plus and (endpoint not in _ANSWERS or not soft_prompt):
            raise BadRequest(
                f"{model[:80]!r}: a soft prompt is for chat and completions, `name+softprompt`", param="model"
            )
        dry_run = endpoint == "traces" and fields.get("dry_run") is True
        streamed = bool(stream) and endpoint in _STREAMED and not dry_run
        return cls(endpoint, mode, name, streamed, keep_usage, len(raw), fields, dry_run, soft_prompt)

    def as_dry_run(self) -> "ModelRequest":
        """The same trace, asked only for what it would cost."""
        return replace(self, stream=False, dry_run=True, fields=self.fields | {"dry_run": True})

    @property
    def by_reference(self) -> bool:
        """Whether the result is to be kept as a file."""
        return self.endpoint == "traces" and self.fields.get("format") == "file"

    @property
    def searches_files(self) -> bool:
        """Whether passages of vector stores are to be put before its question."""
        tools = self.fields.get("tools") if self.endpoint == "chat/completions" else None
        return isinstance(tools, list) and any(
            isinstance(one, dict) and one.get("type") == FILE_SEARCH for one in tools
        )

    @property
    def encoder(self) -> str:
        """The name of the projector that its vectors are to go through."""
        name = self.fields.get("encoder") if self.embeds else None
        return name if isinstance(name, str) else ""

    @cached_property
    def embeds(self) -> list[str]:
        """The vectors in its prompts, as they were sent."""
        return embeds_in(self.fields) if self.endpoint in _ANSWERS else []

    @cached_property
    def modes(self) -> frozenset[Mode]:
        """The modes that it needs: vectors in place of text need `embed`, too."""
        return _WITH_VECTORS[self.mode] if self.embeds or self.soft_prompt else _ALONE[self.mode]

    @cached_property
    def choices(self) -> int:
        """How many choices a whole answer has."""
        n, prompt = self.fields.get("n"), self.fields.get("prompt")
        if not prompt and PART in self.fields:
            return (n if type(n) is int and n > 0 else 1) * prompts_in(self.fields[PART])
        prompts = len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1
        return (n if type(n) is int and n > 0 else 1) * prompts

    @property
    def kind(self) -> Kind:
        """What a replica must be able to do."""
        return self.endpoint, self.modes, self.needs()

    def body_for(self, served_name: str) -> bytes:
        """The JSON for the engine: `model` by its served name, usage always asked, all else as it came."""
        body = self.fields | {"model": served_name}
        if self.by_reference:  # the engine knows nothing of files
            body["format"] = "safetensors"
        if self.stream and not self.keep_usage:
            body["stream_options"] = (self.fields.get("stream_options") or {}) | {"include_usage": True}
        return orjson.dumps(body)

    def parameters(self) -> dict[str, object]:
        """The settings for the run record; nothing of the prompt is among them."""
        numbers = {
            name: value
            for name in sorted(_PARAMETERS.intersection(self.fields))
            if isinstance(value := self.fields[name], (bool, int, float)) and len(str(value)) <= _MOST_DIGITS
        }
        words = {
            name: self.fields[name] for name in _WORDS if name in self.fields and self.fields[name] in _WORDS[name]
        }
        return numbers | words | {**self.labels}

    def needs(self) -> frozenset[str]:
        """The features an engine must have for this request."""
        telling = self.adapted or self.soft_prompt or self.embeds or self.endpoint == "embeddings"
        if not telling and _TELLING.isdisjoint(self.fields):
            return _NOTHING
        asked = _FEATURES.keys() & self.fields.keys()
        found = {_FEATURES[name] for name in asked if _asked(self.fields[name])}
        found |= {Feature.PROMPT_EMBEDS} if self.embeds or self.soft_prompt else set()
        found |= self._needs_of_mixing()
        if self.endpoint == "embeddings":
            found |= {feature for name, feature in _OF_EMBEDDINGS.items() if _asked(self.fields.get(name))}
        found |= {Feature.ADAPTERS} if self.adapted else set()
        return frozenset(found | self._needs_of_choices())

    def _needs_of_mixing(self) -> set[str]:
        """What vectors beside anything else ask of an engine."""
        if not self.soft_prompt and not (self.embeds and mixed(self.fields)):
            return set()
        plain = self.endpoint == "completions" and not any(self.fields.get(name) for name in ("encoder", "echo"))
        return {Feature.MIXED_COMPLETIONS if plain else Feature.MIXED_PROMPTS}

    def _needs_of_choices(self) -> set[str]:
        """What the number of choices and the demand for a tool call ask of an engine."""
        choice, n, temperature = (self.fields.get(name) for name in ("tool_choice", "n", "temperature"))
        found: set[str] = {Feature.ENFORCED_TOOLS} if choice == "required" or isinstance(choice, dict) else set()
        greedy = type(temperature) in (int, float) and temperature == 0
        return found | ({Feature.SEVERAL_GREEDY} if type(n) is int and n > 1 and greedy else set())


_ALONE = {mode: frozenset({mode}) for mode in Mode}
_WITH_VECTORS = {mode: frozenset({mode, Mode.EMBED}) for mode in Mode}
_FEATURES: dict[str, str] = {
    "logprobs": Feature.LOGPROBS,
    "tools": Feature.TOOLS,
    "echo": Feature.ECHO,
    "logit_bias": Feature.LOGIT_BIAS,
    "reproducible": Feature.REPRODUCIBLE,
}


_OF_EMBEDDINGS: dict[str, str] = {
    "layer": Feature.EMBEDDING_LAYERS,
    "pooling": Feature.EMBEDDING_LAYERS,
    "truncate": Feature.EMBEDDING_OPTIONS,
    "windows": Feature.EMBEDDING_OPTIONS,
    "stream": Feature.EMBEDDING_OPTIONS,
    "dimensions": Feature.DIMENSIONS,
}
"""What an engine that does not know it would leave out without a word, and give other vectors."""
_TELLING = frozenset({*_FEATURES, "tool_choice", "n"})
"""Fields that tell of a feature that the request needs, other than for embeddings; most requests have none of them."""
_NOTHING: frozenset[str] = frozenset()


def _asked(value: Any) -> bool:
    return value is not None and value is not False and value != [] and value != {}


def read_object(raw: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises `BadRequest` for anything else: bad UTF-8, bad JSON, nesting deeper than 1,024, NaN, another type; and
    for an integer of more than 64 bits, which could not be passed on as it is.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadRequest("the body must be a JSON object")
    if _MANY_DIGITS.search(raw):
        _check_integers(raw)
    return value


_MANY_DIGITS = re.compile(rb"[0-9]{19}")


def _check_integers(raw: bytes) -> None:
    """Our JSON reader makes a float of an integer that is too large, silently."""

    def check(digits: str) -> None:
        if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
            raise BadRequest("the body has an integer of more than 64 bits")

    try:
        json.loads(raw, parse_int=check)
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
