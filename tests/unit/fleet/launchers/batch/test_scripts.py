"""The scripts that are submitted, to the letter, and what becomes of odd names in them."""

import math
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from terascope.core.clock import SystemClock
from terascope.core.config import SiteConfig
from terascope.core.errors import ConfigError
from terascope.engines.contract import HEAD, PORT
from terascope.fleet.launchers.batch.launcher import BatchLauncher
from terascope.fleet.launchers.batch.parsl_jobs import need_parsl
from terascope.fleet.launchers.contract import Program

_PROGRAM = Program(
    "replica_1", ("/opt/vllm/bin/python", "-m", "vllm.server", "--model", "/shared/a model"),
    {"SECRET": "only here"}, listen="/tmp/terascope-0/engine.sock", devices=4,
)  # fmt: skip
_FULL = {
    "account": "m1234", "partition": "gpu", "walltime": "12:30:00", "cores": 64, "memory_gb": 480,
    "setup": ["module load cuda", "export NCCL_NET=ofi"], "logs": "/shared/logs", "caches": "/shared/caches",
}  # fmt: skip

_BODY = """umask 077
export XDG_CACHE_HOME=/shared/caches HF_HOME=/shared/caches/huggingface TRITON_CACHE_DIR=/shared/caches/triton
module load cuda
export NCCL_NET=ofi
. /shared/logs/launches/replica_1/environment || exit 1
exec /opt/vllm/bin/python -I -S /shared/logs/launches/replica_1/node.py /shared/logs/launches/replica_1 \
/tmp/terascope-0/engine.sock '{node}' /shared/logs/launches/replica_1/output.log \
/opt/vllm/bin/python -m vllm.server --model '/shared/a model'
"""

_SLURM = """#!/bin/bash

#SBATCH --job-name=terascope-replica_1.TIME
#SBATCH --output=/shared/logs/launches/replica_1/terascope-replica_1.TIME.stdout
#SBATCH --error=/shared/logs/launches/replica_1/terascope-replica_1.TIME.stderr
#SBATCH --nodes=1
#SBATCH --time=750
#SBATCH --ntasks-per-node=1
#SBATCH --export=NIL
#SBATCH --open-mode=append
#SBATCH --reservation=friday
#SBATCH --exclusive
#SBATCH --partition=gpu
#SBATCH --account=m1234
#SBATCH --qos=premium
#SBATCH --constraint=a100&hbm
#SBATCH --gpus-per-node=4
#SBATCH --mem=480g
#SBATCH --cpus-per-task=64

export PARSL_MEMORY_GB=480
export PARSL_CORES=64

export JOBNAME="terascope-replica_1.TIME"

"""

_PBS = """#!/bin/bash

#PBS -S /bin/bash
#PBS -N terascope-replica_1.TIME
#PBS -m n
#PBS -l walltime=12:30:00
#PBS -l select=1:ncpus=64:mem=480gb:ngpus=4:system=polaris
#PBS -o /shared/logs/launches/replica_1/terascope-replica_1.TIME.stdout
#PBS -e /shared/logs/launches/replica_1/terascope-replica_1.TIME.stderr
#PBS -l place=excl
#PBS -l filesystems=home:eagle

export JOBNAME="terascope-replica_1.TIME"

"""


_TWO = replace(_PROGRAM, devices=8, others=(("/opt/vllm/bin/python", "serve", HEAD, PORT),))
_ACROSS = """umask 077
prepare() {
export XDG_CACHE_HOME=/shared/caches HF_HOME=/shared/caches/huggingface TRITON_CACHE_DIR=/shared/caches/triton
module load cuda
export NCCL_NET=ofi
. /shared/logs/launches/replica_1/environment || exit 1
}
run() {
prepare
export TERASCOPE_RANK=${SLURM_PROCID:-${PALS_RANKID:-${PMI_RANK:-${OMPI_COMM_WORLD_RANK:-$PBS_NODENUM}}}}/2
case $TERASCOPE_RANK in
0/2) exec /opt/vllm/bin/python -I -S /shared/logs/launches/replica_1/node.py /shared/logs/launches/replica_1 \
/tmp/terascope-0/engine.sock '{node}' /shared/logs/launches/replica_1/output.log \
/opt/vllm/bin/python -m vllm.server --model '/shared/a model' ;;
1/2) exec /opt/vllm/bin/python -I -S /shared/logs/launches/replica_1/node.py /shared/logs/launches/replica_1 \
'' '{node}' /shared/logs/launches/replica_1/output-1.log \
/opt/vllm/bin/python serve "$HEAD" 21007 ;;
*) echo "there is no rank $TERASCOPE_RANK" >&2; exit 1 ;;
esac
}
prepare
"""
_BY_SRUN = """NODE=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
exec srun --export=ALL --nodes=2 --ntasks=2 --ntasks-per-node=1 --kill-on-bad-exit=1 \
bash -c "$(declare -f prepare run)"'; HEAD=$1; run' rank "$NODE-hsn0"
"""
_BY_MPIEXEC = """NODE=$(sed -n 1p "$PBS_NODEFILE")
exec mpiexec -n 2 --ppn 1 bash -c "$(declare -f prepare run)"'; HEAD=$1; run' rank "$NODE"
"""


def rendered(program: Program = _PROGRAM, **fields: object) -> str:
    """The script, with blank lines in a row made one and the time in a job's name made TIME."""
    launcher = BatchLauncher("a", SiteConfig(**{**_FULL, **fields}), SystemClock())  # type: ignore[arg-type]
    text = re.sub(r"(terascope-[^. ]+)\.[0-9.]+[0-9]", r"\1.TIME", launcher.render(program))
    return re.sub(r"\n\n+", "\n\n", text)


def test_slurm() -> None:
    directives = ["#SBATCH --reservation=friday"]
    script = rendered(scheduler="slurm", qos="premium", constraint="a100&hbm", exclusive=True, directives=directives)
    assert _squeezed(script) == _squeezed(_SLURM + _BODY)
    assert "only here" not in script


def test_pbs() -> None:
    directives = ["#PBS -l filesystems=home:eagle"]
    script = rendered(scheduler="pbs", constraint="system=polaris", exclusive=True, directives=directives)
    assert _squeezed(script) == _squeezed(_PBS + _BODY)


def test_slurm_over_two_nodes() -> None:
    script = rendered(_TWO, scheduler="slurm", qos="premium", constraint="a100&hbm", exclusive=True,
                      directives=["#SBATCH --reservation=friday"], head_address="{node}-hsn0")  # fmt: skip
    head = _SLURM.replace("--nodes=1", "--nodes=2")
    assert _squeezed(script) == _squeezed(head + _ACROSS + _BY_SRUN)
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_pbs_over_two_nodes() -> None:
    directives = ["#PBS -l filesystems=home:eagle"]
    script = rendered(_TWO, scheduler="pbs", constraint="system=polaris", exclusive=True, directives=directives)
    head = _PBS.replace("select=1:", "select=2:").replace("place=excl", "place=scatter:excl")
    assert _squeezed(script) == _squeezed(head + _ACROSS + _BY_MPIEXEC)
    other = rendered(_TWO, scheduler="pbs", node_command="pbsdsh -n {nodes} --")
    assert '\nexec pbsdsh -n 2 -- bash -c "$(declare' in other
    assert "#PBS -l place=scatter\n" in other


def _squeezed(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("scheduler", ["slurm", "pbs"])
def test_the_least(scheduler: str) -> None:
    script = rendered(scheduler=scheduler, account="", partition="", cores=0, memory_gb=0, gpus=False, setup=[])
    for word in ("account", "partition", "qos", "constraint", "gpu", "mem=", "exclusive", "place="):
        assert word not in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_names_are_quoted() -> None:
    program = Program("x", ("/opt/my python/bin/python", "$(touch /tmp/never)", "it's"))
    script = rendered(program)
    assert "'/opt/my python/bin/python' '$(touch /tmp/never)'" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_nothing_is_left_of_a_rendering(tmp_path: Path) -> None:
    rendered(logs=str(tmp_path / "logs"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("grace_s", [0.0, -1.0, 3601.0, math.inf, math.nan])
def test_a_site_that_waits_for_tunnels_for_ever_or_never_is_refused(grace_s: float) -> None:
    with pytest.raises(ConfigError, match=r"sites\.a\.tunnel_grace_s is .*; write seconds above 0"):
        BatchLauncher("a", SiteConfig(logs="/shared", tunnel_grace_s=grace_s), SystemClock())


@pytest.mark.parametrize("logs", ["", "relative", "/with a space", "/a;b", "/a$HOME", "/a\nb"])
def test_a_site_without_a_place_for_logs_is_refused(logs: str) -> None:
    with pytest.raises(ConfigError, match=r"sites\.a\.logs"):
        BatchLauncher("a", SiteConfig(logs=logs), SystemClock())
    need_parsl()
