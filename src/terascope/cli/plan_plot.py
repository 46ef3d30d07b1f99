"""The frontier of latency and throughput as a picture."""

from collections.abc import Iterator
from pathlib import Path

from terascope.core.errors import BadRequest, ConfigError
from terascope.planner import Plan, Plans
from terascope.planner.constants import band
from terascope.planner.serving import Copy, Speed

_SHOWN = 5
_ENDINGS = (".png", ".svg")


def draw(found: Plans, path: Path) -> None:
    """Draw answer tokens/s for each GPU over answer tokens/s for each user, for the best layouts, into `path`.

    Raises `BadRequest` where the ending is neither .png nor .svg or nothing works, `ConfigError` without matplotlib.
    """
    if path.suffix not in _ENDINGS:
        raise BadRequest(f"{path} must end in {' or '.join(_ENDINGS)}", param="plot")
    if not found.plans:
        raise BadRequest(found.failure(), param="on")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("plots need matplotlib; run `pip install 'terascope[plot]'`") from None
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="answer tokens/s of a user", ylabel="answer tokens/s of a GPU")
    for plan in _layouts(found):
        speeds = list(_speeds(found, plan))
        users = [1 / one.itl for one in speeds]
        rates = [one.output / plan.layout.gpus for one in speeds]
        (line,) = axes.plot(users, rates, marker=".", label=f"{plan.layout.name} {plan.layout.weights.name}")
        low, high = band("throughput").low, band("throughput").high
        axes.fill_between(users, [r * low for r in rates], [r * high for r in rates], color=line.get_color(), alpha=0.1)
    axes.set_title(f"{found.shapes.name} on {found.cluster.name}, {found.load.input} in, {found.load.output} out")
    axes.legend()
    figure.savefig(path, dpi=150)


def _layouts(found: Plans) -> list[Plan]:
    """The best of each division, one KV format each."""
    distinct: dict[str, Plan] = {}
    for one in found.plans:
        distinct.setdefault(one.layout.name, one)
    return list(distinct.values())[:_SHOWN]


def _speeds(found: Plans, plan: Plan) -> Iterator[Speed]:
    """From one sequence to as many as fit, each time twice as many."""
    copy, most, sequences = (
        Copy(found.shapes, found.cluster, plan.layout, found.load),
        plan.concurrency // plan.copies,
        1,
    )
    while sequences < most:
        yield copy.speed(sequences)
        sequences *= 2
    yield copy.speed(most)
