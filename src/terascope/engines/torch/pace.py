"""How fast a worker is, as seen so far: what its steps took, for guesses of what work to come will take."""

from enum import Enum

from terascope.internals.limits import GRADIENT_SHARE, Cost

_MEMORY_S = 60.0
"""What was seen before so many seconds of work of the same kind counts little."""


class WorkKind(Enum):
    """Kinds of work whose tokens take different times."""

    READING = "reading"
    """Tokens of prompts, and of answers that are made in the same step."""
    MAKING = "making"
    """Tokens of answers, in steps without prompts."""
    GOING_BACK = "going back"
    """Tokens that go forward and backward."""


class Pace:
    """Tokens and seconds of each kind of work. One thread writes, others may read."""

    def __init__(self) -> None:
        self._seen: dict[WorkKind, tuple[float, float]] = {}

    def saw(self, work: WorkKind, tokens: int, seconds: float) -> None:
        """So many tokens took so many seconds. What is not a time or has no token counts nothing."""
        if tokens > 0 and seconds > 0:
            before, took = self._seen.get(work, (0.0, 0.0))
            kept = max(0.0, 1 - seconds / _MEMORY_S)
            self._seen[work] = (before * kept + tokens, took * kept + seconds)

    def step(self, prompt: int, made: int, seconds: float) -> None:
        """A step of a running batch computed so many tokens of prompts and made so many of answers."""
        self.saw(WorkKind.READING if prompt else WorkKind.MAKING, prompt + made, seconds)

    def seconds(self, cost: Cost) -> float | None:
        """About how long a plan of that `cost` takes by itself; None while nothing like it has been seen."""
        reading, making = self._a_token(WorkKind.READING), self._a_token(WorkKind.MAKING)
        back = self._a_token(WorkKind.GOING_BACK)
        if back is None and reading is not None:
            back = GRADIENT_SHARE * reading
        parts = ((cost.prompt_tokens, reading), (cost.output_tokens, making), (cost.gradient_tokens, back))
        taken = [(tokens, each) for tokens, each in parts if tokens]
        if any(each is None for _, each in taken):
            return None
        return sum(tokens * (each or 0.0) for tokens, each in taken)

    def _a_token(self, work: WorkKind) -> float | None:
        tokens, seconds = self._seen.get(work, (0.0, 0.0))
        return seconds / tokens if tokens else None
