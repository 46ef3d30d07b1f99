"""The order of rows that take from each other."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.core.errors import BadRequest
from terascope.internals.order import waves
from terascope.internals.plan import Intervention, Patch, Prompt, RowTrace, Where
from terascope.internals.sites import Place, Site

HERE = Where(Site(Place.RESIDUAL_POST, 0))


def rows(sources: dict[str, list[str]]) -> list[RowTrace]:
    return [
        RowTrace(Prompt(name, text="a"), tuple(Intervention(HERE, Patch(source, HERE)) for source in taken))
        for name, taken in sources.items()
    ]


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, list[str]]:
    """Rows that take from rows before them, shuffled."""
    names = [str(number) for number in range(draw(st.integers(1, 8)))]
    found = {
        name: draw(st.lists(st.sampled_from(names[:at]), unique=True)) if at else [] for at, name in enumerate(names)
    }
    return {name: found[name] for name in draw(st.permutations(names))}


@given(graphs())
def test_each_row_comes_once_and_after_its_sources(sources: dict[str, list[str]]) -> None:
    order = waves(rows(sources))
    place = {name: number for number, wave in enumerate(order) for name in wave}
    assert sorted(name for wave in order for name in wave) == sorted(sources)
    assert all(place[source] < place[name] for name, taken in sources.items() for source in taken)
    assert all(place[name] == max((place[one] + 1 for one in taken), default=0) for name, taken in sources.items())


@given(graphs(), st.data())
def test_a_circle_is_refused_and_told(sources: dict[str, list[str]], data: st.DataObject) -> None:
    """Any row takes from one that, over others or itself, takes from it."""
    name = data.draw(st.sampled_from(sorted(sources)))
    above = {name}
    for _ in sources:
        above |= {one for one, taken in sources.items() if above & set(taken)}
    sources[name].append(data.draw(st.sampled_from(sorted(above))))
    with pytest.raises(BadRequest) as caught:
        waves(rows(sources))
    assert "under two names" in caught.value.message


def test_a_circle_is_told_in_the_order_in_which_rows_give() -> None:
    with pytest.raises(BadRequest) as caught:
        waves(rows({"a": ["b"], "b": ["c"], "c": ["a"], "d": []}))
    told = re.findall("`(.)`", caught.value.message)
    assert "".join(told) in ("acba", "cbac", "bacb")
    with pytest.raises(BadRequest, match="the prompt `clean` takes from itself"):
        waves(rows({"clean": ["clean"]}))
