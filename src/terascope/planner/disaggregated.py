"""Prompts on some GPUs and answers on others: how many copies of which layout for each, and why not others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from terascope.planner.engines import engine_named
from terascope.planner.layout import Layout
from terascope.planner.search import Plan, Plans
from terascope.planner.serving import BUSIEST, Copy, Speed

_CANDIDATES = 6
_TRANSFER = 0.5
"""Part of the network's rate with which a cache goes from one copy to the other."""
_HALVINGS = 30


@dataclass(frozen=True, slots=True)
class Split:
    """Copies of one layout compute prompts, copies of another the answers."""

    prompt: Plan
    """Its copies are those for prompts."""
    answer: Plan
    """Its copies are those for answers, its speed that of one of them."""
    at_once: float
    """Requests in flight: those that wait for their prompt or have it computed, and those that are answered."""
    ttft: float
    """Seconds to the first token: the wait for prompts before it, the prompt, its cache's way, and a step."""
    itl: float
    output: float
    """Answer tokens/s of all."""
    meets: bool
    """Whether the users asked for are served within the times asked."""
    why_not: str = ""

    @property
    def gpus(self) -> int:
        """GPUs in use."""
        return self.prompt.gpus + self.answer.gpus

    @property
    def ratio(self) -> float:
        """GPUs for prompts over GPUs for answers."""
        return self.prompt.gpus / self.answer.gpus

    @property
    def name(self) -> str:
        """Short, for tables: `2 x TP8 EP8 | 1 x TP1 DP16 EP16`."""
        return " | ".join(f"{one.copies} x {one.layout.name}" for one in (self.prompt, self.answer))


@dataclass(frozen=True, slots=True)
class RejectedSplit:
    """What cannot be a part of a division, or two layouts that make none, and why."""

    what: str
    reason: str


@dataclass(frozen=True, slots=True)
class Splits:
    """Divisions of the cluster, the best first, and what was refused."""

    plans: tuple[Split, ...]
    rejected: tuple[RejectedSplit, ...]


def split(plans: Plans) -> Split | None:
    """Return the best of `splits`; None where there is none."""
    return next(iter(splits(plans).plans), None)


def splits(plans: Plans) -> Splits:
    """Divide the cluster of `plans` into copies for prompts and copies for answers, in every way that works.

    Best is what serves the users asked within the times asked; among those, what makes most answer tokens a second.
    Both parts keep the same cache, because one sends it to the other. A node's GPUs are all for one part, except where
    there is one node. Only the layouts that do most for each GPU are paired; the others are left out without a reason.
    """
    rejected: list[RejectedSplit] = []
    if not engine_named(plans.wish.engine).disaggregated:
        return Splits((), (RejectedSplit(plans.wish.engine, "the engine does not divide prompts from answers"),))
    prompts, answers = _prompts(plans, rejected), _answers(plans, rejected)
    found: list[Split] = []
    for prompt in prompts:
        for answer in answers:
            if _kept(prompt.plan) != _kept(answer.plan):
                continue
            one = _divide(plans, prompt, answer)
            (found if isinstance(one, Split) else rejected).append(one)  # type: ignore[arg-type] # the list of its kind
    found.sort(key=lambda one: (not one.meets, -one.output, one.gpus, one.name))
    return Splits(tuple(found), tuple(rejected))


@dataclass(frozen=True, slots=True)
class _Side:
    plan: Plan
    copy: Copy
    rate: float
    """Requests/s of one copy."""
    own: float = 0.0
    """Seconds for a prompt."""
    transfer: float = 0.0
    """Seconds for its cache to the other part."""
    room: int = 0
    """Sequences that one copy answers at once, within the time between tokens."""


def _prompts(plans: Plans, rejected: list[RejectedSplit]) -> Sequence[_Side]:
    """Those that compute most prompts for each GPU, within the time to the first token."""
    sides = []
    for plan in plans.plans:
        copy = Copy(plans.shapes, plans.cluster, plan.layout, plans.load, plans.values)
        own, way = copy.alone, _transfer(plans, plan.layout)
        why = _refusal(plans, plan.layout)
        if not why and plans.load.ttft and own + way > plans.load.ttft:
            why = (
                f"a prompt takes {own:.2f} s and its cache's way {way:.2f} s, more than the {plans.load.ttft:g} s asked"
            )
        if why:
            rejected.append(RejectedSplit(f"{plan.layout.name} for prompts", why))
        else:
            sides.append(_Side(plan, copy, copy.prompt_rate / plans.load.input, own, way))
    return _best(sides)


def _answers(plans: Plans, rejected: list[RejectedSplit]) -> Sequence[_Side]:
    """Those that make most answer tokens for each GPU, within the time between tokens."""
    sides = []
    for plan in plans.plans:
        copy = Copy(plans.shapes, plans.cluster, plan.layout, plans.load, plans.values)
        why = _refusal(plans, plan.layout)
        if not why and plan.layout.pp > 1:
            why = "caches are sent to copies without a pipeline only"
        room = 0 if why else _room(copy, plan.concurrency // plan.copies, plans.load.itl)
        if not why and not room:
            step = copy.decode(1).itl * 1000
            why = f"a sequence alone takes {step:.0f} ms a token, more than the {plans.load.itl * 1000:g} ms asked"
        if why:
            rejected.append(RejectedSplit(f"{plan.layout.name} for answers", why))
        else:
            sides.append(_Side(plan, copy, copy.decode(room).output / plans.load.output, room=room))
    return _best(sides)


def _refusal(plans: Plans, layout: Layout) -> str:
    if layout.pp > 1 and plans.wish.engine == "vllm":
        return "vLLM's connector (NIXL) sends no caches of pipelines"
    return ""


def _best(sides: Sequence[_Side]) -> Sequence[_Side]:
    """The best for each GPU among those that keep the same; the smaller one where they are equal."""
    ordered = sorted(sides, key=lambda one: (_kept(one.plan), -one.rate / one.plan.layout.gpus, one.plan.layout.gpus))
    return [one for _, same in groupby(ordered, lambda one: _kept(one.plan)) for one in list(same)[:_CANDIDATES]]


def _kept(plan: Plan) -> tuple[str, str, int]:
    """What both parts must have in common: the weights, and how the cache is kept."""
    return plan.layout.weights.name, plan.layout.cache, plan.layout.cp


def _room(copy: Copy, limit: int, itl: float) -> int:
    if itl and copy.decode(1).itl > itl:
        return 0
    low, high = 1, limit
    while low < high:
        middle = (low + high + 1) // 2
        fits = not itl or copy.decode(middle).itl <= itl
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def _transfer(plans: Plans, layout: Layout) -> float:
    """Seconds for a prompt's cache to the other copy, over the network of one group's GPUs."""
    width = layout.cache_width
    size = plans.load.input * plans.shapes.cache_bytes(width) + plans.shapes.fixed_bytes(width)
    return size / (plans.cluster.gpu.nic * layout.tp * _TRANSFER)


def _divide(plans: Plans, prompt: _Side, answer: _Side) -> Split | RejectedSplit:
    """The numbers of copies that make most: with more for prompts, prompts limit until answers do."""
    sizes = prompt.plan.layout.gpus, answer.plan.layout.gpus
    if not (most := _most_prompts(plans, *sizes)):
        what = f"{prompt.plan.layout.name} | {answer.plan.layout.name}"
        return RejectedSplit(what, f"one copy of each takes more than the {plans.cluster.gpus} GPUs there are")
    low, high, found = 1, most, []
    while low <= high:
        middle = (low + high) // 2
        pair = _Pair(plans, prompt, middle, answer, copies_beside(plans, middle, *sizes))
        one, limited = pair.best()
        found.append(one)
        low, high = (middle + 1, high) if limited else (low, middle - 1)
    return max(found, key=lambda one: (one.meets, one.output, -one.gpus))


def copies_beside(plans: Plans, copies: int, size: int, other: int) -> int:
    """How many copies of `other` GPUs the cluster holds beside `copies` of `size`; nodes are not shared by both."""
    total, node = plans.cluster.gpus, plans.cluster.gpu.node
    if total > node:
        copies, size, total = -(-copies * size // node), node, total // node * node
    free = total - copies * size
    return max(0, free // other)


def _most_prompts(plans: Plans, size: int, other: int) -> int:
    """The most copies for prompts that leave one for answers."""
    low, high = 0, plans.cluster.gpus // size
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if copies_beside(plans, middle, size, other) else (low, middle - 1)
    return low


@dataclass(frozen=True, slots=True)
class _State:
    speed: Speed
    rate: float
    busy: float
    ttft: float
    at_once: float


@dataclass(frozen=True, slots=True)
class _Pair:
    """So many copies for prompts and so many for answers."""

    plans: Plans
    prompt: _Side
    prompts: int
    answer: _Side
    answers: int

    def best(self) -> tuple[Split, bool]:
        """The division with the users asked, or with as many as go; and whether prompts are what limits it."""
        users, room = self.plans.load.users, float(self.answer.room * self.answers)
        full = self._last(self._in_time, room)
        limited = full < room
        state = self._state(full)
        if state.at_once < users:
            return self._split(state, self._why(state, limited=limited)), limited
        if users:
            state = self._state(self._last(lambda one: one.at_once <= users, full))
            return self._split(state), False
        return self._split(state), limited

    def _in_time(self, state: _State) -> bool:
        longest = self.plans.load.ttft
        return state.busy <= BUSIEST and (not longest or state.ttft <= longest)

    def _last(self, holds: Callable[[_State], bool], high: float) -> float:
        """The most answers at once, at most `high`, for which `holds`, which is so up to some number."""
        if holds(self._state(high)):
            return high
        low = 0.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if holds(self._state(middle)) else (low, middle)
        return low

    def _state(self, answered: float) -> _State:
        """What happens with so many requests in their answers: as many prompts a second as answers end."""
        speed = self.answer.copy.decode(answered / self.answers)
        rate = answered / (speed.itl * self.plans.load.output)
        busy = rate / (self.prompts * self.prompt.rate)
        queue = min(busy, BUSIEST) / (2 * (1 - min(busy, BUSIEST))) * self.prompt.own
        ttft = queue + self.prompt.own + self.prompt.transfer + speed.itl
        return _State(speed, rate, busy, ttft, answered + rate * ttft)

    def _why(self, state: _State, *, limited: bool) -> str:
        what = "prompts cannot be computed for more" if limited else "answers of more wait too long or do not fit"
        return f"{state.at_once:,.0f} at once are within the times, not {self.plans.load.users:,}: {what}"

    def _split(self, state: _State, why_not: str = "") -> Split:
        output = state.rate * self.plans.load.output
        return Split(
            _copies(self.prompt.plan, self.prompts, self.prompt.copy.speed(1)),
            _copies(self.answer.plan, self.answers, state.speed),
            state.at_once,
            state.ttft,
            state.speed.itl,
            output,
            not why_not,
            why_not,
        )


def _copies(plan: Plan, copies: int, speed: Speed) -> Plan:
    return replace(plan, copies=copies, concurrency=plan.concurrency // plan.copies * copies, speed=speed)
