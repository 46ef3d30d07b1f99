"""Choosing passages for a chat."""

from hypothesis import given
from hypothesis import strategies as st

from terascope.inference.annotating import annotated, annotation_event
from terascope.protocol.sse import StreamReader
from terascope.retrieval.contract import Found
from terascope.retrieval.file_search import _most_that_fit, passages_text
from terascope.testing.collections import placed


@given(st.integers(0, 50), st.integers(0, 60))
async def test_the_most_that_fit_are_found_in_few_steps(most: int, room: int) -> None:
    asked: list[int] = []

    async def fit(count: int) -> bool:
        asked.append(count)
        return count <= room

    assert await _most_that_fit(most, fit) == min(most, room)
    assert len(asked) <= most.bit_length() + 1


def test_how_passages_look() -> None:
    found = [Found(one.passage, 0.5) for one in placed("file_1", 0, 1)]
    assert passages_text(found) == (
        "Passages of files, each with its number and the name of its file:\n\n[1] a.txt\npart 0 of file_1\n\n"
        "[2] a.txt\npart 1 of file_1\n\nQuestion:\n"
    )


def test_annotations_stand_beside_what_the_engine_said() -> None:
    said = {"id": "a", "choices": [{"message": {"content": "x", "annotations": [1]}}, {"text": "y"}, 3], "more": None}
    assert annotated(said, [{"a": 1}]) == (
        b'{"id":"a","choices":[{"message":{"content":"x","annotations":[1,{"a":1}]}},{"text":"y"},3],"more":null}'
    )
    assert annotated({"choices": 3}, [{"a": 1}]) == b'{"choices":3}'


def test_the_event_of_a_stream_is_of_the_same_answer() -> None:
    reader = StreamReader(keep_usage=False, choices=2)
    reader.feed(b'data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n')
    told = annotation_event([{"a": 1}], reader, 2, "m@1")
    assert told.startswith(b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk"')
    assert told.count(b'"annotations":[{"a":1}]') == 2
    assert told.endswith(b"\n\n")
    assert annotation_event([], reader, 2, "m@1") == b""
