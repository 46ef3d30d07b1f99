"""An answer's events, however the network cut them."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.client.chat import Heard, chat_body
from terascope.core.errors import EngineError, EngineLost, GatewayUnreachable

PIECES = [" Grüße", ",\n\n", "\U0001f642", "", " data: [DONE]", "ž"]
USAGE = {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9}


def _event(value: object, end: str = "\n\n") -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False)}{end}".encode()


def _delta(text: str | None, index: int = 0, finish: str | None = None) -> dict[str, object]:
    return {"model": "m@1", "choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish}]}


def _stream(end: str = "\n\n") -> bytes:
    events = [{"choices": [{"index": 0, "delta": {"role": "assistant"}}]}, *map(_delta, PIECES), _delta("no", 1)]
    events += [_delta(None, finish="stop"), {"choices": [], "usage": USAGE}]
    return b": waiting\n\n" + b"".join(_event(one, end) for one in events) + f"data: [DONE]{end}".encode()


@given(st.lists(st.integers(0, len(_stream("\r\n\r\n"))), max_size=20), st.sampled_from(["\n\n", "\r\n\r\n"]))
def test_cuts_do_not_matter(cuts: list[int], end: str) -> None:
    data, heard = _stream(end), Heard()
    places = [0, *sorted(cuts), len(data)]
    pieces = [piece for a, b in pairwise(places) for piece in heard.feed(data[a:b])]
    heard.end()
    assert pieces == [piece for piece in PIECES if piece]
    assert (heard.text, heard.model) == ("".join(PIECES), "m@1")
    assert (heard.finish_reason, heard.usage) == ("stop", USAGE)


def test_an_error_event_is_raised_and_what_came_before_is_kept() -> None:
    heard = Heard()
    said = heard.feed(_event(_delta("Once")) + _event({"error": {"code": "engine_lost", "message": "it died"}}))
    assert next(said) == "Once"
    with pytest.raises(EngineLost, match="it died"):
        next(said)
    assert heard.text == "Once"


def test_an_error_event_may_be_a_bare_text() -> None:
    with pytest.raises(EngineError, match="it died"):
        list(Heard().feed(_event({"error": "it died"})))


@pytest.mark.parametrize("data", [b"data: {oops\n\n", b"data: [1]\n\n", b"data: \xff\n\n"])
def test_an_event_that_is_no_object_is_an_error(data: bytes) -> None:
    with pytest.raises(EngineError, match="no JSON object"):
        list(Heard().feed(data))


@pytest.mark.parametrize("data", [b"", _event(_delta("Once")), _stream()[:-1]])
def test_an_answer_that_does_not_say_that_it_is_over_is_not_over(data: bytes) -> None:
    heard = Heard()
    list(heard.feed(data))
    with pytest.raises(GatewayUnreachable, match="broke off"):
        heard.end()


def test_the_body_asks_for_a_stream_with_usage_and_keeps_every_field() -> None:
    fields = {"temperature": 0.2, "stream": False, "unknown": [1]}
    body = json.loads(chat_body("m", [{"role": "user", "content": "hi"}], fields))
    assert body == {
        "model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True,
        "stream_options": {"include_usage": True}, "temperature": 0.2, "unknown": [1],
    }  # fmt: skip
