"""Prompts on some GPUs and answers on others: how many copies of which layout for each."""

from collections.abc import Sequence
from dataclasses import dataclass

from terascope.planner.engines import engine_named
from terascope.planner.layout import Layout
from terascope.planner.load import Load
from terascope.planner.search import Plan, Plans
from terascope.planner.serving import Copy, Speed

_CANDIDATES = 8
_TRANSFER = 0.5
"""Part of the network's rate with which a cache goes from one copy to the other."""


@dataclass(frozen=True, slots=True)
class Split:
    """So many copies of one layout compute prompts and so many of another the answers."""

    prompt: Layout
    prompt_copies: int
    answer: Layout
    answer_copies: int
    ttft: float
    itl: float
    output: float
    """Answer tokens/s of all."""

    @property
    def gpus(self) -> int:
        """GPUs in use."""
        return self.prompt.gpus * self.prompt_copies + self.answer.gpus * self.answer_copies


def split(plans: Plans) -> Split | None:
    """Return the best division of the cluster into copies for prompts and for answers that keeps the times asked.

    None where the engine does not divide them, the cluster is too small for two copies, or the times cannot be kept.
    """
    if not engine_named(plans.wish.engine).disaggregated or not plans.plans:
        return None
    prompts = _prompt_candidates(plans)
    answers = _answer_candidates(plans)
    found = [one for p in prompts for a in answers if (one := _divide(plans, p, a))]
    return max(found, key=lambda one: (one.output, -one.gpus), default=None)


@dataclass(frozen=True, slots=True)
class _Side:
    plan: Plan
    rate: float
    """Requests/s of one copy."""
    seconds: float
    """To the first token, or between tokens."""


def _prompt_candidates(plans: Plans) -> Sequence[_Side]:
    """Those that compute most prompts for each GPU, within the time to the first token."""
    sides = []
    for plan in _distinct(plans.plans):
        copy = Copy(plans.shapes, plans.cluster, plan.layout, plans.load, plans.values)
        first = 1.5 * copy.speed(1).ttft + _transfer(plans, plan)  # one's own, and half of another's before it
        if not plans.load.ttft or first <= plans.load.ttft:
            sides.append(_Side(plan, copy.prompt_rate / plans.load.input, first))
    return sorted(sides, key=lambda one: -one.rate / one.plan.layout.gpus)[:_CANDIDATES]


def _answer_candidates(plans: Plans) -> Sequence[_Side]:
    """Those that make most answer tokens for each GPU, within the time between tokens."""
    sides = []
    for plan in _distinct(plans.plans):
        copy = Copy(plans.shapes, plans.cluster, plan.layout, plans.load, plans.values)
        speed = _most(copy, plan.concurrency // plan.copies, plans.load)
        if speed:
            sides.append(_Side(plan, speed.output / plans.load.output, speed.itl))
    return sorted(sides, key=lambda one: -one.rate / one.plan.layout.gpus)[:_CANDIDATES]


def _distinct(plans: Sequence[Plan]) -> Sequence[Plan]:
    """One for each division; a cache in fewer bits or parts does not change what prompts take."""
    return tuple({(p.layout.tp, p.layout.pp, p.layout.dp, p.layout.ep, p.layout.weights): p for p in plans}.values())


def _most(copy: Copy, limit: int, load: Load) -> Speed | None:
    if limit < 1 or (load.itl and copy.decode(1).itl > load.itl):
        return None
    low, high = 1, limit
    while low < high:
        middle = (low + high + 1) // 2
        fits = not load.itl or copy.decode(middle).itl <= load.itl
        low, high = (middle, high) if fits else (low, middle - 1)
    return copy.decode(low)


def _transfer(plans: Plans, plan: Plan) -> float:
    """Seconds for a prompt's cache to the other copy, over the network of one group's GPUs."""
    layout = plan.layout
    size = plans.load.input * plans.shapes.cache_bytes(layout.cache_width) + plans.shapes.fixed_bytes(
        layout.cache_width
    )
    return size / (plans.cluster.gpu.nic * layout.tp * _TRANSFER)


def _divide(plans: Plans, prompt: _Side, answer: _Side) -> Split | None:
    """The numbers of copies that make most; each prompt copy more is so many answer copies fewer."""
    total, best = plans.cluster.gpus, None
    for copies in range(1, (total - answer.plan.layout.gpus) // prompt.plan.layout.gpus + 1):
        others = (total - copies * prompt.plan.layout.gpus) // answer.plan.layout.gpus
        rate = min(copies * prompt.rate, others * answer.rate)
        if others and (best is None or rate > best[0]):
            best = (rate, copies, others)
        if copies * prompt.rate >= others * answer.rate:
            break  # from here on answers limit, and they only get fewer
    if best is None:
        return None
    rate, copies, others = best
    output = rate * plans.load.output
    return Split(prompt.plan.layout, copies, answer.plan.layout, others, prompt.seconds, answer.seconds, output)
