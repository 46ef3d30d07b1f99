"""The lines of a job of several nodes: the same function on each of them, with a part of its own for each rank."""

import shlex
from collections.abc import Iterator, Sequence
from zlib import crc32

from terascope.core.config import SiteConfig
from terascope.engines.contract import HEAD, PORT
from terascope.fleet.launchers.batch.directory import LaunchDirectory
from terascope.fleet.launchers.contract import Program

_FIRST_PORT, _PORTS = 20_000, 12_000  # below those that Linux gives to whoever asks for any
_HEADS = {
    "slurm": """$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)""",
    "pbs": """$(sed -n 1p "$PBS_NODEFILE")""",
}
_STARTS = {
    # what is in the script's environment is for its steps, too; the job itself was given nothing
    "slurm": "srun --export=ALL --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 --kill-on-bad-exit=1",
    "pbs": "mpiexec -n {nodes} --ppn 1",
}
_RANK = "${SLURM_PROCID:-${PALS_RANKID:-${PMI_RANK:-${OMPI_COMM_WORLD_RANK:-$PBS_NODENUM}}}}"


def across(program: Program, directory: LaunchDirectory, site: SiteConfig, *, python: str, setup: Sequence[str]) -> str:
    """Return the lines that start `program` on the nodes of its job, each rank behind a guard of its own.

    Rank 0 has the door. The first rank that ends writes down how, and with it all end.
    """
    start = (site.node_command or _STARTS[site.scheduler]).replace("{nodes}", str(program.nodes))
    head = site.head_address.replace("{node}", "$NODE")
    lines = [
        "umask 077",
        "prepare() {",
        *setup,
        directory.variables,
        "}",
        "run() {",
        "prepare",
        f"export TERASCOPE_RANK={_RANK}/{program.nodes}",
        "case $TERASCOPE_RANK in",
        *_ranks(program, directory, site, python),
        '*) echo "there is no rank $TERASCOPE_RANK" >&2; exit 1 ;;',
        "esac",
        "}",
        "prepare",
        f"NODE={_HEADS[site.scheduler]}",
        f"""exec {start} bash -c "$(declare -f prepare run)"'; HEAD=$1; run' rank "{head}\"""",
    ]
    return "\n".join(lines)


def _ranks(program: Program, directory: LaunchDirectory, site: SiteConfig, python: str) -> Iterator[str]:
    for rank, arguments in enumerate((program.arguments, *program.others)):
        listen = "" if rank else program.listen
        words = directory.guarded(listen, directory.log_of(rank), python=python, address=site.address)
        filled = [_filled(word, program.id) for word in (*words, *arguments)]
        yield f"{rank}/{program.nodes}) exec {' '.join(filled)} ;;"


def _filled(word: str, program_id: str) -> str:
    """A word for the shell. The port is the launch's own, so that two launches on a node do not meet."""
    if word == HEAD:
        return '"$HEAD"'
    return str(_FIRST_PORT + crc32(program_id.encode()) % _PORTS) if word == PORT else shlex.quote(word)
