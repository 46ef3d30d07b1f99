"""The echo engine as a function: one request in, the bytes of its answer out.

It says back what the last user said. The same request always gets the same answer, and no request fails: what
cannot be honoured is refused with the field's name.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import orjson

from terascope.core.errors import BadRequest, ModelNotFound, NotFound, ServiceError, UnsupportedFeature
from terascope.core.models import Capabilities, Feature
from terascope.engines.contract import EngineCall
from terascope.engines.echo import text, wire
from terascope.engines.echo.text import Limits
from terascope.engines.echo.wire import Choice
from terascope.protocol.errors import error_body
from terascope.protocol.openai import (
    ChatCompletionRequest,
    ChatMessage,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    NamedToolChoice,
    SamplingFields,
    TokenizeRequest,
)
from terascope.protocol.parse import parse

CONTEXT_LENGTH = 131_072  # pieces, when the deployment says nothing
MOST_WORK = 1 << 19  # pieces of all choices of an answer, times their rivals
MOST_INPUTS = 2048  # texts in one request

_FEATURES = (
    Feature.LOGPROBS, Feature.SEED, Feature.TOOLS, Feature.ENFORCED_TOOLS, Feature.ECHO, Feature.TOKEN_PROMPTS,
    Feature.REPRODUCIBLE, Feature.SEVERAL_GREEDY, Feature.DIMENSIONS,
)  # fmt: skip
_UNKNOWN_TO_ECHO = (
    "logit_bias", "suffix", "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar",
    "prompt_embeds",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settings:
    """What the model is called and how long its context is, in pieces; an empty name answers to any."""

    served_name: str = ""
    context_length: int = CONTEXT_LENGTH


@dataclass(frozen=True, slots=True)
class Echo:
    """An answer: `parts` are the events of a stream, each made when it is asked for, or the one body."""

    status: int
    parts: Iterable[bytes]
    stream: bool = False
    tokens: int = 0
    """How many tokens were made, which is what the time it takes is in proportion to."""

    @property
    def content_type(self) -> str:
        """The answer's media type."""
        return "text/event-stream; charset=utf-8" if self.stream else "application/json"


@dataclass(frozen=True, slots=True)
class _Prompt:
    """What is to be echoed, and how many tokens it was given in."""

    text: str
    count: int


def answer(settings: Settings, call: EngineCall, created: int) -> Echo:
    """Answer `call`; `created` is the time in seconds that the answer names. Never raises."""
    try:
        if call.endpoint not in _ENDPOINTS:
            raise NotFound(f"the echo engine has no endpoint {call.endpoint[:100]!r}")
        return _ENDPOINTS[call.endpoint](settings, call, created)
    except ServiceError as error:
        return Echo(error.status, (error_body(error, call.request_id),))


def _chat(settings: Settings, call: EngineCall, created: int) -> Echo:
    request = parse(ChatCompletionRequest, call.body)
    _check_model(settings, request.model)
    _check_fields(request)
    if request.top_logprobs and not request.logprobs:
        raise BadRequest("top_logprobs: needs logprobs to be true", param="top_logprobs")
    prompt_tokens = _count((_text(message) for message in request.messages), settings)
    tool = _tool(request)
    asked = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    room = _room(asked, prompt_tokens, settings)
    limits = Limits(room) if tool else _limits(request, room)
    count = request.n or 1
    rivals = request.top_logprobs or 0
    spoken = text.speak(tool.arguments if tool else _reply(request), limits)
    _check_work(count * spoken.made * (rivals + 1))
    named = isinstance(request.tool_choice, NamedToolChoice)
    finish = "tool_calls" if tool and not named and spoken.finish_reason == "stop" else spoken.finish_reason
    logprobs = rivals if request.logprobs and not tool else None
    choices = [Choice(i, spoken.pieces, finish, logprobs, tool=tool) for i in range(count)]
    head = wire.Head(f"chatcmpl-{call.request_id}", created, request.model)
    usage = wire.usage(prompt_tokens, count * spoken.made)
    return _echo(request, wire.CHAT, head, choices, usage)


def _completions(settings: Settings, call: EngineCall, created: int) -> Echo:
    request = parse(CompletionRequest, call.body)
    _check_model(settings, request.model)
    _check_fields(request)
    count = request.n or 1
    if request.best_of is not None and request.best_of < count:
        raise BadRequest("best_of: must be at least n", param="best_of")
    if request.prompt is None:
        raise BadRequest("prompt: must be given", param="prompt")
    prompts = _prompts(request.prompt, "prompt", settings)
    choices: list[Choice] = []
    made = 0
    for prompt in prompts:
        limits = _limits(request, _room(request.max_tokens, prompt.count, settings))
        spoken = text.speak(prompt.text, limits)
        repeated = tuple(text.pieces(prompt.text)) if request.echo else ()
        made += count * spoken.made
        _check_work(made * ((request.logprobs or 0) + 1))
        for _ in range(count):
            choices.append(Choice(len(choices), spoken.pieces, spoken.finish_reason, request.logprobs, repeated))
    head = wire.Head(f"cmpl-{call.request_id}", created, request.model)
    usage = wire.usage(sum(prompt.count for prompt in prompts), made)
    return _echo(request, wire.COMPLETION, head, choices, usage)


def _echo(
    request: SamplingFields, shape: wire.Shape, head: wire.Head, choices: list[Choice], usage: dict[str, int]
) -> Echo:
    made = usage["completion_tokens"]
    if not request.stream:
        return Echo(200, (shape.whole(head, choices, usage),), tokens=made)
    shown = usage if request.stream_options and request.stream_options.include_usage else None
    return Echo(200, shape.events(head, choices, shown), stream=True, tokens=made)


def _embeddings(settings: Settings, call: EngineCall, _created: int) -> Echo:
    request = parse(EmbeddingRequest, call.body)
    _check_model(settings, request.model)
    dimensions = request.dimensions or text.DIMENSIONS
    if dimensions > text.DIMENSIONS:
        raise BadRequest(f"dimensions: must be at most {text.DIMENSIONS}", param="dimensions")
    inputs = _prompts(request.input, "input", settings)
    vectors = [text.vector(one.text, dimensions) for one in inputs]
    body = wire.embeddings(request.model, vectors, sum(one.count for one in inputs), request.encoding_format or "float")
    return Echo(200, (body,))


def _tokenize(settings: Settings, call: EngineCall, _created: int) -> Echo:
    request = parse(TokenizeRequest, call.body)
    _check_model(settings, request.model)
    if (request.prompt is None) == (request.messages is None):
        raise BadRequest("give either prompt or messages", param="prompt")
    said = request.prompt
    if said is None:
        said = "".join(f"{message.role}: {_text(message)}\n" for message in request.messages or ())
    ids = text.tokens(said)
    body: dict[str, object] = {"count": len(ids), "max_model_len": settings.context_length, "tokens": ids}
    if request.return_token_strs:
        body["token_strs"] = [chr(one) if one < 128 else f"<0x{one:02X}>" for one in ids]
    if request.return_offsets:
        body["offsets"] = text.offsets(said)
    return Echo(200, (orjson.dumps(body),))


def _detokenize(settings: Settings, call: EngineCall, _created: int) -> Echo:
    request = parse(DetokenizeRequest, call.body)
    _check_model(settings, request.model)
    body: dict[str, object] = {"prompt": text.text_of(request.tokens, "tokens")}
    if request.return_pieces:
        body["pieces"] = [chr(one) if one < 128 else "\ufffd" for one in request.tokens]
    return Echo(200, (orjson.dumps(body),))


_ENDPOINTS: dict[str, Callable[[Settings, EngineCall, int], Echo]] = {
    "chat/completions": _chat,
    "completions": _completions,
    "embeddings": _embeddings,
    "tokenize": _tokenize,
    "detokenize": _detokenize,
}
CAPABILITIES = Capabilities(frozenset(_ENDPOINTS), frozenset(_FEATURES))
"""What the echo engine can do."""


def _check_model(settings: Settings, model: str | None) -> None:
    if model is not None and settings.served_name and model != settings.served_name:
        raise ModelNotFound(f"the echo engine serves {settings.served_name!r}, not {model!r}", param="model")


def _check_fields(request: SamplingFields) -> None:
    for name in _UNKNOWN_TO_ECHO:
        if getattr(request, name, None):
            raise UnsupportedFeature(f"{name}: the echo engine cannot do that", param=name)
    response_format = getattr(request, "response_format", None)
    if response_format is not None and response_format.type == "json_schema":
        raise UnsupportedFeature("response_format: the echo engine knows no schemas", param="response_format")


def _check_work(work: int) -> None:
    if work > MOST_WORK:
        raise BadRequest(f"the request asks for {work} tokens and rivals; the echo engine takes {MOST_WORK} at most")


def _limits(request: SamplingFields, room: int) -> Limits:
    least = request.min_tokens or 0
    if least > room:
        raise BadRequest(f"min_tokens: must be at most {room} here", param="min_tokens")
    stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    return Limits(room, least, bool(request.ignore_eos), stop)


def _room(asked: int | None, prompt_tokens: int, settings: Settings) -> int:
    """How many pieces an answer may have."""
    room = max(0, settings.context_length - prompt_tokens)
    return room if asked is None else min(asked, room)


def _count(texts: Iterable[str], settings: Settings) -> int:
    """How many pieces `texts` have together. Raises `BadRequest` when the context has no room for them."""
    count, most = 0, settings.context_length
    for one in texts:
        count += len(text.pieces(one, most + 1))
        _check_length(count, most)
    return count


def _check_length(count: int, most: int) -> None:
    if count > most:
        raise BadRequest(f"the prompt is longer than the context of {most} tokens", param="prompt")


def _text(message: ChatMessage) -> str:
    """The text of a message. Raises `BadRequest` when it has parts of another kind."""
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    if other := [part.type for part in message.content if part.type != "text" or part.text is None]:
        raise BadRequest(f"messages: the echo engine takes parts of type text, not {other[0]!r}", param="messages")
    return "".join(part.text or "" for part in message.content)


def _reply(request: ChatCompletionRequest) -> str:
    """What the last user said, or else what was said last."""
    said = [message for message in request.messages if message.role == "user"] or request.messages
    reply = _text(said[-1])
    if request.response_format is not None and request.response_format.type == "json_object":
        return orjson.dumps({"echo": reply}).decode()
    return reply


def _tool(request: ChatCompletionRequest) -> wire.Call | None:
    """The call that `tool_choice` demands, if it does; echo makes none by itself."""
    names = [tool.function.name for tool in request.tools or ()]
    if isinstance(request.tool_choice, NamedToolChoice):
        wanted = request.tool_choice.function.name
        if wanted not in names:
            raise BadRequest(f"tool_choice: there is no tool {wanted!r}", param="tool_choice")
        return wire.Call(wanted)
    if request.tool_choice == "required":
        if not names:
            raise BadRequest("tool_choice: needs tools", param="tool_choice")
        return wire.Call(names[0])
    return None


def _prompts(given: str | list[str] | list[int] | list[list[int]], param: str, settings: Settings) -> list[_Prompt]:
    """The prompts of a request, whichever of the four ways it writes them."""
    several = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    if len(several) > MOST_INPUTS:
        raise BadRequest(f"{param}: at most {MOST_INPUTS} texts fit into one request", param=param)
    if not all(several):
        raise BadRequest(f"{param}: must not be empty", param=param)
    prompts: list[_Prompt] = []
    work = 0
    for one in several:
        prompts.append(_prompt(one, param, settings))  # type: ignore[arg-type]  # one level is off, whichever it was
        work += prompts[-1].count
        _check_work(work)
    return prompts


def _prompt(given: str | list[int], param: str, settings: Settings) -> _Prompt:
    if isinstance(given, str):
        return _Prompt(given, _count((given,), settings))
    _check_length(len(given), settings.context_length)
    return _Prompt(text.text_of(given, param), len(given))
