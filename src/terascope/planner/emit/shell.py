"""Lines of scripts in which the shell fills in what is known when they run: head, port, model and rank."""

import re
import shlex
from collections.abc import Sequence

from terascope.planner.emit.commands import Node, command
from terascope.planner.emit.environment import KEY, fabric
from terascope.planner.search import Plan, Plans

HEAD, PORT_MARK, MODEL, RANK, BOOTSTRAP_MARK = "HEADADDRESS", "PORTNUMBER", "MODELPATH", "RANKTIMES", "BOOTSTRAPNUMBER"
OWN_RANK = "RANK=${SLURM_NODEID:-${PALS_RANKID:-${PMI_RANK:-${OMPI_COMM_WORLD_RANK:?no rank}}}}"
"""The place of a node among those of the job, as each batch system tells it."""
HOST = "HOSTNUMBER"
"""With a number: the host of that place among the job's."""
_VARIABLES = {HEAD: "HEAD", MODEL: "MODEL", PORT_MARK: "PORT", BOOTSTRAP_MARK: "BOOTSTRAP"}
_WIDTH = 100


def about(plans: Plans, what: str, where: str) -> list[str]:
    """What the script starts and where it answers, what it needs, and the environment."""
    secret = f': "${{{KEY}:?set it to a secret before submitting: whoever has it may use the replica}}"; export {KEY}'
    exports = [f"export {name}={shlex.quote(value)}" for name, value in fabric(plans.cluster).items()]
    return [
        "",
        f"# {plans.shapes.name}, {what}",
        f"# on {plans.cluster.name}; {where}",
        "set -euo pipefail",
        f'MODEL="${{MODEL:-{plans.shapes.name}}}"  # or a directory that every node sees',
        *([secret] if plans.wish.engine == "vllm" else []),
        *exports,
        "export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1}  # weights are there before the job starts",
        "",
    ]


def slurm_head(plans: Plans, nodes: int, output: str, *more: str) -> list[str]:
    """The directives of a script for `sbatch`, whose output goes to the file `output`."""
    directives = [
        f"--job-name={job_name(plans)}",
        f"--nodes={nodes}",
        "--ntasks-per-node=1",
        f"--gpus-per-node={plans.cluster.gpu.node}",
        "--exclusive",
        "--time=24:00:00",
        f"--output={output}",
        *more,
    ]
    site = "# Add what your site asks for: #SBATCH --account=..., #SBATCH --partition=..., #SBATCH --qos=..."
    return ["#!/bin/bash", *(f"#SBATCH {one}" for one in directives), site]


def pbs_head(plans: Plans, nodes: int, *more: str) -> list[str]:
    """The directives of a script for `qsub`."""
    directives = [
        f"-N {job_name(plans)[:15]}",
        f"-l select={nodes}:ngpus={plans.cluster.gpu.node}",
        "-l place=scatter:excl",
        "-l walltime=24:00:00",
        "-j oe",
        *more,
    ]
    site = "# Add what your site asks for: #PBS -A ..., #PBS -q ..., #PBS -l filesystems=..."
    return ["#!/bin/bash", *(f"#PBS {one}" for one in directives), site]


def shell_line(plans: Plans, plan: Plan, node: Node, start: str) -> str:
    """A command in which the shell fills in head, port, model and rank, an option with its value in one piece."""
    return shell_words(command(plans, plan, node), start)


def shell_words(words: Sequence[str], start: str) -> str:
    """The same of any words."""
    lines, indent = [start], " " * (len(start) - len(start.lstrip()) + 2)
    for word in _options([_filled(shlex.quote(one)) for one in words]):
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
    word = re.sub(rf"{RANK}(\d+)", r'"$((RANK * \1))"', word)
    word = re.sub(rf"{HOST}(\d+)", r'"${HOSTS[\1]}"', word)
    for mark, variable in _VARIABLES.items():
        word = re.sub(rf"{mark}(:\d+)?", rf'"${{{variable}}}\1"', word)
    return word


def job_name(plans: Plans) -> str:
    """A name that batch systems take."""
    return re.sub(r"[^A-Za-z0-9-]+", "-", plans.shapes.name.rpartition("/")[2]).strip("-") or "model"
