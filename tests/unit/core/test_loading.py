"""What is made while libraries are loaded is left alone by the collector; everything else is not."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from terascope.core.loading import lasting


class Ring:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    working = gc.isenabled()
    yield
    gc.unfreeze()
    (gc.enable if working else gc.disable)()


def made() -> "weakref.ref[Ring]":
    return weakref.ref(Ring())


def test_what_is_made_within_stays_and_what_comes_later_is_collected() -> None:
    with lasting():
        within = made()
        assert not gc.isenabled()
    assert gc.isenabled()
    later = made()
    gc.collect()
    assert (within() is not None, later()) == (True, None)
    gc.unfreeze()
    gc.collect()
    assert within() is None


def test_an_import_that_fails_leaves_the_collector_working() -> None:
    with pytest.raises(ModuleNotFoundError), lasting():
        import there_is_no_such_module  # type: ignore[import-not-found]  # noqa: F401 - it cannot be used
    assert gc.isenabled()


def test_who_has_switched_it_off_keeps_it_off() -> None:
    gc.disable()
    with lasting():
        pass
    assert not gc.isenabled()
