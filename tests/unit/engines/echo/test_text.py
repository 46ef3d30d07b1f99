"""What the echo engine makes of texts."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.core.errors import BadRequest
from terascope.engines.echo.text import (
    DIMENSIONS,
    Limits,
    logprob,
    packed,
    pieces,
    rivals,
    speak,
    text_of,
    tokens,
    vector,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)  # without lone surrogates, as in JSON


@given(texts)
def test_pieces_are_the_text(text: str) -> None:
    cut = pieces(text)
    assert "".join(cut) == text
    assert all(cut)
    assert pieces(text, 2) == cut[:2]


@given(texts)
def test_tokens_lead_back(text: str) -> None:
    assert text_of(tokens(text), "tokens") == text


def test_token_ids_that_there_are_not() -> None:
    assert text_of([0x68, 0xFF], "tokens") == "h\ufffd"
    with pytest.raises(BadRequest, match="256"):
        text_of([1, 256], "tokens")


def test_what_is_said() -> None:
    assert speak("a b c", Limits(10)) == speak("a b c", Limits(3))
    assert speak("a b c", Limits(3)).finish_reason == "stop"
    cut = speak("a b c", Limits(2))
    assert (cut.pieces, cut.finish_reason, cut.made) == (("a", " b"), "length", 2)
    assert speak("a b", Limits(5, endless=True)).pieces == ("a", " b", " a", " b", " a")
    assert speak("a b", Limits(5, endless=True)).finish_reason == "length"
    assert speak("a b", Limits(9, least=3)).pieces == ("a", " b", " a")
    assert speak("", Limits(9, least=2)).made == 2
    assert speak("", Limits(9)).pieces == ()
    assert speak("a", Limits(0)).finish_reason == "length"


def test_stop_strings_that_straddle_pieces() -> None:
    found = speak("one two three", Limits(9, stop=("never", "o th")))
    assert (found.pieces, found.finish_reason, found.made) == (("one", " tw"), "stop", 3)
    assert speak("one two", Limits(9, stop=("one",))).pieces == ()
    assert speak("one two", Limits(9, stop=("wo", "tw"))).pieces == ("one", " ")
    assert speak("one two", Limits(1, stop=("two",))).finish_reason == "length"


@given(texts, st.lists(st.text(min_size=1, max_size=3), max_size=3), st.integers(0, 20), st.booleans())
def test_an_answer_never_holds_a_stop_string(text: str, stop: list[str], most: int, endless: bool) -> None:
    said = speak(text, Limits(most, endless=endless, stop=tuple(stop)))
    assert said.made <= most
    assert len(said.pieces) <= said.made
    assert not any(one in "".join(said.pieces) for one in stop)


@given(texts, st.integers(0, 10**6), st.integers(1, 20))
def test_rivals_are_a_distribution(piece: str, place: int, count: int) -> None:
    found = rivals(piece, place, count)
    assert found[0] == (piece, logprob(piece, place))
    assert len({name for name, _ in found}) == count
    assert [one for _, one in found] == sorted((one for _, one in found), reverse=True)
    assert sum(math.exp(one) for _, one in found) < 1 + 1e-9


@given(texts)
def test_vectors(text: str) -> None:
    whole = vector(text)
    assert len(whole) == DIMENSIONS
    assert math.isclose(math.hypot(*whole), 1, abs_tol=1e-6)
    assert whole == vector(text)
    assert len(packed(whole)) == 4 * DIMENSIONS
    assert math.isclose(math.hypot(*vector(text, 3)), 1, abs_tol=1e-6)


def test_other_texts_have_other_vectors() -> None:
    assert vector("a") != vector("b")
