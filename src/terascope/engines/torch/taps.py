"""Who sees and changes what in one step of a model: by site, and there by row."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from terascope.internals.sites import Place, Site

Tap = Callable[[Tensor], Tensor | None]
"""Sees a row's part of a site, [tokens, ...]; returns what it becomes, of the same shape, or None to leave it.

It must not change its argument in place."""
Remove = Callable[[], None]


class Listening(Protocol):
    """What the parts of a model that are no modules, such as attention, tell of what they compute."""

    def wants(self, place: Place, layer: int | None = None) -> bool:
        """True when anybody wants to see that site."""
        ...

    def through(self, place: Place, layer: int | None, x: Tensor) -> Tensor:
        """Show what is at a site, [tokens of the step, ...]; return what it becomes."""
        ...

    def rows(self, place: Place, layer: int | None) -> "list[Tapped]":
        """Who listens there, for sites that no two rows have of one shape."""
        ...


@dataclass(frozen=True, slots=True)
class Tapped:
    """One row's tap, at the places `first` to before `last` of the step."""

    first: int
    last: int
    tap: Tap


@dataclass(slots=True)
class _Open:
    taps: list[Tapped] = field(default_factory=list)
    close: Remove = lambda: None


class Taps:
    """The taps of one model. Not thread-safe."""

    def __init__(self, install: Callable[[Site, Listening], Remove]) -> None:
        """`install` lets the model's modules tell of a site; what it returns undoes that."""
        self._install = install
        self._open: dict[Site, _Open] = {}

    @contextmanager
    def open(self, site: Site, first: int, last: int, tap: Tap) -> Iterator[None]:
        """Let `tap` see and change the places `first` to before `last` at `site`, after those that came before it.

        Nothing is left in the model when all have been closed.
        """
        entry = self._open.get(site)
        if entry is None:
            entry = self._open[site] = _Open()
            entry.close = self._install(site, self)
        tapped = Tapped(first, last, tap)
        entry.taps.append(tapped)
        try:
            yield
        finally:
            entry.taps.remove(tapped)
            if not entry.taps:
                del self._open[site]
                entry.close()

    def wants(self, place: Place, layer: int | None = None) -> bool:
        """See `Listening.wants`."""
        return bool(self._open) and Site(place, layer) in self._open

    def through(self, place: Place, layer: int | None, x: Tensor) -> Tensor:
        """See `Listening.through`; returns `x` itself where nobody changes it, else a new tensor."""
        return self.at(Site(place, layer), x)

    def at(self, site: Site, x: Tensor) -> Tensor:
        """`through` for a site, of a module too."""
        entry = self._open.get(site)
        if entry is None:
            return x
        changed = x
        for one in entry.taps:
            found = one.tap(changed[one.first : one.last])
            if found is not None:
                changed = x.clone() if changed is x else changed
                changed[one.first : one.last] = found
        return changed

    def rows(self, place: Place, layer: int | None) -> list[Tapped]:
        """See `Listening.rows`."""
        entry = self._open.get(Site(place, layer))
        return list(entry.taps) if entry else []
