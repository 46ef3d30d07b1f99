"""The tables of `tests/distribution.py` name files that are there, and the order is what they say."""

from pathlib import Path

from tests.distribution import DEAREST, TOGETHER, place_of, unit_of


def test_the_files_are_there(root: Path) -> None:
    named = {*DEAREST, *TOGETHER, *TOGETHER.values()}
    assert [name for name in sorted(named) if not (root / name).is_file()] == []
    assert len(set(DEAREST)) == len(DEAREST)


def test_files_that_go_together_stand_next_to_each_other() -> None:
    for file, before in TOGETHER.items():
        assert before not in TOGETHER
        assert (file in DEAREST) == (before in DEAREST)
    units = [unit_of(name) for name in DEAREST]
    assert units == sorted(units, key=units.index)
    assert all(DEAREST[units.index(unit)] == unit for unit in units)


def test_the_dearest_come_first_and_then_those_with_slow_tests(root: Path) -> None:
    other = root / "tests" / "unit" / "core" / "test_ids.py"
    places = [place_of(root / name, slow=True) for name in DEAREST]
    assert places == sorted(set(places))
    assert max(places) < place_of(other, slow=True) < place_of(other, slow=False)


def test_a_file_is_a_unit_unless_it_goes_with_another() -> None:
    assert unit_of("tests/docs/test_blocks.py") == "tests/docs/test_blocks.py"
    for file, before in TOGETHER.items():
        assert unit_of(file) == unit_of(before) == before
