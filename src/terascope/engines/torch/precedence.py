"""Whose turn comes first: the better priority's, within bounds, so that nobody waits forever."""

from collections.abc import Collection


class Precedence:
    """Says which of several priorities goes first. A smaller number is better.

    The best one does, unless another one has been passed over `patience` times: then that one does, once.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._passed: dict[int, int] = {}

    def first(self, waiting: Collection[int]) -> int:
        """Return which of the priorities `waiting`, at least one, goes first; changes nothing."""
        longest = max(waiting, key=lambda priority: self._passed.get(priority, 0))
        return longest if self._passed.get(longest, 0) >= self._patience else min(waiting)

    def took(self, priority: int, waiting: Collection[int]) -> None:
        """Note that of `waiting` it was `priority` that went first."""
        self._passed = {one: self._passed.get(one, 0) + 1 for one in waiting if one != priority}
