"""What was probably meant."""

from hypothesis import given
from hypothesis import strategies as st

from terascope.core.words import either, nearest, suggestion

NAMES = ["capture", "set", "add", "scale"]


def test_the_likest_name_is_first() -> None:
    assert nearest("captur", NAMES) == ["capture"]
    assert nearest("zzzz", NAMES) == []


def test_a_suggestion_names_what_is_near_or_all_there_is() -> None:
    assert suggestion("scal", NAMES) == "; did you mean `scale`?"
    assert suggestion("zzzz", NAMES) == "; there are `capture`, `set`, `add` and `scale`"
    assert suggestion("zzzz", ["one"]) == "; there is `one`"
    assert suggestion("zzzz", []) == ""


def test_words_are_listed_as_in_a_sentence() -> None:
    assert [either(NAMES[:n]) for n in range(4)] == [
        "",
        "`capture`",
        "`capture` or `set`",
        "`capture`, `set` or `add`",
    ]


@given(st.sampled_from(NAMES))
def test_a_name_is_nearest_to_itself(name: str) -> None:
    assert nearest(name, NAMES)[0] == name
