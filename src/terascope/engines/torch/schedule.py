"""Who computes what in the next step: a token budget, blocks of the cache, first come first served."""

from collections import deque

from terascope.engines.torch.attention import Span
from terascope.engines.torch.cache import BlockPool, blocks_for
from terascope.engines.torch.rows import Row, Turn

_SCORED_AT_ONCE = 128  # tokens of a prompt whose logits are all kept in one step
_LEAST_PREFILL = 16  # tokens of prompts that get into a step however many rows are running


class Scheduler:
    """Holds the waiting and the running rows. Not thread-safe."""

    def __init__(self, pool: BlockPool, max_batch: int, step_tokens: int) -> None:
        self.waiting: deque[Row] = deque()
        self.running: list[Row] = []
        self.preemptions = 0
        self._pool = pool
        self._max_batch = max_batch
        self._step_tokens = max(step_tokens, max_batch + _LEAST_PREFILL)

    def add(self, row: Row) -> None:
        """Put `row` at the end of the queue."""
        self.waiting.append(row)

    def drop(self, row: Row) -> list[int]:
        """Forget `row` wherever it is, and free its blocks; return those. Idempotent."""
        if row in self.running:
            self.running.remove(row)
        elif row in self.waiting:
            self.waiting.remove(row)
        return self._release(row)

    def plan(self) -> list[Turn]:
        """Return the next step. Rows that answer come first, then prompts in the order of their coming.

        A row that needs a block when there is none takes those of the youngest row, which is computed again later.
        """
        self._admit()
        turns = [Turn(row, _span(row, 1)) for row in tuple(self.running) if row.pending == 1 and self._grow(row)]
        turns = [turn for turn in turns if turn.row in self.running]
        budget = self._step_tokens - len(turns)
        for row in self.running:
            if row.pending > 1 and budget > 0:
                most = min(budget, _SCORED_AT_ONCE) if row.unscored else budget
                turns.append(Turn(row, _span(row, min(row.pending, most))))
                budget -= turns[-1].span.count
        return turns

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self._max_batch:
            needed = blocks_for(len(self.waiting[0].tokens))
            if needed > self._pool.free:
                return
            row = self.waiting.popleft()
            row.blocks = self._pool.take(needed)
            self.running.append(row)

    def _grow(self, row: Row) -> bool:
        """See that `row` has a block for its next token; false when it had to go itself."""
        while row in self.running and len(row.blocks) < blocks_for(len(row.tokens)):
            if self._pool.free:
                row.blocks += self._pool.take(1)
            else:
                self._preempt(self.running[-1])
        return row in self.running

    def _preempt(self, row: Row) -> None:
        self.running.remove(row)
        self._release(row)
        row.computed = 0
        self.waiting.appendleft(row)
        self.preemptions += 1

    def _release(self, row: Row) -> list[int]:
        blocks, row.blocks = row.blocks, []
        self._pool.give_back(blocks)
        return blocks


def _span(row: Row, count: int) -> Span:
    return Span(row.computed, count, row.blocks)
