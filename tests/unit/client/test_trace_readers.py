"""What comes of a trace, as a file or as events, becomes prompts with arrays, or an error that says so."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.client import AsyncClient, Client, Trace, TracedPrompt
from terascope.client.operations import capture
from terascope.client.trace_readers import TraceEvents, TraceFile
from terascope.core.errors import BadRequest, EngineError, EngineNan, GatewayUnreachable
from terascope.internals.arrays import Array, DType
from terascope.internals.packing import Layout, Spec, encode
from terascope.protocol.sse import DONE, event

ONES = Array(DType.F32, (2, 1), np.ones(2, "<f4").tobytes())
NANS = Array(DType.F32, (2, 1), np.full(2, np.nan, "<f4").tobytes())
ERROR = {"message": "it is not finite", "type": "server_error", "code": "engine_nan", "param": None}
USAGE = {"prompt_tokens": 4, "captured_bytes": 8}


def row(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "tokens": [5, 6], "pieces": ["The", " sky"], **more}


def file(
    rows: Sequence[dict[str, Any]],
    arrays: dict[str, Array],
    failed: dict[str, str] | None = None,
    said: dict[str, str] | None = None,
) -> bytes:
    specs = [Spec(name, one.dtype, one.shape, ("token", "channel")) for name, one in arrays.items()]
    values = list(arrays.values())
    if failed is not None:
        text = json.dumps(failed).encode().ljust(256)
        specs.append(Spec("errors", DType.U8, (256,)))
        values.append(Array(DType.U8, (256,), text))
    told = {"id": "req_1", "model": "m@1", "rows": json.dumps(rows), "usage": json.dumps(USAGE), **(said or {})}
    return b"".join(Layout.of(specs, told).stream(values))


def read(data: bytes) -> Trace:
    reader = TraceFile()
    arrays = list(reader.feed(data))
    reader.end()
    return reader.trace(arrays)


def test_a_file_is_prompts_with_arrays() -> None:
    found = read(file([row("a"), row("b", text="!")], {"a/x/y": ONES, "b/x": ONES}))
    assert list(found) == ["a", "b"]
    assert found[1] is found["b"]
    one = found["a"]["x/y"]
    assert (one.name, one.axes, one.labels) == ("x/y", ("token", "channel"), {"token": ["The", " sky"]})
    assert (found["b"].text, found["a"].tokens, found["a"].pieces) == ("!", (5, 6), ("The", " sky"))
    assert (found.about.id, found.about.model, found.about.usage) == ("req_1", "m@1", USAGE)
    assert dict(found["a"].items()) == found["a"].arrays


def test_tokens_of_an_answer_are_not_called_by_the_prompt_s() -> None:
    found = read(file([row("a", output_tokens=[7])], {"a/x": ONES}))
    assert found["a"]["x"].labels == {}


def test_a_name_that_is_not_there_is_told_with_the_nearest() -> None:
    found = read(file([row("clean")], {"clean/stream": ONES}))
    with pytest.raises(KeyError, match="clean"):
        found["claen"]
    with pytest.raises(KeyError, match="stream"):
        found[0]["straem"]
    assert "x" not in found
    assert found[0].get("x") is None


def test_layers_are_stacked_in_their_order() -> None:
    two = Array(DType.F32, (2, 1), np.full(2, 2, "<f4").tobytes())
    arrays = {"a/blocks.10.mlp.output": two, "a/blocks.9.mlp.output": ONES, "a/blocks.9.mlp.output.tokens": ONES}
    prompt = read(file([row("a")], arrays))[0]
    one = prompt.stack("blocks.*.mlp.output")
    assert (one.labels["layer"], one.numpy()[:, 0, 0].tolist()) == ([9, 10], [1, 2])
    with pytest.raises(BadRequest, match=r"has no arrays 'x\*'"):
        prompt.stack("x*")
    with pytest.raises(BadRequest, match=r"no \* for the layer"):
        prompt.stack("blocks.9.mlp.output")


def test_a_prompt_that_failed_raises_when_it_is_touched() -> None:
    found = read(file([row("a", error=ERROR), row("b")], {"b/x": ONES}))
    touches: list[Callable[[TracedPrompt], object]] = [lambda one: one["x"], len, list, lambda one: one.stack("x*")]
    for touch in touches:
        with pytest.raises(EngineNan, match="not finite"):
            touch(found["a"])
    assert found["b"]["x"].numpy().tolist() == [[1], [1]]
    assert "failed: it is not finite" in repr(found["a"])
    assert "it is not finite" in found._repr_html_()


def test_a_prompt_that_failed_while_the_file_was_sent() -> None:
    found = read(file([row("a"), row("b")], {"a/x": NANS, "b/x": ONES}, {"a": "it is not finite"}))
    with pytest.raises(EngineError, match="it is not finite"):
        found["a"]["x"]
    assert list(found["b"]) == ["x"]


def test_more_prompts_failed_than_the_file_names() -> None:
    """An array of NaN alone is then no result."""
    rows, arrays = [row("a"), row("b"), row("c")], {"a/x": NANS, "b/x": NANS, "c/x": ONES}
    found = read(file(rows, arrays, {"a": "it is not finite", "": "1 more prompts failed"}))
    with pytest.raises(EngineError, match="1 more prompts failed"):
        found["b"]["x"]
    assert list(found["c"]) == ["x"]
    fine = read(file(rows, arrays, {"a": "it is not finite"}))
    assert np.isnan(fine["b"]["x"].numpy()).all()


@pytest.mark.parametrize("metadata", [{"rows": "{}"}, {"rows": ""}, {"rows": '[{"name": 1}]'}, {"usage": "[]"}])
def test_a_file_that_says_something_else(metadata: dict[str, str]) -> None:
    with pytest.raises(EngineError):
        read(file([row("a")], {"a/x": ONES}, said=metadata))


def test_reprs() -> None:
    found = read(file([row(f"<{n}>") for n in range(30)], {f"<{n}>/x": ONES for n in range(30)}))
    assert repr(found).startswith("Trace('m@1', 30 prompts: <0>, <1>")
    assert repr(found[0]) == "TracedPrompt('<0>', 2 tokens, 1 arrays)"
    shown = found._repr_html_()
    assert "10 more" in shown
    assert "&lt;3&gt;" in shown
    assert "<3>" not in shown
    assert "F32 [token 2, channel 1]" in found[0]._repr_html_()
    many = read(file([row("a")], {f"a/{n}": ONES for n in range(30)}))
    assert "10 more" in many[0]._repr_html_()


def row_event(one: dict[str, Any]) -> bytes:
    return event(orjson.dumps({"id": "req_1", "object": "trace.row", "created": 1, "model": "m@1", "row": one}))


ARRAYS = {"arrays": {"x": encode(ONES) | {"axes": ["token", "channel"]}}}
LAST = event(orjson.dumps({"id": "req_1", "object": "trace", "created": 1, "model": "m@1", "usage": USAGE}))
EVENTS = b": waiting\n\n" + row_event(row("a", **ARRAYS)) + row_event(row("b", error=ERROR)) + LAST + DONE


@given(st.lists(st.integers(0, len(EVENTS))))
def test_events_are_read_however_they_are_cut(cuts: list[int]) -> None:
    reader = TraceEvents()
    edges = [0, *sorted(cuts), len(EVENTS)]
    found = [one for n, end in enumerate(edges[1:]) for one in reader.feed(EVENTS[edges[n] : end])]
    reader.end()
    assert [one.name for one in found] == ["a", "b"]
    assert found[0]["x"].axes == ("token", "channel")
    assert isinstance(found[1].error, EngineNan)
    assert reader.about.usage == USAGE


def test_an_event_comes_with_its_last_byte() -> None:
    reader = TraceEvents()
    first = row_event(row("a"))
    assert list(reader.feed(first[:-1])) == []
    assert [one.name for one in reader.feed(first[-1:])] == ["a"]
    with pytest.raises(GatewayUnreachable, match="missing"):
        reader.end()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (event(orjson.dumps({"error": ERROR})), EngineNan),
        (event(b'{"error":"words"}'), EngineError),
        (event(b"[]"), EngineError),
        (event(b"{"), EngineError),
        (row_event({"name": "a"}), EngineError),
        (row_event(row("a", arrays={"x": {"dtype": "F32", "shape": [3], "data": "AAAA"}})), EngineError),
        (event(b'{"usage":{"prompt_tokens":"many"}}'), EngineError),
    ],
)
def test_an_event_that_is_wrong_or_tells_an_error(data: bytes, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        list(TraceEvents().feed(data))


def answer(body: bytes, kind: str, length: int | None = None) -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {length or len(body)}\r\n\r\n"
    return head.encode() + body


FILE = file([row("a")], {"a/x": ONES})
STREAM = "text/event-stream"


def test_a_client_gathers_a_file(answering: Callable[[bytes], str]) -> None:
    with Client(answering(answer(FILE, "application/octet-stream"))) as client:
        assert client.trace("m", "a", [capture("norm")])["a"]["x"].shape == (2, 1)


async def test_a_client_to_be_awaited_gathers_a_file(answering: Callable[[bytes], str]) -> None:
    async with AsyncClient(answering(answer(FILE, "application/octet-stream"))) as client:
        assert (await client.trace("m", "a", [capture("norm")]))["a"]["x"].shape == (2, 1)


def test_a_file_that_breaks_off_on_the_way_is_no_result(answering: Callable[[bytes], str]) -> None:
    cut = answer(FILE[:-4], "application/octet-stream", len(FILE))
    with Client(answering(cut)) as client, pytest.raises(GatewayUnreachable):
        client.trace("m", "a")


def test_prompts_come_one_by_one(answering: Callable[[bytes], str]) -> None:
    with Client(answering(answer(EVENTS, STREAM))) as client, client.trace("m", ["a", "b"], stream=True) as rows:
        assert next(rows).name == "a"
        assert [one.name for one in rows] == ["b"]
        assert (rows.about.model, rows.about.usage) == ("m@1", USAGE)


async def test_prompts_are_awaited_one_by_one(answering: Callable[[bytes], str]) -> None:
    async with AsyncClient(answering(answer(EVENTS, STREAM))) as client:
        async with client.trace("m", ["a", "b"], stream=True) as rows:
            assert [one.name async for one in rows] == ["a", "b"]
        assert rows.about.usage == USAGE


def test_a_stream_that_is_left(answering: Callable[[bytes], str]) -> None:
    with Client(answering(answer(EVENTS, STREAM))) as client:
        rows = client.trace("m", ["a", "b"], stream=True)
        next(rows)
        rows.close()
        rows.close()
        assert list(rows) == []
        assert isinstance(rows._reader, TraceEvents)


def test_events_that_break_off(answering: Callable[[bytes], str]) -> None:
    with Client(answering(answer(row_event(row("a")), STREAM))) as client:
        rows = client.trace("m", ["a"], stream=True)
        assert next(rows).name == "a"
        with pytest.raises(GatewayUnreachable):
            next(rows)


def test_no_connection() -> None:
    with Client("http://127.0.0.1:1") as client, pytest.raises(GatewayUnreachable, match="no connection"):
        client.trace("m", "a")


def test_a_refusal_is_raised(answering: Callable[[bytes], str]) -> None:
    body = orjson.dumps({"error": {"message": "no layer 99", "code": "invalid_request", "type": "x", "param": "p"}})
    refused = answer(body, "application/json").replace(b"200 OK", b"400 Bad Request")
    with Client(answering(refused)) as client, pytest.raises(BadRequest, match="no layer 99"):
        list(client.trace("m", "a", stream=True))


def test_an_estimate(answering: Callable[[bytes], str]) -> None:
    counts = dict.fromkeys(["prompts", "operations", "prompt_tokens", "output_tokens", "gradient_tokens"], 1)
    sizes = dict.fromkeys(["captured_bytes", "supplied_bytes", "memory_bytes"], 8)
    body = orjson.dumps({"id": "r", "created": 1, "model": "m@1", "estimate": counts | sizes})
    with Client(answering(answer(body, "application/json"))) as client:
        found = client.traces.estimate("m", "a", [capture("norm")])
    assert found.captured_bytes == 8
    assert "captured_bytes" in found._repr_html_()
