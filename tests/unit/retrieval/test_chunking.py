"""Texts are cut by tokens, at whole characters, with nothing left out."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.core.errors import BadRequest
from terascope.engines.echo import text as echo
from terascope.retrieval.chunking import (
    BYTES_A_TOKEN,
    Span,
    Strategy,
    Tokens,
    auto,
    passages,
    pseudo_tokens,
    sections,
    static,
)

TEXTS = st.text(max_size=300)
SIZES = st.integers(16, 40).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size // 2)))


def tokens_of(text: str, most: int = 1 << 17) -> Tokens:
    tokens = Tokens()
    for section in sections(text, most):
        tokens.add(echo.offsets(text[section.start : section.end]), section.start)
    return tokens


@given(TEXTS, SIZES)
def test_passages_are_whole_and_overlap(text: str, sizes: tuple[int, int]) -> None:
    size, overlap = sizes
    spans = passages(tokens_of(text), Strategy("static", size, overlap))
    covered = 0
    for number, span in enumerate(spans):
        assert span.start <= covered < span.end
        assert span.start == 0 if number == 0 else span.start < span.end
        covered = span.end
        assert len(text[span.start : span.end].encode()) <= size + 2 * 3  # at both ends a character may be shared
    assert covered == len(text)
    for before, after in pairwise(spans):
        shared = len(text[after.start : before.end].encode())
        assert overlap <= shared <= overlap + 2 * 3


@given(TEXTS, st.integers(1, 50))
def test_sections_are_the_text(text: str, most: int) -> None:
    spans = list(sections(text, most))
    assert "".join(text[one.start : one.end] for one in spans) == text
    assert all(0 < one.end - one.start <= most for one in spans)


def test_sections_end_where_no_token_is_harmed() -> None:
    text = "one two three\nfour five six"
    assert [text[one.start : one.end] for one in sections(text, 16)] == ["one two three\n", "four five six"]
    assert list(sections("", 16)) == []


@given(TEXTS)
def test_where_no_engine_says_where_tokens_are(text: str) -> None:
    offsets = list(pseudo_tokens(text))
    assert "".join(text[start:end] for start, end in offsets) == text
    assert all(len(text[start:end].encode()) <= max(BYTES_A_TOKEN, 4) for start, end in offsets)


def test_the_last_passage_has_something_new() -> None:
    tokens = Tokens()
    tokens.add([(n, n + 1) for n in range(10)], 0)
    tokens.add([(0, 0)], 10)  # a token that stands for no character
    assert passages(tokens, Strategy("static", 4, 2)) == [Span(0, 4), Span(2, 6), Span(4, 8), Span(6, 10)]
    assert passages(tokens, Strategy("static", 10, 5)) == [Span(0, 10)]
    assert passages(Tokens(), Strategy("static", 4, 2)) == []


def test_what_auto_means() -> None:
    assert auto(0) == auto(8192) == Strategy("auto", 800, 400)
    assert auto(256) == Strategy("auto", 240, 120)
    assert auto(8).size >= 1


@pytest.mark.parametrize(
    ("size", "overlap", "context", "told"),
    [
        (99, 0, 0, "must be from 100 to 4096, not 99"),
        (4097, 0, 0, "must be from 100 to 4096"),
        (800, 401, 0, "must be from 0 to 400"),
        (800, -1, 0, "must be from 0 to 400"),
        (800, 400, 256, "do not fit into the 256 of the store's embedding model; `max_chunk_size_tokens` may be 240"),
    ],
)
def test_sizes_that_cannot_be(size: int, overlap: int, context: int, told: str) -> None:
    with pytest.raises(BadRequest, match=told):
        static(size, overlap, context)


def test_sizes_that_can_be() -> None:
    assert static(240, 120, 256) == Strategy("static", 240, 120)
    assert static(100, 0, 0) == Strategy("static", 100, 0)
