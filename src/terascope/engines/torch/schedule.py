"""Who computes what in the next step: a token budget, blocks of the cache, turns."""

from collections import OrderedDict, deque
from collections.abc import Iterator

from terascope.engines.torch.cache import BLOCK, BlockPool, blocks_for
from terascope.engines.torch.layout import Span
from terascope.engines.torch.rows import Row, Turn

_SCORED_AT_ONCE = 128  # tokens of a prompt whose logits are all kept in one step
_LEAST_PREFILL = 16  # tokens of prompts that get into a step however many rows are running
_QUANTUM = 128  # tokens of a prompt after which the next one's turn comes
_FIXED_PART = 128  # tokens of a reproducible row's prompt in one step


class Queue:
    """Rows that wait. Requests take turns, so that one with many rows does not hold up the next."""

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

    def first(self) -> Row | None:
        """Whose turn it is."""
        if self._again:
            return self._again[0]
        return next(iter(self._groups.values()))[0] if self._groups else None

    def pop(self) -> Row:
        """Take out the first; the next request's turn comes."""
        if self._again:
            return self._again.popleft()
        group, rows = self._groups.popitem(last=False)
        row = rows.popleft()
        if rows:
            self._groups[group] = rows
        return row

    def remove(self, row: Row) -> bool:
        """Take out `row`; return whether it was there."""
        if row in self._again:
            self._again.remove(row)
            return True
        rows = self._groups.get(row.group)
        if rows is None or row not in rows:
            return False
        rows.remove(row)
        if not rows:
            del self._groups[row.group]
        return True


class Scheduler:
    """Holds the waiting and the running rows. Not thread-safe."""

    def __init__(self, pool: BlockPool, max_batch: int, step_tokens: int, fixed_rows: int = 1) -> None:
        """At most `max_batch` rows run, with `step_tokens` tokens a step; `fixed_rows` in a step of fixed shape."""
        self.waiting = Queue()
        self.running: list[Row] = []
        self.preemptions = 0
        self.doubtful: list[int] = []
        """Blocks that were taken from rows before anything showed that they hold numbers; to be zeroed and taken out
        before the next step is computed."""
        self._pool = pool
        self._max_batch = max_batch
        self._step_tokens = max(step_tokens, max_batch + _LEAST_PREFILL)
        self._fixed_rows = fixed_rows
        self._reading: deque[Row] = deque()  # running rows whose prompt is being read, in the order of their turns
        self._turn = _QUANTUM  # tokens that the turn of the first of them still has
        self._fixed_turn = False
        self._round = 0

    def add(self, row: Row) -> None:
        """Put `row` at the end of the queue."""
        self.waiting.add(row)

    def drop(self, row: Row) -> list[int]:
        """Forget `row` wherever it is, and free its blocks; return those whose content is of no use. Idempotent."""
        if row in self.running:
            self._stop(row)
        else:
            self.waiting.remove(row)
        return self._release(row)

    def plan(self) -> list[Turn]:
        """Return the next step; all its turns are of fixed shape, or none is.

        Rows that answer come first; prompts take turns. A row that needs a block when there is none takes those of
        the youngest row, which is computed again later. Reproducible rows and others take turns in whole steps.
        """
        self._admit()
        self._fixed_turn = not self._fixed_turn
        return self._fixed() or self._free() if self._fixed_turn else self._free() or self._fixed()

    def publish(self, row: Row) -> None:
        """Let full blocks of `row` be found by others; its numbers must be known to be numbers."""
        full = row.computed // BLOCK
        if row.digests is not None and full > row.published:
            for number, digest in row.digests.between(row.published, full):
                self._pool.publish(row.blocks[number], digest)
            row.published = full

    def _free(self) -> list[Turn]:
        rows = [row for row in self.running if not row.plan.reproducible]
        turns = self._answering([row for row in rows if row.pending == 1])
        return turns + self._prompts(self._step_tokens - len(turns))

    def _fixed(self) -> list[Turn]:
        """A part of one prompt, cut at the same places whenever it is computed, or one token of several rows.

        Whichever the row wants that has waited longest.
        """
        rows = sorted((row for row in self.running if row.plan.reproducible), key=lambda row: row.last_round)
        self._round += 1
        if rows and (left := len(rows[0].plan.prompt) - rows[0].computed) > 0:
            turns = [Turn(rows[0], _span(rows[0], min(_FIXED_PART, left)))]
        else:
            answering = [row for row in rows if row.computed >= len(row.plan.prompt)]
            turns = self._answering(answering[: self._fixed_rows])
        for turn in turns:
            turn.row.last_round, turn.fixed = self._round, True
        return turns

    def _answering(self, rows: list[Row]) -> list[Turn]:
        turns = [Turn(row, _span(row, 1)) for row in rows if self._grow(row)]
        return [turn for turn in turns if turn.row in self.running]

    def _prompts(self, budget: int) -> list[Turn]:
        """Parts of prompts, `_QUANTUM` tokens a turn; who is cut short by the budget has the rest in the next step."""
        turns = deque(row for row in self._reading if row.pending > 1)
        shares: dict[Row, int] = {}
        full: list[Row] = []
        while budget > 0 and turns:
            row = turns.popleft()
            left = min(row.pending, _SCORED_AT_ONCE if row.unscored else row.pending) - shares.get(row, 0)
            count = min(self._turn, budget, left)
            shares[row] = shares.get(row, 0) + count
            budget -= count
            self._turn -= count
            if count < left and self._turn:
                turns.appendleft(row)  # the budget is used up
                break
            (full if count == left else turns).append(row)
            self._turn = _QUANTUM
        self._reading = turns + deque(full)
        return [Turn(row, _span(row, count)) for row, count in shares.items()]

    def _admit(self) -> None:
        while len(self.running) < self._max_batch and (row := self.waiting.first()) is not None:
            found = self._found(row)
            needed = blocks_for(len(row.tokens)) - len(found)
            room = self._pool.free - self._pool.resting(found)
            if needed + len(self.running) > room and (self.running or needed > room):
                return  # a block for the next tokens of everyone else is left
            self.waiting.pop()
            self._pool.share(found)
            row.blocks = found + self._pool.take(needed)
            row.found(len(found))
            row.last_round = self._round
            self.running.append(row)
            if not row.plan.reproducible:
                self._reading.append(row)

    def _found(self, row: Row) -> list[int]:
        """Blocks that `row` can take over; at least one token is left, since something must give its logits."""
        if row.digests is None or row.unscored:
            return []
        return self._pool.find(row.digests.first((len(row.tokens) - 1) // BLOCK))

    def _grow(self, row: Row) -> bool:
        """See that `row` has a block for its next token; false when it had to go itself."""
        while row in self.running and len(row.blocks) < blocks_for(row.computed + 1):
            if self._pool.free:
                row.blocks += self._pool.take(1)
            else:
                self._preempt(self.running[-1])
        return row in self.running

    def _preempt(self, row: Row) -> None:
        self._stop(row)
        freed = self._release(row)
        if not row.made:
            self.doubtful += freed
        row.computed = row.published = 0
        self.waiting.add_first(row)
        self.preemptions += 1

    def _stop(self, row: Row) -> None:
        self.running.remove(row)
        if row in self._reading:
            self._reading.remove(row)

    def _release(self, row: Row) -> list[int]:
        blocks, row.blocks = row.blocks, []
        return self._pool.give_back(blocks)


def _span(row: Row, count: int) -> Span:
    return Span(row.computed, count, row.blocks)
