"""Launch files for Slurm, judged by Slurm: a controller of imaginary nodes with GPUs says when a job would start.

Its nodes are those of a cloud, which need not be there before a job starts; no job is ever submitted.
"""

import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from terascope.planner import Wish, find_model, make_load, parse_cluster, search, splits
from terascope.planner.emit import emit_files, emit_split

NODES, GPUS = 16, 8
READY = "Running as primary controller"
CONF = """\
ClusterName=imaginary
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmctldPort={port}
AuthType=auth/none
CredType=cred/none
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SuspendProgram=/bin/true
ResumeProgram=/bin/true
SuspendTime=300
GresTypes=gpu
{nodes}
PartitionName=gpu Nodes=ALL Default=YES MaxTime=2-0 State=UP
"""
Judge = Callable[[Path], subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def would_start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    """Ask `sbatch --test-only` about a script."""
    controller = shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if controller is None or shutil.which("sbatch") is None:
        pytest.skip("Slurm is not installed; Debian's package is slurm-wlm")
    home = tmp_path_factory.mktemp("slurm")
    conf = home / "slurm.conf"
    conf.write_text(_conf(home))
    for name in ("state", "spool"):
        (home / name).mkdir()
    environment = os.environ | {"SLURM_CONF": str(conf)}
    with subprocess.Popen(
        [controller, "-D", "-c", "-f", conf], stderr=subprocess.PIPE, text=True, env=environment
    ) as run:
        try:
            said = _until_ready(run)
            assert READY in said, said

            def ask(script: Path) -> subprocess.CompletedProcess[str]:
                return subprocess.run(
                    ["sbatch", "--test-only", script], capture_output=True, text=True, env=environment, timeout=60
                )

            yield ask
        finally:
            run.kill()


def _conf(home: Path) -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = (
        f"NodeName=n{n} NodeAddr=127.0.1.{n} CPUs=64 RealMemory=1000000 Gres=gpu:{GPUS} State=CLOUD"
        for n in range(1, NODES + 1)
    )
    host = socket.gethostname().partition(".")[0]
    return CONF.format(home=home, host=host, user=getpass.getuser(), port=port, nodes="\n".join(nodes))


def _until_ready(run: subprocess.Popen[str]) -> str:
    """What the controller said until it was ready, or until it ended."""
    assert run.stderr is not None
    said = ""
    for line in run.stderr:
        said += line
        if READY in line:
            break
    return said


def _script(model: str, cluster: str, engine: str, directory: Path) -> Path:
    plans = search(find_model(model), parse_cluster(cluster), make_load(2000, 500), Wish(engine=engine))
    ((name, text),) = emit_files(plans, plans.best, "slurm").items()
    (directory / name).write_text(text)
    return directory / name


@pytest.mark.parametrize(
    ("model", "cluster", "engine"),
    [
        ("kimi-k2", "16xjupiter", "vllm"),
        ("kimi-k2", "4x8xH200", "vllm"),
        ("kimi-k2", "4x8xH200", "sglang"),
        ("llama-3.1-70b", "2x8xH100", "vllm"),
        ("deepseek-r1", "12x4xGB200", "vllm"),
        ("gpt-oss-120b", "1x8xMI300X", "vllm"),
        ("qwen3-235b-a22b", "8xfrontier", "sglang"),
        ("kimi-k3", "16x8xH200", "vllm"),
    ],
)
def test_slurm_takes_every_script(model: str, cluster: str, engine: str, tmp_path: Path, would_start: Judge) -> None:
    judged = would_start(_script(model, cluster, engine, tmp_path))
    assert judged.returncode == 0, judged.stderr
    assert "to start at" in judged.stderr


@pytest.mark.parametrize("directive", [f"#SBATCH --nodes={NODES + 1}", f"#SBATCH --gpus-per-node={GPUS + 1}"])
def test_slurm_refuses_what_there_is_not(directive: str, tmp_path: Path, would_start: Judge) -> None:
    """So that its agreement above says something."""
    script = _script("kimi-k2", "4x8xH200", "vllm", tmp_path)
    name = directive.partition("=")[0]
    lines = [directive if line.startswith(name) else line for line in script.read_text().splitlines()]
    assert directive in lines
    script.write_text("\n".join(lines) + "\n")
    judged = would_start(script)
    assert judged.returncode != 0
    assert "not available" in judged.stderr or "More processors requested than permitted" in judged.stderr


def test_slurm_takes_a_script_of_prompts_and_answers_apart(tmp_path: Path, would_start: Judge) -> None:
    plans = search(find_model("kimi-k2"), parse_cluster("4x8xH200"), make_load(2000, 500, 40))
    script = tmp_path / "serve.slurm"
    script.write_text(emit_split(plans, splits(plans).plans[0], "slurm")["serve.slurm"])
    assert "to start at" in would_start(script).stderr
