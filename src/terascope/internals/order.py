"""In what order the rows of a call are computed, when some take what others have."""

from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter

from terascope.core.errors import BadRequest
from terascope.internals.plan import RowTrace


def waves(rows: Sequence[RowTrace]) -> tuple[tuple[str, ...], ...]:
    """The names of the rows in groups: a row takes from rows of earlier groups only. Each row is in one group.

    A group's rows can share a batch; their order is that of `rows`. Raises `BadRequest` for rows that wait for each
    other. Every source must be among `rows`.
    """
    sorter = TopologicalSorter({row.name: sorted(row.sources) for row in rows})
    try:
        sorter.prepare()
    except CycleError as error:
        raise BadRequest(_circle(error.args[1])) from None
    place = {row.name: number for number, row in enumerate(rows)}
    found = []
    while sorter.is_active():
        ready = sorter.get_ready()
        sorter.done(*ready)
        found.append(tuple(sorted(ready, key=place.__getitem__)))
    return tuple(found)


def _circle(names: Sequence[str]) -> str:
    """`names` in the order in which each gives to the next."""
    if len(names) == 2:
        return f"the prompt `{names[0]}` takes from itself; give it twice, under two names"
    told = ", which gives to ".join(f"`{name}`" for name in names[1:])
    return f"prompts wait for each other: `{names[0]}` gives to {told}; give one of them twice, under two names"
