"""Rows that wait for a place in the batch: better priorities first, requests in turns, those that ran before first."""

from collections import OrderedDict, deque
from collections.abc import Iterator

from terascope.engines.torch.precedence import Precedence
from terascope.engines.torch.rows import Row

_PATIENCE = 8  # rows of better priority that are let in before one that has waited


class Queue:
    """Rows of one priority that wait. Requests take turns, so that one with many rows does not hold up the next."""

    def __init__(self) -> None:
        self._groups: OrderedDict[object, deque[Row]] = OrderedDict()
        self._again: deque[Row] = deque()

    def __len__(self) -> int:
        return len(self._again) + sum(map(len, self._groups.values()))

    def __iter__(self) -> Iterator[Row]:
        yield from self._again
        for group in self._groups.values():
            yield from group

    def add(self, row: Row) -> None:
        """Put `row` behind those of its request."""
        self._groups.setdefault(row.group, deque()).append(row)

    def add_first(self, row: Row) -> None:
        """Put `row` before all others: it has run before."""
        self._again.appendleft(row)

    def first(self) -> Row:
        """Whose turn it is; there must be one."""
        return self._again[0] if self._again else next(iter(self._groups.values()))[0]

    def pop(self) -> Row:
        """Take out the first; the next request's turn comes."""
        if self._again:
            return self._again.popleft()
        group, rows = self._groups.popitem(last=False)
        row = rows.popleft()
        if rows:
            self._groups[group] = rows
        return row

    def remove(self, row: Row) -> None:
        """Take out `row`, if it is there."""
        if row in self._again:
            self._again.remove(row)
            return
        rows = self._groups.get(row.group)
        if rows is not None and row in rows:
            rows.remove(row)
            if not rows:
                del self._groups[row.group]


class Waiting:
    """All rows that wait, a queue for each priority. A row's priority must not change while it waits."""

    def __init__(self) -> None:
        self._queues: dict[int, Queue] = {}
        self._precedence = Precedence(_PATIENCE)

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[Row]:
        for priority in sorted(self._queues):
            yield from self._queues[priority]

    def add(self, row: Row) -> None:
        """Put `row` behind those of its request."""
        self._queue(row).add(row)

    def add_first(self, row: Row) -> None:
        """Put `row` before all others of its priority: it has run before."""
        self._queue(row).add_first(row)

    def first(self, worst: int) -> Row | None:
        """Whose turn it is among those of priority `worst` and better."""
        able = [priority for priority in self._priorities() if priority <= worst]
        return self._queues[self._precedence.first(able)].first() if able else None

    def pop(self, row: Row) -> None:
        """Take out `row`, which `first` returned; the next request's turn comes."""
        self._precedence.took(row.priority, self._priorities())
        self._queues[row.priority].pop()

    def remove(self, row: Row) -> None:
        """Take out `row`, if it is there."""
        self._queue(row).remove(row)

    def _priorities(self) -> list[int]:
        return [priority for priority, queue in self._queues.items() if len(queue)]

    def _queue(self, row: Row) -> Queue:
        return self._queues.setdefault(row.priority, Queue())
