"""Scripts for batch systems: an array of jobs, one for each copy, or for as many copies as share a node."""

from collections.abc import Iterator, Mapping

from terascope.core.errors import BadRequest
from terascope.planner.emit.commands import PORT, Node, copies_on_a_node, nodes_of
from terascope.planner.emit.environment import VISIBLE
from terascope.planner.emit.shell import HEAD, MODEL, OWN_RANK, PORT_MARK, RANK, about, pbs_head, shell_line, slurm_head
from terascope.planner.search import Plan, Plans


def slurm(plans: Plans, plan: Plan) -> Mapping[str, str]:
    """A script for `sbatch`."""
    _only_whole_nodes(plans, plan)
    nodes, jobs = nodes_of(plans, plan), _jobs(plans, plan)
    array = [f"--array=0-{jobs - 1}"] if jobs > 1 else []
    body = [
        *slurm_head(plans, nodes, "%x-%A_%a.log", *array),
        *about(plans, _copies(plans, plan), f"each job serves on port {PORT} of its first node."),
        'HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)',
        *_ranks(plans, plan, nodes),
        'srun --kill-on-bad-exit=1 --ntasks-per-node=1 bash -c "$(declare -f run); run" &' if nodes > 1 else "run &",
        "wait -n  # when one part ends, the job ends: a copy without one of its nodes is no copy",
    ]
    return {"serve.slurm": "\n".join(body) + "\n"}


def pbs(plans: Plans, plan: Plan) -> Mapping[str, str]:
    """A script for `qsub`."""
    _only_whole_nodes(plans, plan)
    nodes, jobs = nodes_of(plans, plan), _jobs(plans, plan)
    array = [f"-J 0-{jobs - 1}"] if jobs > 1 else []
    body = [
        *pbs_head(plans, nodes, *array),
        *about(plans, _copies(plans, plan), f"each job serves on port {PORT} of its first node."),
        'HEAD=$(sed -n 1p "$PBS_NODEFILE")',
        *_ranks(plans, plan, nodes),
        'export -f run; mpiexec --envall -n "$NODES" --ppn 1 bash -c run &' if nodes > 1 else "run &",
        "wait -n  # when one part ends, the job ends: a copy without one of its nodes is no copy",
    ]
    return {"serve.pbs": "\n".join(body) + "\n"}


def _only_whole_nodes(plans: Plans, plan: Plan) -> None:
    gpus, node = plan.layout.gpus, plans.cluster.gpu.node
    if gpus % node and node % gpus:
        raise BadRequest(
            f"{gpus} GPUs neither fill nodes of {node} nor divide one; choose another --rank", param="rank"
        )


def _copies(plans: Plans, plan: Plan) -> str:
    return f"{plan.layout.name}, {plan.layout.weights.name},\n# {plan.copies} x {plan.layout.gpus} GPUs"


def _jobs(plans: Plans, plan: Plan) -> int:
    return -(-plan.copies // copies_on_a_node(plans, plan))


def _ranks(plans: Plans, plan: Plan, nodes: int) -> Iterator[str]:
    """The function `run`: what a node does, by its rank."""
    yield f"NODES={nodes}"
    yield "export HEAD MODEL NODES"
    yield "run() {"
    if nodes == 1:
        yield from _on_one_node(plans, plan)
    else:
        yield f"  local {OWN_RANK}"
        yield '  if [ "$RANK" -eq 0 ]; then'
        yield shell_line(plans, plan, Node(0, HEAD, str(PORT), MODEL), "    exec ")
        yield "  else"
        yield shell_line(plans, plan, Node(1, HEAD, str(PORT), MODEL, counted=RANK), "    exec ")
        yield "  fi"
    yield "}"


def _on_one_node(plans: Plans, plan: Plan) -> Iterator[str]:
    """One copy, or several that share the node, each with GPUs and a port of its own."""
    copies, gpus = copies_on_a_node(plans, plan), plan.layout.gpus
    if copies == 1:
        yield shell_line(plans, plan, Node(0, HEAD, str(PORT), MODEL), "  exec ")
        return
    yield f"  for copy in $(seq 0 {copies - 1}); do"
    first, last = f"$((copy * {gpus}))", f"$((copy * {gpus} + {gpus - 1}))"
    yield f"    export {VISIBLE[plans.cluster.gpu.vendor]}=$(seq -s, {first} {last})"
    yield f"    PORT=$(({PORT} + copy))"
    yield shell_line(plans, plan, Node(0, HEAD, PORT_MARK, MODEL), "    ") + " &"
    yield "  done"
    yield "  wait  # they are copies of their own: one may end before the others"
