"""Tool calls: how a model is made to call one, and how its calls are read out of its text.

`auto` needs a chat template that shows the tools to the model and a format of calls that is known here. `required`
and a named function are enforced by a grammar, whatever the template; where it shows no tools, a system message does.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from terascope.core.ids import new_id
from terascope.engines.torch.grammar import JSON_STYLE, lark_string
from terascope.engines.worker.text import beginning_at_end
from terascope.protocol.openai import Tool

PREAMBLE = "You can call these functions:\n{tools}\nAnswer with a call, as JSON."
"""The system message for models whose template shows no tools."""
_MOST_CALLS = 32  # in one answer that must call: a small model would go on calling
_OPENING = frozenset({"additionalProperties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref"})
"""Keys with which a schema names properties beside `properties`."""
_CALL = re.compile(r'[\s,\[]*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*')


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A piece of a tool call; `name` and `id` come with its first."""

    index: int
    arguments: str
    name: str = ""
    id: str = ""


Pieces = tuple[str, list[CallDelta]]
"""Text that is content, and what was added to tool calls."""


class Reader(Protocol):
    """Reads one answer's text as it comes."""

    def push(self, text: str) -> Pieces:
        """Take more text; return what it turned out to be."""
        ...

    def finish(self) -> Pieces:
        """Return what was held back. No text is ever lost: what is no call is content."""
        ...


class PlainReader:
    """All text is content."""

    def push(self, text: str) -> Pieces:
        """See `Reader.push`."""
        return text, []

    def finish(self) -> Pieces:
        """See `Reader.finish`."""
        return "", []


class NamedReader:
    """All text is the arguments of one function."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._begun = False

    def push(self, text: str) -> Pieces:
        """See `Reader.push`."""
        if not text or self._begun:
            return "", [CallDelta(0, text)] if text else []
        self._begun = True
        return "", [CallDelta(0, text, self._name, new_id("call"))]

    def finish(self) -> Pieces:
        """See `Reader.finish`."""
        return "", []


class TaggedReader:
    """Calls stand between tags, `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` (Hermes, Qwen)."""

    def __init__(self, opening: str = "<tool_call>", closing: str = "</tool_call>") -> None:
        self._opening, self._closing = opening, closing
        self._held = ""
        self._inside = False
        self._calls = 0

    def push(self, text: str) -> Pieces:
        """See `Reader.push`."""
        self._held += text
        content = ""
        calls: list[CallDelta] = []
        while True:
            tag = self._closing if self._inside else self._opening
            before, found, after = self._held.partition(tag)
            if not found:
                break
            self._held, self._inside = after, not self._inside
            if not self._inside:
                words, more = self._read(before)
                content, calls = content + words, calls + more
            else:
                content += before if before.strip() or not self._calls else ""
        if not self._inside:
            sure = len(self._held) - beginning_at_end(self._held, self._opening)
            if self._calls == 0 or self._held[:sure].strip():
                content, self._held = content + self._held[:sure], self._held[sure:]
        return content, calls

    def finish(self) -> Pieces:
        """See `Reader.finish`; a call that was cut off is read as far as it goes, if it is one."""
        rest, self._held = self._held, ""
        if self._inside:
            return self._read(rest, cut=True)
        return (rest if rest.strip() or not self._calls else ""), []

    def _read(self, text: str, *, cut: bool = False) -> Pieces:
        call = read_call(text) or (read_cut_call(text) if cut else None)
        if call is None:
            return self._opening + text + ("" if cut else self._closing), []
        self._calls += 1
        return "", [CallDelta(self._calls - 1, call[1], call[0], new_id("call"))]


class WholeReader:
    """The whole answer is one JSON call or a list of them, or it is content (Llama 3, and enforced calls)."""

    def __init__(self) -> None:
        self._held = ""
        self._content = False
        self._calls = 0

    def push(self, text: str) -> Pieces:
        """See `Reader.push`."""
        self._held += text
        start = self._held.lstrip()
        if self._content or (start and not self._calls and start[0] not in "{["):
            self._content = True
            text, self._held = self._held, ""
            return text, []
        return "", self._complete_calls()

    def finish(self) -> Pieces:
        """See `Reader.finish`."""
        rest, self._held = self._held, ""
        if self._content or not rest.strip(" \n,[]"):
            return (rest if not self._calls else ""), []
        cut = read_cut_call(rest)
        if cut is None:
            return rest, []
        return "", [CallDelta(self._calls, cut[1], cut[0], new_id("call"))]

    def _complete_calls(self) -> list[CallDelta]:
        calls = []
        while (start := self._held.find("{")) >= 0:
            try:
                value, end = json.JSONDecoder().raw_decode(self._held, start)
            except json.JSONDecodeError:
                break
            call = read_call(self._held[start:end]) if isinstance(value, dict) else None
            if call is None:
                break
            calls.append(CallDelta(self._calls, call[1], call[0], new_id("call")))
            self._calls += 1
            self._held = self._held[end:]
        return calls


def read_call(text: str) -> tuple[str, str] | None:
    """Return name and arguments of the call that `text` is; none when it is none."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    begun = read_cut_call(text)
    if begun is not None:  # the arguments as they were written
        return begun[0], begun[1][: json.JSONDecoder().raw_decode(begun[1])[1]]
    arguments = value.get("arguments", value.get("parameters", {}))
    return value["name"], json.dumps(arguments, ensure_ascii=False)


def read_cut_call(text: str) -> tuple[str, str] | None:
    """Return name and all that follows the beginning of the arguments; none when `text` begins no call."""
    begun = _CALL.match(text)
    return (json.loads(begun[1]), text[begun.end() :]) if begun else None


def grammar_of(tools: Sequence[Tool], *, several: bool) -> str:
    """A Lark grammar of a JSON list of one call, or `several`, to any of `tools`."""
    calls = " | ".join(f"call_{i}" for i in range(len(tools)))
    more = f'(", " call){{0,{_MOST_CALLS - 1}}}' if several else ""
    lines = [f'start: "[" call {more} "]"', f"call: {calls}"]
    for i, tool in enumerate(tools):
        head = lark_string(f'{{"name": {json.dumps(tool.function.name)}, "arguments": ')
        lines += [f'call_{i}: {head} arguments_{i} "}}"', f"arguments_{i}: %json {json.dumps(parameters(tool))}"]
    return "\n".join(lines)


def parameters(tool: Tool) -> dict[str, Any]:
    """The JSON schema of a tool's arguments.

    Arguments that it does not name are left out of the grammar unless it allows them expressly: they are never
    what a function wants, and a small model left free here would not come to an end.
    """
    schema = tool.function.parameters or {"type": "object", "properties": {}}
    closed = "properties" in schema and not _OPENING.intersection(schema)
    return {"x-guidance": JSON_STYLE, **({"additionalProperties": False} if closed else {}), **schema}


def reader_for(template: str) -> Reader | None:
    """Return a reader of the calls that models with this chat template make; none when their format is unknown."""
    if "<tool_call>" in template and "<function=" not in template and "<arg_key>" not in template:
        return TaggedReader()
    if '"parameters"' in template and "ipython" in template.lower():
        return WholeReader()
    return None
