"""What must be bought: for each GPU, the smallest cluster that serves a load."""

from collections.abc import Mapping
from dataclasses import dataclass

from terascope.core.errors import BadRequest
from terascope.planner.calibration import Calibration
from terascope.planner.hardware import Cluster, Gpu, find_gpu, gpus
from terascope.planner.load import Load
from terascope.planner.search import Plan, Wish, search
from terascope.planner.shapes import Architecture

_MOST_NODES = 512


@dataclass(frozen=True, slots=True)
class Need:
    """The smallest cluster of one GPU that serves the load, or why none does."""

    gpu: Gpu
    nodes: int
    plan: Plan | None
    why_not: str = ""


def needs(
    shapes: Architecture,
    load: Load,
    wish: Wish | None = None,
    names: tuple[str, ...] = (),
    calibrations: Mapping[str, Calibration] | None = None,
) -> tuple[Need, ...]:
    """Return the need in each of the GPUs called `names`, or in all that are known; the fewest watts first.

    `calibrations`: constants found on kinds of GPU, by their names. Raises `BadRequest` for a load without users: any
    cluster would serve it.
    """
    if not load.users:
        raise BadRequest("say for how many users at once to buy: --users 400", param="users")
    wanted = tuple(find_gpu(name) for name in names) or gpus()
    its = calibrations or {}
    found = [need(shapes, gpu, load, wish or Wish(), its.get(gpu.name)) for gpu in wanted]
    return tuple(sorted(found, key=lambda one: (one.plan is None, one.nodes * one.gpu.node * one.gpu.power)))


def need(shapes: Architecture, gpu: Gpu, load: Load, wish: Wish, its: Calibration | None = None) -> Need:
    """Return the need in nodes of `gpu`, each as it is sold: 1 to 512 of them, doubled and then narrowed down."""
    nodes, low = 1, 0
    last = "nothing was tried"
    while nodes <= _MOST_NODES:
        found = _served(shapes, gpu, nodes, load, wish, its)
        if isinstance(found, Plan):
            return _narrow(shapes, gpu, load, wish, low, nodes, found, its)
        last, low, nodes = found, nodes, nodes * 2
    return Need(gpu, 0, None, last)


def _narrow(
    shapes: Architecture, gpu: Gpu, load: Load, wish: Wish, low: int, high: int, plan: Plan, its: Calibration | None
) -> Need:
    """Between `low` nodes, which do not serve, and `high`, which do."""
    while high - low > 1:
        middle = (low + high) // 2
        found = _served(shapes, gpu, middle, load, wish, its)
        if isinstance(found, Plan):
            high, plan = middle, found
        else:
            low = middle
    return Need(gpu, high, plan)


def _served(shapes: Architecture, gpu: Gpu, nodes: int, load: Load, wish: Wish, its: Calibration | None) -> Plan | str:
    """The best plan that serves the load, or why there is none."""
    plans = search(shapes, Cluster(f"{nodes}x{gpu.node}x{gpu.name}", nodes, gpu), load, wish, its)
    if plans.plans and plans.best.meets:
        return plans.best
    return plans.best.why_not if plans.plans else plans.failure()
