"""Rows whose prompt is being read: parts of the prompts take turns."""

from collections import deque

from terascope.engines.torch.rows import Row

QUANTUM = 128
"""Tokens of a prompt after which the next one's turn comes, at least."""
_SCORED_AT_ONCE = 128  # tokens of a prompt whose logits are all kept in one step


class Reading:
    """Rows of one priority whose prompt is being read, in the order of their turns."""

    def __init__(self, quantum: int = QUANTUM) -> None:
        """A turn is `quantum` tokens."""
        self._rows: deque[Row] = deque()
        self._quantum = quantum
        self._turn = quantum  # tokens that the turn of the first of them still has

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: Row) -> None:
        """Put `row` last."""
        self._rows.append(row)

    def remove(self, row: Row) -> None:
        """Forget `row`, if it is there."""
        if row in self._rows:
            self._rows.remove(row)

    def take(self, budget: int) -> dict[Row, int]:
        """Return how many tokens of whose prompts are read next, `budget` in all at most.

        Who is cut short by the budget has the rest of its turn in the next step. Whole prompts are not cut: the last
        of them may go beyond the budget.
        """
        turns = deque(row for row in self._rows if row.pending > 1)
        shares: dict[Row, int] = {}
        full: list[Row] = []
        while budget > 0 and turns:
            row = turns.popleft()
            left = min(row.pending, _SCORED_AT_ONCE if row.unscored else row.pending) - shares.get(row, 0)
            count = left if row.plan.whole else min(self._turn, budget, left)
            shares[row] = shares.get(row, 0) + count
            budget -= count
            self._turn = max(0, self._turn - count)
            if count < left and self._turn:
                turns.appendleft(row)  # the budget is used up
                break
            (full if count == left else turns).append(row)
            self._turn = self._quantum
        self._rows = turns + deque(full)
        return shares
