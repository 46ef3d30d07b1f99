"""Every layout of a model on a cluster: which work, how well, and why the others do not."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from terascope.core.errors import BadRequest
from terascope.planner.calibration import Calibration
from terascope.planner.constants import Constants, constants
from terascope.planner.engines import Engine, as_kept, engine_named, engine_refusal, format_refusal
from terascope.planner.hardware import Cluster
from terascope.planner.layout import Layout, cache_named, refusal
from terascope.planner.load import Load
from terascope.planner.memory import GIB, Memory, memory
from terascope.planner.precision import FORMATS, Format, format_named
from terascope.planner.serving import Copy, Speed, most
from terascope.planner.shapes import Architecture

_MOST_SEQUENCES = 2048
"""Sequences of a group that engines are run with at most."""
_LARGEST_COPY = 1024
_LARGEST_TENSOR = 64
_STAGES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64)


@dataclass(frozen=True, slots=True)
class Wish:
    """What the search may choose from."""

    engine: str = "vllm"
    quantization: str = "auto"
    cache: str = "auto"
    context: int = 0
    """Longest sequence to be taken, in tokens; 0: what the load needs."""
    utilization: float = 0.9


@dataclass(frozen=True, slots=True)
class Plan:
    """A layout that works: `copies` copies of it on the cluster, and how fast they are."""

    layout: Layout
    copies: int
    memory: Memory
    concurrency: int
    """Sequences of the load's length that the caches of all copies hold."""
    context: int
    """Longest single sequence, in tokens."""
    speed: Speed
    """Of one copy, at the number of sequences asked or the most within the times asked."""
    meets: bool
    """Whether the users asked for are served within the times asked."""
    why_not: str = ""

    @property
    def gpus(self) -> int:
        """GPUs in use."""
        return self.layout.gpus * self.copies

    @property
    def output(self) -> float:
        """Answer tokens/s of all copies."""
        return self.speed.output * self.copies

    @property
    def output_per_gpu(self) -> float:
        """Answer tokens/s for each GPU in use."""
        return self.output / self.gpus


@dataclass(frozen=True, slots=True)
class Rejected:
    """A layout that does not work, and why."""

    layout: Layout
    reason: str


@dataclass(frozen=True, slots=True)
class Plans:
    """What a search found: the best first."""

    shapes: Architecture
    cluster: Cluster
    load: Load
    wish: Wish
    plans: tuple[Plan, ...]
    rejected: tuple[Rejected, ...]
    calibration: Calibration | None = None
    """Constants found on this kind of GPU; None: those that ship."""

    @property
    def values(self) -> Constants:
        """The constants that times were computed with."""
        return self.calibration.constants if self.calibration else constants()

    @property
    def best(self) -> Plan:
        """The first. Raises `BadRequest` that says what is missing where nothing works."""
        if not self.plans:
            raise BadRequest(self.failure(), param="on")
        return self.plans[0]

    @property
    def missing(self) -> float:
        """Bytes that are missing on each GPU, of what an engine may use, for one sequence in the nearest layout.

        0 where a layout works, or memory is not what is missing.
        """
        if self.plans:
            return 0.0
        found = [short for one in self.rejected if (short := _missing(self, one.layout)) is not None]
        return min(found, default=0.0)

    def failure(self) -> str:
        """Why nothing works: the memory that is missing, or the most frequent reason."""
        if (least := self.missing) > 0:
            return (
                f"{self.shapes.name} does not fit on {self.cluster.name}: in the best layout {least / GIB:.1f} GiB are "
                f"missing on each GPU for one sequence of {self.wish.context or self.load.length:,} tokens; take more "
                "or larger GPUs, or ask `terascope plan --fit`"
            )
        reasons = [one.reason for one in self.rejected]
        common = max(set(reasons), key=reasons.count) if reasons else "no layout was tried"
        return f"no layout of {self.shapes.name} works on {self.cluster.name}: {common}"


def search(
    shapes: Architecture,
    cluster: Cluster,
    load: Load,
    wish: Wish | None = None,
    calibration: Calibration | None = None,
) -> Plans:
    """Try every layout of `shapes` on `cluster` under `load`; return those that work, the best first, and the others.

    Times are computed with the constants of `calibration`, or with those that ship. Best is what serves the users asked
    within the times asked; among those, what makes most answer tokens a second. Raises `BadRequest` for a wish that
    cannot be: an unknown engine or format, a sequence longer than the model takes.
    """
    wish = wish or Wish()
    engine = engine_named(wish.engine)
    longest = wish.context or load.length
    if longest < load.length or longest > shapes.context:
        raise BadRequest(
            f"{shapes.name} takes sequences of at most {shapes.context:,} tokens and the load has {load.length:,}; "
            f"a context of {longest:,} is not between them",
            param="context",
        )
    plans: list[Plan] = []
    rejected: list[Rejected] = []
    for layout in layouts(shapes, cluster, wish, engine):
        found = judge(shapes, cluster, layout, load, wish, calibration.constants if calibration else None)
        (plans if isinstance(found, Plan) else rejected).append(found)  # type: ignore[arg-type] # the list of its kind
    plans.sort(key=lambda one: (not one.meets, -one.output, one.layout.gpus, one.layout.name))
    return Plans(shapes, cluster, load, wish, tuple(plans), tuple(rejected), calibration)


def judge(
    shapes: Architecture, cluster: Cluster, layout: Layout, load: Load, wish: Wish, values: Constants | None = None
) -> Plan | Rejected:
    """Return the plan with `layout`, or why it does not work."""
    engine = engine_named(wish.engine)
    if why := engine_refusal(shapes, engine) or format_refusal(cluster, layout) or refusal(shapes, layout):
        return Rejected(layout, why)
    shapes = as_kept(shapes, engine)
    held = memory(shapes, cluster, layout, wish.utilization)
    longest = wish.context or load.length
    if held.sequences(longest) < 1:
        return Rejected(layout, _too_large(held, cluster, wish, longest))
    groups, copies = layout.dp, cluster.gpus // layout.gpus
    room = min(held.sequences(load.length), _MOST_SEQUENCES * layout.pp) * groups
    return _plan(Copy(shapes, cluster, layout, load, values), held, room, copies, load, layout, shapes.context)


def _plan(copy: Copy, held: Memory, room: int, copies: int, load: Load, layout: Layout, limit: int) -> Plan:
    wanted = -(-load.users // copies)
    within = most(copy, room, load)
    taken = min(wanted, room) if load.users else within or 1
    speed = copy.speed(max(1, taken))
    why = ""
    if wanted > room:
        why = f"the caches hold {room * copies:,} sequences, not {load.users:,}"
    elif max(1, wanted) > within:
        why = f"{taken * copies:,} at once wait {speed.ttft:.2f} s and then {speed.itl * 1000:.0f} ms for each token"
    return Plan(layout, copies, held, room * copies, held.context(limit), speed, not why, why)


def _too_large(held: Memory, cluster: Cluster, wish: Wish, longest: int) -> str:
    usable = cluster.gpu.memory * wish.utilization
    if held.cache < 0:
        return (
            f"needs {held.needed / GIB:.1f} GiB a GPU before the first token (weights {held.weights / GIB:.1f}), "
            f"{-held.cache / GIB:.1f} more than the {usable / GIB:.1f} there are"
        )
    return (
        f"leaves {held.cache / GIB:.1f} GiB a GPU, {held.missing(longest) / GIB:.1f} too little for one sequence of "
        f"{longest:,} tokens"
    )


def _missing(plans: Plans, layout: Layout) -> float | None:
    """Bytes that are missing on each GPU for one sequence; 0 where it fits, None where it cannot be."""
    engine = engine_named(plans.wish.engine)
    if engine_refusal(plans.shapes, engine) or format_refusal(plans.cluster, layout) or refusal(plans.shapes, layout):
        return None
    held = memory(as_kept(plans.shapes, engine), plans.cluster, layout, plans.wish.utilization)
    return held.missing(plans.wish.context or plans.load.length)


def layouts(shapes: Architecture, cluster: Cluster, wish: Wish, engine: Engine) -> Iterator[Layout]:
    """Every division of the model over at most the cluster's GPUs that `engine` knows, in no order."""
    for weights in formats(shapes, cluster, wish.quantization):
        for cache in _caches(cluster, wish.cache):
            for tp, pp, dp in _sizes(shapes, cluster, engine):
                for ep in _expert_ways(shapes, tp, dp):
                    for cp in _cache_ways(shapes, tp, engine):
                        yield Layout(tp, pp, dp, ep, cp, weights, cache)


def formats(shapes: Architecture, cluster: Cluster, wanted: str) -> Sequence[Format]:
    """The checkpoint's own format; for bf16 also fp8, which engines make while they load, where the GPU computes it.

    Where the GPU cannot use the checkpoint's format, bf16: somebody must have unpacked it before.
    """
    if wanted != "auto":
        return (format_named(wanted),)
    if shapes.native not in FORMATS:
        raise BadRequest(
            f"the weights of {shapes.name} are in {shapes.native}, which the planner does not know; say what is "
            f"nearest, such as --quantization fp8: {', '.join(FORMATS)}",
            param="quantization",
        )
    own, plain = format_named(shapes.native), format_named("bf16")
    if own is plain:
        return (own, format_named("fp8")) if "fp8" in cluster.gpu.peaks else (own,)
    return (plain,) if format_refusal(cluster, Layout(1, 1, 1, 1, 1, own)) else (own,)


def _caches(cluster: Cluster, wanted: str) -> Sequence[str]:
    if wanted != "auto":
        return (cache_named(wanted),)
    return ("bf16", "fp8") if "fp8" in cluster.gpu.peaks else ("bf16",)


def _sizes(shapes: Architecture, cluster: Cluster, engine: Engine) -> Iterator[tuple[int, int, int]]:
    """Tensor, pipeline and data parallel sizes that fill nodes, or divide one evenly."""
    total, node = cluster.gpus, cluster.gpu.node
    largest = min(total, _LARGEST_COPY)
    for tp in _tensor_sizes(node, min(engine.tensor, largest, _LARGEST_TENSOR)):
        for dp in _powers(largest // tp) if shapes.is_mixture and engine.data else (1,):
            for pp in _STAGES if engine.pipeline else (1,):
                size = tp * pp * dp
                if size <= largest and (size % node == 0 or node % size == 0) and not (pp > 1 and dp > 1):
                    yield tp, pp, dp


def _tensor_sizes(node: int, limit: int) -> Sequence[int]:
    sizes = {n for n in range(1, node + 1) if node % n == 0} | set(_powers(limit))
    return sorted(n for n in sizes if n <= limit)


def _powers(limit: int) -> Sequence[int]:
    found = [1]
    while found[-1] * 2 <= limit:
        found.append(found[-1] * 2)
    return found


def _expert_ways(shapes: Architecture, tp: int, dp: int) -> Sequence[int]:
    if not shapes.is_mixture or tp * dp == 1:
        return (1,)
    return (tp * dp,) if dp > 1 else (1, tp)


def _cache_ways(shapes: Architecture, tp: int, engine: Engine) -> Sequence[int]:
    """Besides none, all GPUs that would keep the same."""
    heads = max((one.cache_heads for one, _ in shapes.attention if one.cache_values), default=1)
    same = max(1, tp // heads)
    return (1, same) if same > 1 and engine.context else (1,)
