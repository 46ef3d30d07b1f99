"""Who computes what in the next step: a token budget, blocks of the cache, priorities, turns."""

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from functools import partial

from terascope.engines.torch.cache import BLOCK, BlockPool, blocks_for
from terascope.engines.torch.layout import Span
from terascope.engines.torch.precedence import Precedence
from terascope.engines.torch.reading import QUANTUM, Reading
from terascope.engines.torch.rows import WORST, Row, Turn
from terascope.engines.torch.waiting import Waiting

_LEAST_PREFILL = 16  # tokens of prompts that get into a step however many rows are running
_FIXED_PART = 128  # tokens of a reproducible row's prompt in one step
_LATELY = 256  # steps after a row of better priority in which prompts are read in small parts, for the next one's sake
_TURNS = 4  # prompts that share a large step
_PATIENCE = 3  # steps for prompts of better priority after which the others take part in one


class Scheduler:
    """Holds the waiting and the running rows. Not thread-safe.

    Rows of better priority are let in first, and their prompts are read first. While one reads its prompt, rows of
    worse priority pause: they keep their blocks and have no part in the step, but in every fourth they have. So
    nobody waits forever. Priorities decide when something is computed, never what.
    """

    def __init__(
        self, pool: BlockPool, max_batch: int, step_tokens: int, fixed_rows: int = 1, extra_rows: int = 0
    ) -> None:
        """At most `max_batch` rows of the worst priority run, and `extra_rows` more in all.

        A step has `step_tokens` tokens, one of fixed shape `fixed_rows` rows.
        """
        self.waiting = Waiting()
        self.running: list[Row] = []
        self.preemptions = 0
        self.doubtful: list[int] = []
        """Blocks that were taken from rows before anything showed that they hold numbers; to be zeroed and taken out
        before the next step is computed."""
        self._pool = pool
        self._max_batch = max_batch
        self._places = max_batch + extra_rows
        self._step_tokens = max(step_tokens, self._places + _LEAST_PREFILL)
        self._fixed_rows = fixed_rows
        self._quantum = max(QUANTUM, step_tokens // _TURNS)
        # by kind and priority
        self._reading: defaultdict[tuple[bool, int], Reading] = defaultdict(partial(Reading, self._quantum))
        self._precedence = Precedence(_PATIENCE)
        self._kinds: deque[Callable[[Sequence[Row], int], list[Turn]]] = deque([self._fixed, self._free, self._whole])
        self._round = 0
        self._seen: dict[int, int] = {}  # when rows of each priority were running last

    @property
    def full(self) -> bool:
        """True when no row can be let in, whatever its priority."""
        return len(self.running) >= self._places

    def add(self, row: Row) -> None:
        """Put `row` at the end of the queue of its priority."""
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
        the youngest row of the worst priority, which is computed again later. Reproducible rows, whole ones and others
        take turns in whole steps.
        """
        self._admit()
        self._round += 1
        self._seen |= dict.fromkeys((row.priority for row in self.running), self._round)
        lead, rows = self._taking_part()
        for kind in tuple(self._kinds):
            if turns := kind(rows, lead):
                self._kinds.remove(kind)
                self._kinds.append(kind)
                return turns
        return []

    def publish(self, row: Row) -> None:
        """Let full blocks of `row` be found by others; its numbers must be known to be numbers."""
        full = row.computed // BLOCK
        if row.digests is not None and full > row.published:
            for number, digest in row.digests.between(row.published, full):
                self._pool.publish(row.blocks[number], digest)
            row.published = full

    def _taking_part(self) -> tuple[int, list[Row]]:
        """The rows that have a part in the step, and the priority whose prompts are read first in it."""
        best = min((row.priority for row in self.running if row.reading), default=WORST)
        waiting = {best, *(row.priority for row in self.running if row.priority > best)}
        lead = self._precedence.first(waiting)
        self._precedence.took(lead, waiting)
        return lead, [row for row in self.running if lead > best or row.priority <= best]

    def _free(self, rows: Sequence[Row], lead: int) -> list[Turn]:
        return self._shared([row for row in rows if not (row.plan.reproducible or row.plan.whole)], lead, whole=False)

    def _whole(self, rows: Sequence[Row], lead: int) -> list[Turn]:
        return self._shared([row for row in rows if row.plan.whole], lead, whole=True)

    def _shared(self, rows: Sequence[Row], lead: int, *, whole: bool) -> list[Turn]:
        turns = self._answering([row for row in rows if row.pending == 1])
        budget = self._step_tokens - len(turns)
        reading = {row.priority for row in rows if row.pending > 1}
        for priority in sorted(reading, key=lambda one: (one != lead, one)):
            most = min(budget, self._quantum) if self._hurries(priority) else budget
            shares = self._reading[whole, priority].take(most)
            turns += [Turn(row, _span(row, count)) for row, count in shares.items()]
            budget = max(0, budget - sum(shares.values()))
        return turns

    def _hurries(self, priority: int) -> bool:
        """Whether a step's length matters to rows of better priority than this: it is what their tokens wait for."""
        return any(one < priority and self._round - seen < _LATELY for one, seen in self._seen.items())

    def _fixed(self, rows: Sequence[Row], _: int) -> list[Turn]:
        """A part of one prompt, cut at the same places whenever it is computed, or one token of several rows.

        Whichever the row wants that has waited longest.
        """
        rows = sorted((row for row in rows if row.plan.reproducible), key=lambda row: row.last_round)
        if rows and (left := len(rows[0].plan.prompt) - rows[0].computed) > 0:
            turns = [Turn(rows[0], _span(rows[0], min(_FIXED_PART, left)))]
        else:
            answering = [row for row in rows if row.computed >= len(row.plan.prompt)]
            turns = self._answering(answering[: self._fixed_rows])
        for turn in turns:
            turn.row.last_round, turn.fixed = self._round, True
        return turns

    def _answering(self, rows: Sequence[Row]) -> list[Turn]:
        turns = [Turn(row, _span(row, 1)) for row in rows if self._grow(row)]
        return [turn for turn in turns if turn.row in self.running]

    def _admit(self) -> None:
        while (row := self.waiting.first(self._admissible())) is not None:
            found = self._found(row)
            needed = blocks_for(len(row.tokens)) - len(found)
            room = self._pool.free - self._pool.resting(found)
            if needed + len(self.running) > room and (self.running or needed > room):
                if not self._make_room(row, needed + len(self.running) - room):
                    return  # a block for the next tokens of everyone else is left
                continue
            self.waiting.pop(row)
            self._pool.share(found)
            row.blocks = found + self._pool.take(needed)
            row.found(len(found))
            row.last_round = self._round
            self.running.append(row)
            if not row.plan.reproducible:
                self._reading[row.plan.whole, row.priority].add(row)

    def _admissible(self) -> int:
        """The worst priority of which a row can be let in; less than all when none can."""
        if self.full:
            return -1
        worst = sum(row.priority == WORST for row in self.running)
        return WORST if worst < self._max_batch else WORST - 1

    def _make_room(self, row: Row, missing: int) -> bool:
        """Preempt a row of worse priority than `row`, if all of them together have `missing` blocks."""
        worse = [one for one in self.running if one.priority > row.priority]
        if sum(len(one.blocks) for one in worse) < missing:
            return False
        self._preempt(_youngest_of_worst(worse))
        return True

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
                self._preempt(_youngest_of_worst(self.running))
        return row in self.running

    def _preempt(self, row: Row) -> None:
        self._stop(row)
        freed = self._release(row)
        if not row.made or row.doubtful:
            self.doubtful += freed
        row.lost_memory()
        self.waiting.add_first(row)
        self.preemptions += 1

    def _stop(self, row: Row) -> None:
        self.running.remove(row)
        self._reading[row.plan.whole, row.priority].remove(row)

    def _release(self, row: Row) -> list[int]:
        blocks, row.blocks = row.blocks, []
        return self._pool.give_back(blocks)


def _youngest_of_worst(rows: Sequence[Row]) -> Row:
    worst = max(row.priority for row in rows)
    return next(row for row in reversed(rows) if row.priority == worst)


def _span(row: Row, count: int) -> Span:
    return Span(row.computed, count, row.blocks)
