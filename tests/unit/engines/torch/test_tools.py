import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.engines.torch import tools
from terascope.engines.torch.tools import CallDelta, NamedReader, PlainReader, Reader, TaggedReader, WholeReader
from terascope.protocol.openai import Tool

CALL = '{"name": "find", "arguments": {"what": "a }]\\" b", "n": 1.50}}'
ARGUMENTS = '{"what": "a }]\\" b", "n": 1.50}'
OTHER = '{"name": "stop", "arguments": {}}'
CUTS = st.lists(st.integers(0, 200), max_size=12)


def _read(reader: Reader, text: str, cuts: list[int] = ()) -> tuple[str, list[tuple[str, str]]]:  # type: ignore[assignment]
    """Return content and calls of `text` as it comes in pieces."""
    ends = sorted({min(cut, len(text)) for cut in cuts} | {len(text)})
    content, calls = "", list[CallDelta]()
    for start, end in zip([0, *ends], ends, strict=False):
        words, more = reader.push(text[start:end])
        content, calls = content + words, calls + more
    words, more = reader.finish()
    found: dict[int, tuple[str, str]] = {}
    for call in calls + more:
        name, arguments = found.get(call.index, (call.name, ""))
        assert name, "a call begins with its name"
        assert bool(call.id) == bool(call.name)
        found[call.index] = (name, arguments + call.arguments)
    assert list(found) == list(range(len(found)))
    return content + words, list(found.values())


@given(CUTS)
def test_tagged_calls(cuts: list[int]) -> None:
    text = f"I will look.\n<tool_call>\n{CALL}\n</tool_call>\n<tool_call>{OTHER}</tool_call>\n"
    assert _read(TaggedReader(), text, cuts) == ("I will look.\n", [("find", ARGUMENTS), ("stop", "{}")])


@given(
    CUTS, st.sampled_from(["plain text", "a <tool and <b>", "<tool_call>no json</tool_call> x", "  ", "<tool_call>{"])
)
def test_tagged_text_that_is_no_call_is_content(cuts: list[int], text: str) -> None:
    assert _read(TaggedReader(), text, cuts) == (text, [])


def test_content_after_a_call_is_not_lost() -> None:
    assert _read(TaggedReader(), f"<tool_call>{OTHER}</tool_call> Done.") == (" Done.", [("stop", "{}")])


def test_a_tagged_call_that_was_cut_off_is_told_as_far_as_it_goes() -> None:
    content, calls = _read(TaggedReader(), '<tool_call>{"name": "find", "arguments": {"what": "a')
    assert (content, calls) == ("", [("find", '{"what": "a')])


def test_content_is_not_held_back_without_need() -> None:
    reader = TaggedReader()
    assert reader.push("Hello <") == ("Hello ", [])
    assert reader.push("b>")[0] == "<b>"


@given(CUTS)
def test_whole_calls(cuts: list[int]) -> None:
    assert _read(WholeReader(), f"[{CALL}, {OTHER}]", cuts) == ("", [("find", ARGUMENTS), ("stop", "{}")])
    llama = '{"name": "find", "parameters": {"x": 1}}'
    assert _read(WholeReader(), llama, cuts) == ("", [("find", '{"x": 1}')])


@given(CUTS, st.sampled_from(["Hello {x}", "[not a call]", "{not a call}", "{'name': 1}", '{"a": 1}']))
def test_whole_text_that_is_no_call_is_content(cuts: list[int], text: str) -> None:
    assert _read(WholeReader(), text, cuts) == (text, [])


@given(CUTS)
def test_a_whole_call_that_was_cut_off(cuts: list[int]) -> None:
    text = f'[{OTHER}, {{"name": "find", "arguments": {{"wh'
    assert _read(WholeReader(), text, cuts) == ("", [("stop", "{}"), ("find", '{"wh')])


@given(CUTS)
def test_named_and_plain(cuts: list[int]) -> None:
    assert _read(NamedReader("find"), ARGUMENTS, cuts) == ("", [("find", ARGUMENTS)])
    assert _read(PlainReader(), CALL, cuts) == (CALL, [])


def test_named_text_streams() -> None:
    reader = NamedReader("find")
    assert [delta.arguments for piece in ("{", "}") for delta in reader.push(piece)[1]] == ["{", "}"]


@pytest.mark.parametrize("text", ["", "[]", "1", '{"name": 1}', '{"arguments": {}}', "{"])
def test_what_is_no_call(text: str) -> None:
    assert tools.read_call(text) is None


def test_arguments_in_another_order_or_missing() -> None:
    assert tools.read_call('{"arguments": {"a": 1}, "name": "f"}') == ("f", '{"a": 1}')
    assert tools.read_call('{"name": "f"}') == ("f", "{}")


def test_readers_of_known_families() -> None:
    assert isinstance(tools.reader_for("... <tool_call> ..."), TaggedReader)
    assert isinstance(tools.reader_for('Environment: ipython {"name": x, "parameters": y}'), WholeReader)
    assert tools.reader_for("<tool_call><function=f>") is None
    assert tools.reader_for("plain") is None


def test_grammar_names_every_tool() -> None:
    tool = Tool.model_validate({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}})
    source = tools.grammar_of([tool, tool], several=False)
    assert "call_0 | call_1" in source
    assert '(", " call)' not in source
    assert '(", " call){0,31}' in tools.grammar_of([tool], several=True)
    schema = json.loads(source.split("arguments_0: %json ")[1].split("\n")[0])
    assert schema["type"] == "object"


@pytest.mark.parametrize(
    ("given", "closed"),
    [
        (None, True),
        ({"type": "object", "properties": {"a": {}}}, True),
        ({"type": "object"}, None),
        ({"type": "object", "properties": {}, "additionalProperties": {"type": "string"}}, None),
        ({"properties": {}, "allOf": [{"properties": {"b": {}}}]}, None),
    ],
)
def test_arguments_that_are_not_named_are_left_out(given: dict[str, Any] | None, closed: bool | None) -> None:
    tool = Tool.model_validate({"type": "function", "function": {"name": "f", "parameters": given}})
    assert (tools.parameters(tool).get("additionalProperties") is False) == bool(closed)
