"""OpenAI's filters: comparisons of like with like, and compounds that follow logic."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from terascope.protocol.vector_stores import Filters
from terascope.retrieval.filters import matches

READ = TypeAdapter(Filters)
THERE = {"year": 2020.0, "kind": "moon", "good": True}


def wanted(value: Any, attributes: Any = THERE) -> bool:
    found = READ.validate_python(value, strict=True)
    assert found is not None
    return matches(found, attributes)


def compare(type: str, key: str, value: Any) -> dict[str, Any]:
    return {"type": type, "key": key, "value": value}


@pytest.mark.parametrize(
    ("type", "key", "value", "expected"),
    [
        ("eq", "year", 2020, True),
        ("eq", "year", 2020.5, False),
        ("eq", "year", "2020", False),
        ("eq", "good", True, True),
        ("eq", "good", 1, False),
        ("ne", "year", 2021, True),
        ("ne", "year", 2020, False),
        ("ne", "none", 1, True),
        ("eq", "none", 1, False),
        ("gt", "year", 2019, True),
        ("gt", "year", 2020, False),
        ("gte", "year", 2020, True),
        ("lt", "year", 2021, True),
        ("lte", "year", 2019, False),
        ("gt", "kind", "a", True),
        ("gt", "kind", 1, False),
        ("lt", "none", 1, False),
        ("in", "kind", ["sun", "moon"], True),
        ("in", "kind", ["sun"], False),
        ("in", "kind", [], False),
        ("nin", "kind", ["sun"], True),
        ("nin", "none", ["sun"], True),
        ("nin", "kind", ["moon"], False),
    ],
)
def test_comparisons(type: str, key: str, value: Any, expected: bool) -> None:
    assert wanted(compare(type, key, value)) is expected


def test_compounds() -> None:
    year, kind = compare("eq", "year", 2020), compare("eq", "kind", "sun")
    assert not wanted({"type": "and", "filters": [year, kind]})
    assert wanted({"type": "or", "filters": [year, kind]})
    assert wanted({"type": "and", "filters": [year, {"type": "or", "filters": [kind, year]}]})


VALUES = st.one_of(st.booleans(), st.integers(-3, 3), st.sampled_from(["a", "b", ""]))
COMPARISONS = st.builds(compare, st.sampled_from(["eq", "gt", "gte", "lt", "lte"]), st.sampled_from("xy"), VALUES)


@given(COMPARISONS, COMPARISONS, st.dictionaries(st.sampled_from("xy"), VALUES))
def test_logic(one: dict[str, Any], other: dict[str, Any], attributes: dict[str, Any]) -> None:
    both, either = ({"type": kind, "filters": [one, other]} for kind in ("and", "or"))
    first, second = wanted(one, attributes), wanted(other, attributes)
    assert wanted(both, attributes) is (first and second)
    assert wanted(either, attributes) is (first or second)
    equal = one | {"type": "eq"}
    assert wanted(one | {"type": "ne"}, attributes) is not wanted(equal, attributes)
    assert wanted(one | {"type": "gte"}, attributes) is (
        wanted(equal, attributes) or wanted(one | {"type": "gt"}, attributes)
    )


@pytest.mark.parametrize(
    "value",
    [
        {"type": "eq", "key": "a"},
        {"type": "like", "key": "a", "value": 1},
        {"type": "and", "filters": []},
        {"type": "eq", "key": "a", "value": None},
        {"type": "eq", "key": "a", "value": float("nan")},
        {"type": "eq", "key": "a\0", "value": 1},
    ],
)
def test_what_is_no_filter(value: Any) -> None:
    with pytest.raises(ValidationError):
        READ.validate_python(value, strict=True)


def test_filters_have_an_end() -> None:
    deep: dict[str, Any] = compare("eq", "a", 1)
    for _ in range(8):
        deep = {"type": "and", "filters": [deep]}
    assert not wanted(deep)
    with pytest.raises(ValidationError, match="8 deep"):
        READ.validate_python({"type": "and", "filters": [deep]})
