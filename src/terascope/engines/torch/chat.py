"""Conversations: OpenAI's messages as chat templates want them, and what a request says about tools."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from terascope.core.errors import BadRequest, UnsupportedFeature
from terascope.engines.torch import tools
from terascope.engines.torch.grammar import Grammar
from terascope.engines.torch.prompts import Slots
from terascope.engines.torch.vocabulary import Vocabulary
from terascope.protocol.embeds import PART
from terascope.protocol.openai import (
    ChatCompletionRequest,
    ChatMessage,
    ContentPart,
    NamedToolChoice,
    TokenizeRequest,
    Tool,
)

_NOT_OPTIONS = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
"""Variables of a chat template that `chat_template_kwargs` cannot set."""


@dataclass(frozen=True, slots=True)
class ToolUse:
    """How tools take part in an answer: what the model is shown, what binds it, how its text is read."""

    shown: Sequence[Tool]
    reader: Callable[[], tools.Reader]
    grammar: Grammar | None = None


def prompt_of(
    request: ChatCompletionRequest | TokenizeRequest,
    vocabulary: Vocabulary,
    shown: Sequence[Tool] = (),
    slots: Slots | None = None,
) -> str:
    """Return the request's conversation as the chat template writes it, vectors as marks of `slots`.

    Raises `UnsupportedFeature` when the model has no template, and `BadRequest` when that refuses.
    """
    if not vocabulary.has_template:
        raise UnsupportedFeature("this model has no chat template; use /v1/completions", param="messages")
    messages = [_message(message, vocabulary.template, slots) for message in request.messages or ()]
    listed = [tool.model_dump(exclude_none=True) for tool in shown]
    if listed and "tools" not in vocabulary.template_names:
        text = tools.PREAMBLE.format(tools="\n".join(json.dumps(tool["function"]) for tool in listed))
        messages, listed = _with_system(messages, text), []
    goes_on = bool(request.continue_final_message)
    prompted = not goes_on if request.add_generation_prompt is None else request.add_generation_prompt
    if goes_on and prompted:
        raise BadRequest("add_generation_prompt and continue_final_message exclude each other")
    options = {
        name: value
        for name, value in (request.chat_template_kwargs or {}).items()
        if name in vocabulary.template_names and name not in _NOT_OPTIONS
    }
    options |= {"add_generation_prompt": prompted, "continue_final_message": goes_on}
    return vocabulary.render(messages, listed or None, **options)


def tool_use(request: ChatCompletionRequest, vocabulary: Vocabulary) -> ToolUse:
    """Return what the request's `tools` and `tool_choice` mean for this model.

    Raises `UnsupportedFeature` when calls by the model's own choice cannot be shown to it or read.
    """
    listed = request.tools or []
    choice = request.tool_choice or ("auto" if listed else "none")
    if choice == "none":
        return ToolUse([], tools.PlainReader)
    if not listed:
        raise BadRequest("tool_choice needs tools", param="tool_choice")
    if request.response_format is not None and request.response_format.type != "text":
        raise UnsupportedFeature("tools and a response_format cannot be combined here", param="response_format")
    if isinstance(choice, NamedToolChoice):
        return _named(listed, choice.function.name, vocabulary)
    if choice == "required":
        return _required(listed, vocabulary, several=request.parallel_tool_calls is not False)
    if "tools" not in vocabulary.template_names:
        raise UnsupportedFeature(
            "this model's chat template does not show tools to it; tool_choice can be required, a function, or none",
            param="tools",
        )
    if tools.reader_for(vocabulary.template) is None:
        raise UnsupportedFeature(
            "the format in which this model calls tools is not known here; tool_choice can be required or a function",
            param="tools",
        )
    return ToolUse(listed, lambda: tools.reader_for(vocabulary.template) or tools.PlainReader())


def _named(listed: Sequence[Tool], name: str, vocabulary: Vocabulary) -> ToolUse:
    found = next((tool for tool in listed if tool.function.name == name), None)
    if found is None:
        raise BadRequest(f"tool_choice names {name!r}, which is not among the tools", param="tool_choice")
    if vocabulary.grammars is None:
        raise UnsupportedFeature("grammars cannot be used with this model's tokenizer", param="tool_choice")
    grammar = vocabulary.grammars.json_schema(tools.parameters(found), "tools")
    return ToolUse(listed, lambda: tools.NamedReader(name), grammar)


def _required(listed: Sequence[Tool], vocabulary: Vocabulary, *, several: bool) -> ToolUse:
    if vocabulary.grammars is None:
        raise UnsupportedFeature("grammars cannot be used with this model's tokenizer", param="tool_choice")
    grammar = vocabulary.grammars.lark(tools.grammar_of(listed, several=several), "tools", kind="tools")
    return ToolUse(listed, tools.WholeReader, grammar)


def _message(message: ChatMessage, template: str, slots: Slots | None) -> dict[str, Any]:
    found = message.model_dump(exclude_none=True)
    found["content"] = _text(message, slots)
    if message.role == "developer" and "developer" not in template:
        found["role"] = "system"
    if message.tool_calls:
        found["tool_calls"] = [_call(call) for call in found["tool_calls"]]
    return found


def _text(message: ChatMessage, slots: Slots | None) -> str:
    """Templates of language models take a text: parts of text are its lines, vectors stand right in it."""
    if not isinstance(message.content, list):
        return message.content or ""
    text, after_text = "", False
    for part in message.content:
        is_text = part.type in ("text", "refusal") and part.text is not None
        text += "\n" if is_text and after_text else ""
        text += part.text or "" if is_text else _mark(part, slots)
        after_text = is_text
    return text


def _mark(part: ContentPart, slots: Slots | None) -> str:
    if part.type != PART or slots is None:
        raise UnsupportedFeature(f"this model takes text, not parts of type {part.type[:40]!r}", param="messages")
    if part.prompt_embeds is None:
        raise BadRequest(f"a part of type {PART} needs `{PART}`: base64 of its vectors", param="messages")
    return slots.mark(part.prompt_embeds)


def _call(call: dict[str, Any]) -> dict[str, Any]:
    """Templates take arguments as an object, OpenAI writes them as JSON in a string."""
    function = dict(call["function"])
    try:
        function["arguments"] = json.loads(function.get("arguments") or "{}")
    except ValueError:
        raise BadRequest("arguments of a tool call are not JSON", param="messages") from None
    return {**call, "function": function}


def _with_system(messages: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    if messages and messages[0]["role"] == "system":
        return [{**messages[0], "content": f"{messages[0]['content']}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]
