"""Which tokens and steps are meant."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.core.errors import BadRequest
from terascope.internals.tokens import (
    ALL_STEPS,
    GENERATED,
    PROMPT,
    AllTokens,
    LastToken,
    Positions,
    Slice,
    Steps,
    Tokens,
    TokenText,
    most,
    parse_steps,
    parse_tokens,
    positions,
    write_steps,
    write_tokens,
)

PIECES = [b"The", b" Eiffel", b" Tower", b" is", b" in", b" Par", b"is", b"."]
ends = st.none() | st.integers(-20, 20)
choices: st.SearchStrategy[Tokens] = st.one_of(
    st.just(AllTokens()),
    st.just(LastToken()),
    st.builds(Positions, st.lists(st.integers(-5, 4), min_size=1, max_size=5, unique=True).map(tuple)),
    st.builds(Slice, ends, ends),
    st.builds(TokenText, st.text(min_size=1)),
)
steps = st.builds(Steps, st.booleans(), st.none() | st.sets(st.integers(1, 99), min_size=1).map(sorted).map(tuple))


@given(choices)
def test_tokens_are_read_as_they_are_written(tokens: Tokens) -> None:
    assert parse_tokens(write_tokens(tokens)) == tokens


@given(steps)
def test_steps_are_read_as_they_are_written(one: Steps) -> None:
    assert parse_steps(write_steps(one)) == one


@given(steps, st.integers(0, 120))
def test_steps_are_counted_as_they_are_taken(one: Steps, generated: int) -> None:
    assert one.count(generated) == sum(one.takes(step) for step in range(generated + 1))


def test_named_steps() -> None:
    assert (parse_steps("prompt"), parse_steps("generated"), parse_steps("all")) == (PROMPT, GENERATED, ALL_STEPS)
    assert parse_steps(0) == PROMPT
    assert parse_steps([2, 0, 2]) == Steps(prompt=True, generated=(2,))


@pytest.mark.parametrize("value", ["first", "", [], -1, [0, -1]])
def test_other_steps_are_refused(value: Any) -> None:
    with pytest.raises(BadRequest, match="steps"):
        parse_steps(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("all", (0, 1, 2, 3, 4, 5, 6, 7)),
        ("last", (7,)),
        (-1, (7,)),
        ([0, -2], (0, 6)),
        ("1:3", (1, 2)),
        (":-6", (0, 1)),
        ("-2:", (6, 7)),
        ({"text": "Eiffel"}, (1,)),
        ({"text": "Paris"}, (5, 6)),
        ({"text": "is"}, (3, 6)),
        ({"text": "Rome"}, ()),
    ],
)
def test_positions(value: Any, expected: tuple[int, ...]) -> None:
    assert positions(parse_tokens(value), PIECES) == expected


@given(choices, st.lists(st.binary(max_size=3), min_size=5, max_size=12))
def test_positions_are_in_the_row_and_each_once(tokens: Tokens, pieces: list[bytes]) -> None:
    try:
        found = positions(tokens, pieces)
    except BadRequest:
        assert isinstance(tokens, Positions)  # two of them are one token
        return
    assert len(set(found)) == len(found)
    assert all(0 <= position < len(pieces) for position in found)
    assert len(found) <= most(tokens, len(pieces))


@given(st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=12), st.data())
def test_the_tokens_of_a_text_hold_it(texts: list[str], data: st.DataObject) -> None:
    whole = "".join(texts)
    start = data.draw(st.integers(0, len(whole) - 1))
    text = whole[start : data.draw(st.integers(start + 1, len(whole)))]
    pieces = [one.encode() for one in texts]
    found = positions(TokenText(text), pieces)
    assert text.encode() in b"".join(pieces[number] for number in range(found[0], found[-1] + 1))


def test_a_character_may_lie_in_several_tokens() -> None:
    snowman = "☃".encode()
    assert positions(TokenText("☃"), [b"a", snowman[:1], snowman[1:], b"b"]) == (1, 2)


@given(choices, st.integers(0, 30), st.integers(0, 30))
def test_more_tokens_never_mean_fewer_chosen(tokens: Tokens, one: int, other: int) -> None:
    assert most(tokens, min(one, other)) <= most(tokens, max(one, other))


@pytest.mark.parametrize("number", [8, -9])
def test_a_position_beyond_the_prompt_is_refused_with_the_range(number: int) -> None:
    with pytest.raises(BadRequest, match=r"tokens 0 to 7 \(or -8 to -1\)"):
        positions(Positions((number,)), PIECES)


def test_one_token_by_two_numbers_is_refused() -> None:
    with pytest.raises(BadRequest, match="two positions are one token"):
        positions(Positions((0, -8)), PIECES)


@pytest.mark.parametrize("value", ["first", "1:b", "a:2", "1", "1:2:3"])
def test_other_texts_are_refused(value: str) -> None:
    with pytest.raises(BadRequest, match="is not a choice of tokens"):
        parse_tokens(value)
