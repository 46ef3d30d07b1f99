"""Scripts for batch systems: an array of jobs, one for each copy, or for as many copies as share a node."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence

from terascope.core.errors import BadRequest
from terascope.planner.emit.commands import PORT, Node, command, copies_on_a_node, nodes_of
from terascope.planner.emit.environment import KEY, VISIBLE, fabric
from terascope.planner.search import Plan, Plans

_HEAD, _PORT, _MODEL, _RANK = "HEADADDRESS", "PORTNUMBER", "MODELPATH", "RANKTIMES"
_VARIABLES = {_HEAD: "HEAD", _MODEL: "MODEL", _PORT: "PORT"}
_WIDTH = 100


def slurm(plans: Plans, plan: Plan) -> Mapping[str, str]:
    """A script for `sbatch`."""
    _only_whole_nodes(plans, plan)
    nodes, jobs = nodes_of(plans, plan), _jobs(plans, plan)
    directives = [
        f"--job-name={_job_name(plans)}",
        f"--nodes={nodes}",
        "--ntasks-per-node=1",
        f"--gpus-per-node={plans.cluster.gpu.node}",
        "--exclusive",
        "--time=24:00:00",
        "--output=%x-%A_%a.log",
        *([f"--array=0-{jobs - 1}"] if jobs > 1 else []),
    ]
    body = [
        "#!/bin/bash",
        *(f"#SBATCH {one}" for one in directives),
        "# Add what your site asks for: #SBATCH --account=..., #SBATCH --partition=..., #SBATCH --qos=...",
        *_about(plans, plan),
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
    directives = [
        f"-N {_job_name(plans)[:15]}",
        f"-l select={nodes}:ngpus={plans.cluster.gpu.node}",
        "-l place=scatter:excl",
        "-l walltime=24:00:00",
        "-j oe",
        *([f"-J 0-{jobs - 1}"] if jobs > 1 else []),
    ]
    body = [
        "#!/bin/bash",
        *(f"#PBS {one}" for one in directives),
        "# Add what your site asks for: #PBS -A ..., #PBS -q ..., #PBS -l filesystems=...",
        *_about(plans, plan),
        'HEAD=$(sort -u "$PBS_NODEFILE" | sed -n 1p)',
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


def _jobs(plans: Plans, plan: Plan) -> int:
    return -(-plan.copies // copies_on_a_node(plans, plan))


def _about(plans: Plans, plan: Plan) -> list[str]:
    """What the script starts, what it needs, and the environment."""
    secret = f': "${{{KEY}:?set it to a secret before submitting: whoever has it may use the replica}}"; export {KEY}'
    exports = [f"export {name}={shlex.quote(value)}" for name, value in fabric(plans.cluster).items()]
    return [
        "",
        f"# {plans.shapes.name}, {plan.layout.name}, {plan.layout.weights.name},",
        f"# {plan.copies} x {plan.layout.gpus} GPUs",
        f"# on {plans.cluster.name}; each job serves on port {PORT} of its first node.",
        "set -euo pipefail",
        f'MODEL="${{MODEL:-{plans.shapes.name}}}"  # or a directory that every node sees',
        *([secret] if plans.wish.engine == "vllm" else []),
        *exports,
        "export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1}  # weights are there before the job starts",
        "",
    ]


def _ranks(plans: Plans, plan: Plan, nodes: int) -> Iterator[str]:
    """The function `run`: what a node does, by its rank."""
    yield f"NODES={nodes}"
    yield "export HEAD MODEL NODES"
    yield "run() {"
    if nodes == 1:
        yield from _on_one_node(plans, plan)
    else:
        yield "  local RANK=${SLURM_NODEID:-${PALS_RANKID:-${PMI_RANK:-${OMPI_COMM_WORLD_RANK:?no rank}}}}"
        yield '  if [ "$RANK" -eq 0 ]; then'
        yield _line(plans, plan, Node(0, _HEAD, str(PORT), _MODEL), "    exec ")
        yield "  else"
        yield _line(plans, plan, Node(1, _HEAD, str(PORT), _MODEL, counted=_RANK), "    exec ")
        yield "  fi"
    yield "}"


def _on_one_node(plans: Plans, plan: Plan) -> Iterator[str]:
    """One copy, or several that share the node, each with GPUs and a port of its own."""
    copies, gpus = copies_on_a_node(plans, plan), plan.layout.gpus
    if copies == 1:
        yield _line(plans, plan, Node(0, _HEAD, str(PORT), _MODEL), "  exec ")
        return
    yield f"  for copy in $(seq 0 {copies - 1}); do"
    first, last = f"$((copy * {gpus}))", f"$((copy * {gpus} + {gpus - 1}))"
    yield f"    export {VISIBLE[plans.cluster.gpu.vendor]}=$(seq -s, {first} {last})"
    yield f"    PORT=$(({PORT} + copy))"
    yield _line(plans, plan, Node(0, _HEAD, _PORT, _MODEL), "    ") + " &"
    yield "  done"
    yield "  wait  # they are copies of their own: one may end before the others"


def _line(plans: Plans, plan: Plan, node: Node, start: str) -> str:
    """A command in which the shell fills in head, port, model and rank, an option with its value in one piece."""
    lines, indent = [start], " " * (len(start) - len(start.lstrip()) + 2)
    for word in _options([_filled(shlex.quote(one)) for one in command(plans, plan, node)]):
        if len(lines[-1]) + len(word) > _WIDTH:
            lines.append(indent)
        lines[-1] += word if lines[-1].endswith(" ") else f" {word}"
    return " \\\n".join(lines)


def _options(words: Sequence[str]) -> list[str]:
    """An option together with its value."""
    found: list[str] = []
    for word in words:
        if found and found[-1].startswith("--") and " " not in found[-1] and not word.startswith("--"):
            found[-1] += f" {word}"
        else:
            found.append(word)
    return found


def _filled(word: str) -> str:
    """A word with the shell's variables in place of our marks."""
    word = re.sub(rf"{_RANK}(\d+)", r'"$((RANK * \1))"', word)
    for mark, variable in _VARIABLES.items():
        word = re.sub(rf"{mark}(:\d+)?", rf'"${{{variable}}}\1"', word)
    return word


def _job_name(plans: Plans) -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "-", plans.shapes.name.rpartition("/")[2]).strip("-") or "model"
