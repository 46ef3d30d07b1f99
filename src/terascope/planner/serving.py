"""What a layout does under load: times and rates of one copy of a model with so many sequences at once."""

import math
from dataclasses import dataclass

from terascope.planner.constants import Constants, constants
from terascope.planner.hardware import Cluster
from terascope.planner.layout import Layout
from terascope.planner.load import Load
from terascope.planner.memory import STEP_TOKENS
from terascope.planner.roofline import Roofline
from terascope.planner.shapes import Architecture

BUSIEST = 0.95
"""Beyond this part of its time in prompts a queue is taken to grow no longer: a closed loop limits itself."""


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast one copy is with `sequences` requests in flight; times in seconds, rates in tokens/s."""

    sequences: int
    ttft: float
    """To the first token, with the wait for prompts before it; without network and queue of a gateway."""
    itl: float
    """Between tokens of an answer, on average, with the pauses that prompts of others make."""
    output: float
    """Answer tokens."""
    total: float
    """Prompt and answer tokens."""


class Copy:
    """One copy of a model in a layout, asked for its speed at any number of sequences."""

    def __init__(
        self, shapes: Architecture, cluster: Cluster, layout: Layout, load: Load, values: Constants | None = None
    ) -> None:
        self._layout = layout
        self._load = load
        self._is = values or constants()
        self._times = Roofline(shapes, cluster, layout, self._is)
        self.prompt = self._prompt()

    def speed(self, sequences: int) -> Speed:
        """The speed with so many sequences, each in another place between prompt and end."""
        layout, load = self._layout, self._load
        each = max(1.0, sequences / (layout.dp * layout.pp))
        step = self._times.decode(each, load.input + load.output / 2)
        prompts = max(1.0, sequences / layout.dp) * self.prompt / layout.pp  # of a group, in the time of one answer
        itl = step + self._is.interference * prompts / load.output
        ttft = self._first(step, prompts / (load.output * itl + self.prompt))
        rate = sequences * load.output / (ttft + load.output * itl)
        return Speed(sequences, ttft, itl, rate, rate * load.length / load.output)

    def decode(self, sequences: float) -> Speed:
        """The same where prompts are computed elsewhere; less than one sequence is one for a part of the time."""
        each = max(1.0, sequences / (self._layout.dp * self._layout.pp))
        itl = self._times.decode(each, self._load.input + self._load.output / 2)
        rate = sequences / itl
        return Speed(math.ceil(sequences), 0.0, itl, rate, rate * self._load.length / self._load.output)

    @property
    def alone(self) -> float:
        """Seconds for a prompt that finds the copy idle."""
        return self._times.prompt(self._load.input, self._load.input)

    @property
    def prompt_rate(self) -> float:
        """Prompt tokens/s of a copy that does nothing else."""
        return self._load.input / self.prompt * self._layout.dp

    def _prompt(self) -> float:
        """Seconds for one prompt: short ones are computed several at once, long ones in pieces."""
        tokens = max(self._load.input, STEP_TOKENS)
        return self._times.prompt(tokens, self._load.input) * self._load.input / tokens

    def _first(self, step: float, busy: float) -> float:
        """One's own prompt, half a step that is under way, and the queue of prompts before it."""
        own = self.alone
        busy = min(busy, BUSIEST)
        return own + step / 2 + busy / (2 * (1 - busy)) * own


def most(copy: Copy, limit: int, load: Load) -> int:
    """The most sequences, at most `limit`, with which `copy` is within the times that `load` asks; 0 where none is."""
    if limit < 1 or not _within(copy.speed(1), load):
        return 0
    low, high = 1, limit
    while low < high:  # times grow with the number of sequences
        middle = (low + high + 1) // 2
        if _within(copy.speed(middle), load):
            low = middle
        else:
            high = middle - 1
    return low


def _within(speed: Speed, load: Load) -> bool:
    return (not load.itl or speed.itl <= load.itl) and (not load.ttft or speed.ttft <= load.ttft)
