"""Launch files by target."""

from collections.abc import Callable, Mapping

from terascope.core.errors import BadRequest
from terascope.planner.emit import batch, containers, deployment
from terascope.planner.search import Plan, Plans

Files = Mapping[str, str]
TARGETS: Mapping[str, Callable[[Plans, Plan], Files]] = {
    "slurm": batch.slurm,
    "pbs": batch.pbs,
    "kubernetes": containers.kubernetes,
    "compose": containers.compose,
    "deploy": deployment.deploy,
}


def emit_files(plans: Plans, plan: Plan, target: str) -> Files:
    """Return the text of each launch file of `plan` for `target`, by file name. Nothing is written.

    Raises `BadRequest` where there is no such target, or it cannot start such a plan.
    """
    if target not in TARGETS:
        raise BadRequest(f"there is nothing to emit for {target!r}; choose one of {', '.join(TARGETS)}", param="emit")
    return TARGETS[target](plans, plan)
