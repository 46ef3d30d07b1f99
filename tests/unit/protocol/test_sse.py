"""Streams are passed on as they are, wherever the network cuts them."""

import json
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from terascope.protocol.sse import DONE, StreamReader, comment, event, event_data, split_events


def chunk(text: str = "", finish: str | None = None, **more: Any) -> bytes:
    choices = [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]
    return event(json.dumps({"model": "served", "choices": choices} | more).encode())


USAGE = event(
    json.dumps({"model": "served", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}).encode()
)
STREAM = chunk(" a") + chunk("b", "stop") + USAGE + DONE


def reader(*, keep_usage: bool = True) -> StreamReader:
    return StreamReader(keep_usage, "same", "same")


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(st.lists(st.integers(0, 10_000), max_size=30))
def test_any_cut_gives_the_same_bytes(places: list[int]) -> None:
    stream = reader()
    sent = b"".join(stream.feed(part) for part in cut(STREAM, places))
    assert sent + stream.held == STREAM
    assert stream.complete
    assert stream.usage == {"prompt_tokens": 3, "completion_tokens": 2}


@given(
    st.lists(st.text(), max_size=8),
    st.lists(st.integers(0, 10_000), max_size=30),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_every_text_and_line_end_survives(texts: list[str], places: list[int], line_end: str) -> None:
    data = b"".join(chunk(text) for text in texts) + chunk("", "stop") + DONE
    data = data.replace(b"\n", line_end.encode())
    stream = reader()
    assert b"".join(stream.feed(part) for part in cut(data, places)) + stream.held == data
    assert stream.done


def test_only_whole_events_go_out() -> None:
    stream = reader()
    assert stream.feed(chunk("a")[:-1]) == b""
    assert stream.feed(b"\n") == chunk("a")


def test_done_is_held_back() -> None:
    stream = reader()
    assert stream.feed(chunk("a", "stop") + DONE) == chunk("a", "stop")
    assert stream.held == DONE


def test_the_usage_event_is_taken_out_when_nobody_asked() -> None:
    stream = reader(keep_usage=False)
    assert stream.feed(STREAM) == chunk(" a") + chunk("b", "stop")
    assert stream.usage == {"prompt_tokens": 3, "completion_tokens": 2}


def test_usage_beside_choices_stays_even_when_nobody_asked() -> None:
    stream = reader(keep_usage=False)
    both = chunk("a", "stop", usage={"prompt_tokens": 1, "completion_tokens": 1})
    assert stream.feed(both) == both


def test_a_stream_without_done_is_complete_when_its_choice_was_finished() -> None:
    stream = reader()
    stream.feed(chunk("a", "length"))
    assert stream.complete
    assert stream.held == b""


def test_a_stream_that_just_ends_is_not_complete() -> None:
    stream = reader()
    stream.feed(chunk("a"))
    assert not stream.complete


def test_half_an_event_at_the_end_is_not_complete() -> None:
    stream = reader()
    stream.feed(chunk("a", "stop") + b"data: {")
    assert not stream.complete


def test_an_error_event_is_kept_and_ends_the_stream() -> None:
    stream = reader()
    assert stream.feed(chunk("a") + event(b'{"error":{"message":"out of memory","code":"oom"}}') + DONE) == chunk("a")
    assert stream.error == {"message": "out of memory", "code": "oom"}
    assert stream.events == 1
    assert stream.held == b""
    assert not stream.complete


def test_an_error_of_another_shape_is_an_error_too() -> None:
    stream = reader()
    stream.feed(event(b'{"error":"broken"}'))
    assert stream.error == {"message": "broken"}


def test_an_error_as_older_vllm_says_it_is_an_error_too() -> None:
    stream = reader()
    assert stream.feed(chunk("a") + event(b'{"object":"error","message":"m","code":400}') + DONE) == chunk("a")
    assert stream.error == {"message": "m", "code": 400}


def test_a_text_about_errors_and_usage_is_only_text() -> None:
    text = '"error": {"message": "x"}, "usage": {"prompt_tokens": 9}, "finish_reason": "stop", data: [DONE]'
    stream = reader()
    assert stream.feed(chunk(text)) == chunk(text)
    assert stream.error is None
    assert stream.usage is None
    assert not stream.complete


def test_an_error_of_a_part_is_none_of_the_stream() -> None:
    rows = [{"name": "a", "error": {"message": "no", "code": "engine_nan"}}, {"name": "b", "finish_reason": "length"}]
    data = b"".join(event(json.dumps({"object": "trace.row", "row": row}).encode()) for row in rows) + USAGE
    stream = reader()
    assert stream.feed(data + DONE) == data
    assert (stream.error, stream.complete) == (None, True)


def test_the_model_is_renamed_and_nothing_else() -> None:
    stream = StreamReader(keep_usage=True, served_name="served", public_name="kimi@1")
    sent = stream.feed(chunk('I am "model": "served"'))
    assert json.loads(event_data(sent))["model"] == "kimi@1"
    assert json.loads(event_data(sent))["choices"][0]["delta"]["content"] == 'I am "model": "served"'


def test_comments_and_odd_events_pass() -> None:
    odd = comment("ping") + b"event: x\ndata: [1]\n\n" + b'data: not json {"usage": {\n\n'
    assert reader().feed(odd) == odd


def test_data_of_several_lines_is_joined() -> None:
    assert event_data(b"data: a\ndata:b\nid: 1\n\n") == b"a\nb"


def test_split_events_gives_the_whole_ones() -> None:
    assert split_events(b"data: a\r\n\r\ndata: b\n\n") == [b"data: a\r\n\r\n", b"data: b\n\n"]
    assert split_events(b"data: a\n\n\ndata: b\n\n\n") == [b"data: a\n\n", b"\ndata: b\n\n"]
    assert split_events(b"data: a\n\ndata: b") == [b"data: a\n\n"]
    assert split_events(b"") == []


@given(st.lists(st.integers(0, 10_000), max_size=30), st.sampled_from(["\n", "\r\n", "\r"]))
def test_empty_lines_too_many_survive(places: list[int], line_end: str) -> None:
    data = chunk("a") + b"\n" + chunk("", "stop") + b"\n\n\n" + USAGE + b"\n" + DONE + b"\n"
    data = data.replace(b"\n", line_end.encode())
    stream = reader()
    sent = b"".join(stream.feed(part) for part in cut(data, places))
    stream.end()
    assert sent + stream.held == data
    assert stream.complete


def test_several_choices_each_finish() -> None:
    stream = StreamReader(keep_usage=True, choices=2)
    for index in (0, 1):
        assert not stream.complete
        stream.feed(event(json.dumps({"choices": [{"index": index, "finish_reason": "stop"}]}).encode()))
    assert stream.finish_reasons == {0: "stop", 1: "stop"}
    assert stream.complete


def test_what_follows_the_last_empty_line_is_not_lost() -> None:
    for rest in (b"data: [DONE]", b"data:[DONE]\r", DONE + b"\n", DONE + b": bye", DONE + b"data: {"):
        stream = reader()
        sent = stream.feed(chunk("a") + rest)
        stream.end()
        assert stream.complete
        assert sent + stream.held == chunk("a") + rest


def test_half_an_event_is_not_an_end() -> None:
    for rest in (b"data: [DON", b"data: {", b": comment"):
        stream = reader()
        stream.feed(chunk("a", "stop") + rest)
        stream.end()
        assert (stream.complete, stream.held) == (False, b"")


def test_events_are_counted_however_they_are_written() -> None:
    for line_end in ("\n", "\r\n", "\r"):
        stream = reader()
        one = b"id: 1\n" + chunk("data: x") + comment("ping") + chunk("\ndata: y")
        stream.feed(one.replace(b"\n", line_end.encode()))
        assert stream.events == 2


def test_a_long_event_in_many_pieces_takes_no_time() -> None:
    """Looking at all of it again for each piece would take minutes."""
    data = chunk("x" * 2_000_000, "stop")
    stream = reader()
    sent = b"".join(stream.feed(data[at : at + 20]) for at in range(0, len(data), 20))
    assert sent == data
