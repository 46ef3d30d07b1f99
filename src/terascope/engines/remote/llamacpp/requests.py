"""From a request to what llama.cpp's server is asked: one body for each choice, in words that it heeds.

The server passes over what it does not know, and some of what it knows: such a request is refused here. Of several
choices it counts the tokens of the first alone, so each is asked for apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from terascope.core.errors import BadRequest, ModelNotFound, UnsupportedFeature
from terascope.engines.contract import EngineCall
from terascope.engines.remote.llamacpp.calls import demanded, schema_of
from terascope.engines.remote.llamacpp.schemas import check_schema
from terascope.protocol.openai import ChatCompletionRequest, CompletionRequest, EmbeddingRequest, ResponseFormat
from terascope.protocol.parse import load, validate

CHAT, COMPLETIONS = "chat/completions", "completions"
_MOST_CHOICES = 256
_SEEDS = 2**32 - 1  # the one after them means "any"
_REFUSED = (
    "echo", "suffix", "cache_salt", "reproducible", "prompt_embeds", "soft_prompt", "encoder", "min_tokens",
    "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "stop_token_ids",
    "bad_words", "allowed_token_ids", "prompt_logprobs", "truncate_prompt_tokens", "include_stop_str_in_output",
    "functions", "function_call", "web_search_options", "audio",
)  # fmt: skip
"""What the server passes over without a word, though the answer would be another."""
_ASKED_APART = frozenset({
    "n", "best_of", "max_tokens", "max_completion_tokens", "repetition_penalty", "stream", "stream_options", "logprobs",
    "top_logprobs", "seed", "prompt", "min_tokens", "add_special_tokens",
})  # fmt: skip
"""Fields of which `_common` and its callers say themselves what the server is told."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for one request, as streams: `choices` bodies for each prompt, the prompts in their order.

    `stream`: whether the answer is to be one, too; `usage`: whether that ends in the usage of the whole. `rivals`: how
    many other tokens are to be told with each log-probability, None where none are asked for. `calls_tool`: the text is
    a call that was demanded.
    """

    endpoint: str
    bodies: tuple[bytes, ...]
    choices: int = 1
    stream: bool = False
    usage: bool = False
    rivals: int | None = None
    calls_tool: bool = False

    @property
    def plain(self) -> bool:
        """Whether the stream that the server answers can be passed on as it is."""
        kept = self.endpoint == CHAT and self.rivals != 0 and not self.calls_tool
        return self.stream and kept and len(self.bodies) == 1

    def calls(self, call: EngineCall) -> list[EngineCall]:
        """Return the calls to make for `call`."""
        return [replace(call, body=body) for body in self.bodies]


def order_of(call: EngineCall, name: str) -> Order:
    """Return what is asked for a chat or a completion of the model called `name`.

    Raises `BadRequest`, also as `UnsupportedFeature`, and `ModelNotFound` for the name of another model.
    """
    fields = load(call.body)
    check_model(fields, name)
    return _chat(fields) if call.endpoint == CHAT else _completion(fields)


def embeddings_of(call: EngineCall, name: str) -> EngineCall:
    """Return what is asked for embeddings. Raises as `order_of` does."""
    fields = load(call.body)
    check_model(fields, name)
    request = validate(EmbeddingRequest, fields)
    for field in ("dimensions", "layer", "pooling", "truncate", "windows", "stream"):
        if fields.get(field) not in (None, False):
            raise UnsupportedFeature(f"llama.cpp's server cannot do `{field}`; ask without it", param=field)
    sent = {field: value for field, value in fields.items() if value is not None and field != "normalize"}
    return replace(call, body=orjson.dumps(sent | ({"embd_normalize": -1} if request.normalize is False else {})))


def check_model(fields: dict[str, Any], name: str) -> None:
    """Raise `ModelNotFound` unless `fields` ask for `name`: the server itself answers for any."""
    if fields.get("model", name) != name:
        raise ModelNotFound(f"this server serves {name!r} and no other model", param="model")


def _chat(fields: dict[str, Any]) -> Order:
    request = validate(ChatCompletionRequest, fields)
    if request.top_logprobs is not None and not request.logprobs:
        raise BadRequest("top_logprobs: set `logprobs` to true, too", param="top_logprobs")
    newer = request.max_completion_tokens
    sent = _common(fields, request, newer if newer is not None else request.max_tokens)
    rivals = (request.top_logprobs or 0) if request.logprobs else None
    if rivals is not None:  # none at all is no log-probabilities at all there
        sent |= {"logprobs": True, "top_logprobs": max(1, rivals)}
    _schema_of(request.response_format)
    if tools := demanded(request):
        if rivals is not None:
            raise UnsupportedFeature("a call that is demanded has no log-probabilities here", param="logprobs")
        bound = {"type": "json_schema", "json_schema": {"name": "call", "schema": schema_of(tools)}}
        sent |= {"tool_choice": "none", "response_format": bound}
    return replace(_order(CHAT, [sent], request, rivals), calls_tool=bool(tools))


def _completion(fields: dict[str, Any]) -> Order:
    request = validate(CompletionRequest, fields)
    if request.best_of is not None and request.best_of != (request.n or 1):
        raise UnsupportedFeature("llama.cpp's server has no best_of; ask for `n`", param="best_of")
    if request.add_special_tokens is False:
        raise UnsupportedFeature("llama.cpp's server always adds special tokens", param="add_special_tokens")
    sent = _common(fields, request, request.max_tokens)
    if request.logprobs is not None:
        sent["logprobs"] = max(1, request.logprobs)
    if (schema := _schema_of(request.response_format)) is not None:
        sent["json_schema"] = schema  # `response_format` is for chats there
    sent.pop("response_format", None)
    prompts = [sent | {"prompt": prompt} for prompt in _prompts(request.prompt)]
    return _order(COMPLETIONS, prompts, request, request.logprobs)


def _common(
    fields: dict[str, Any], request: ChatCompletionRequest | CompletionRequest, most: int | None
) -> dict[str, Any]:
    """The fields that are passed on as they are, and how many tokens are made."""
    for name in _REFUSED:
        if fields.get(name) not in (None, False, 0, [], {}):
            raise UnsupportedFeature(f"llama.cpp's server cannot do `{name}`; ask without it", param=name)
    if request.repetition_penalty not in (None, 1):
        told = "llama.cpp's server has no repetition_penalty; it has `repeat_penalty`, over `repeat_last_n` tokens"
        raise UnsupportedFeature(told, param="repetition_penalty")
    if "n_cmpl" in fields:
        raise UnsupportedFeature("ask for `n` choices", param="n_cmpl")
    if most == 0:
        raise BadRequest("an answer needs at least one token", param="max_tokens")
    sent = {name: value for name, value in fields.items() if value is not None and name not in _ASKED_APART}
    return sent if most is None else sent | {"max_tokens": most}


def _order(
    endpoint: str,
    prompts: Sequence[dict[str, Any]],
    request: ChatCompletionRequest | CompletionRequest,
    rivals: int | None,
) -> Order:
    choices, stream = request.n or 1, bool(request.stream)
    if len(prompts) * choices > _MOST_CHOICES:
        raise BadRequest(f"one request makes at most {_MOST_CHOICES} answers", param="n")
    shown = bool(request.stream_options and request.stream_options.include_usage)
    counted = shown or not stream or len(prompts) * choices > 1
    more = {"stream": True, "stream_options": {"include_usage": counted}}
    bodies = tuple(
        orjson.dumps(one | more | _seed(request.seed, choice)) for one in prompts for choice in range(choices)
    )
    return Order(endpoint, bodies, choices, stream, shown, rivals)


def _seed(seed: int | None, choice: int) -> dict[str, int]:
    """Each choice has a seed of its own: they would be alike."""
    return {} if seed is None else {"seed": (seed + choice) % _SEEDS}


def _prompts(given: str | list[str] | list[int] | list[list[int]] | None) -> list[Any]:
    several: list[Any] = [*given] if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    if not all(several):
        raise BadRequest("prompt: it is empty; there is no token to go on from", param="prompt")
    return several


def _schema_of(wanted: ResponseFormat | None) -> dict[str, Any] | None:
    """The schema that an answer is to follow, None for none."""
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return {"type": "object"}
    schema = wanted.json_schema.json_schema if wanted.json_schema else None
    if schema is None:
        raise BadRequest("give the schema as `json_schema.schema`", param="response_format")
    check_schema(schema)
    return schema
