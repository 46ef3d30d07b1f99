"""A real Slurm for tests: munged, slurmctld, slurmd of two nodes, in a temporary directory, without root's files."""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType

from terascope.core import environment

_START_S = 60
_PLACES = "/usr/sbin:/usr/local/sbin:/opt/slurm/sbin"
_CPUS = 64  # more than there are: jobs of tests do not wait for each other
_CONFIGURATION = """
ClusterName=testing
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_min_interval=10000
ReturnToService=2
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 NodeHostname={host} Port={first} CPUs={cpus} State=UNKNOWN
NodeName={host}-2 NodeAddr=127.0.0.1 NodeHostname={host} Port={second} CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def find_program(name: str) -> str | None:
    """Where a daemon of Slurm or munge is, None when it is not installed."""
    return shutil.which(name) or shutil.which(name, path=_PLACES)


class SlurmCluster:
    """Two nodes, both this machine, and their controller; stopped and removed on leaving `with`, jobs included.

    Commands find it by `SLURM_CONF`, see `variables`. There is no accounting, as on many small clusters. Raises
    `FileNotFoundError` when Slurm is not installed.
    """

    def __init__(self) -> None:
        self._programs = {name: _found(name) for name in ("munged", "slurmctld", "slurmd", "sinfo")}
        self.root = Path(mkdtemp(prefix="terascope-slurm-", dir="/tmp"))  # the path of a socket must be short
        self.root.chmod(0o755)
        for name in ("state", "spool", "munge"):
            (self.root / name).mkdir(mode=0o700)
        self._host = socket.gethostname().partition(".")[0]
        self._processes: list[subprocess.Popen[bytes]] = []
        ports = dict(zip(("controller", "first", "second"), _free_ports(3), strict=True))
        user = pwd.getpwuid(os.geteuid()).pw_name
        text = _CONFIGURATION.format(root=self.root, host=self._host, user=user, cpus=_CPUS, **ports)
        (self.root / "slurm.conf").write_text(text)

    @property
    def variables(self) -> dict[str, str]:
        """What must be in the environment of `sbatch` and its like."""
        return {"SLURM_CONF": str(self.root / "slurm.conf")}

    def start(self) -> "SlurmCluster":
        """Start it; return once its nodes take jobs. Raises `RuntimeError` with the logs."""
        key = self.root / "munge" / "key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        files = {"socket": "munge.socket", "key-file": "munge/key", "pid-file": "munge/pid", "log-file": "munge/log"}
        files |= {"seed-file": "munge/seed"}
        munge = [f"--{name}={self.root / path}" for name, path in files.items()]
        self._run("munged", "--foreground", "--force", *munge)
        self._until(["munge", "--no-input", f"--socket={self.root / 'munge.socket'}"])
        self._run("slurmctld", "-D")
        for node in (self._host, f"{self._host}-2"):
            self._run("slurmd", "-D", "-N", node)
        self._until([self._programs["sinfo"], "--noheader", "--states=idle", "--format=%D %T"], words="2 idle")
        return self

    def stop(self) -> None:
        """End all jobs and daemons, the controller last but one, so that nothing of a job is left."""
        self._command("scancel", "--user", pwd.getpwuid(os.geteuid()).pw_name)
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_START_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes = []

    def restart_controller(self) -> None:
        """End the controller and start another on its state.

        It is not killed: a job that it has not written down yet would be forgotten.
        """
        controller = self._processes.pop(1)
        controller.terminate()
        controller.wait()
        self._run("slurmctld", "-D", at=1)
        self._until([self._programs["sinfo"], "--noheader"])

    def __enter__(self) -> "SlurmCluster":
        try:
            return self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            shutil.rmtree(self.root, ignore_errors=True)

    def _run(self, name: str, *arguments: str, at: int | None = None) -> None:
        with (self.root / f"{name}.out").open("ab") as log:
            process = subprocess.Popen(
                [self._programs[name], *arguments], stdout=log, stderr=log, env=self._environment()
            )
        self._processes.insert(len(self._processes) if at is None else at, process)

    def _command(self, *command: str) -> str:
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=10, check=False, env=self._environment()
            )
        except subprocess.TimeoutExpired:
            return ""
        return done.stdout if done.returncode == 0 else ""

    def _until(self, command: list[str], words: str = "") -> None:
        """Ask until it answers with `words`; between two questions a daemon may end, which ends the waiting."""
        for _ in range(_START_S * 5):
            if words in (said := self._command(*command)) and said:
                return
            if any(process.poll() is not None for process in self._processes):
                break
            try:
                self._processes[-1].wait(0.2)
            except subprocess.TimeoutExpired:
                continue
        logs = [path.read_text(errors="replace")[-2000:] for path in sorted(self.root.glob("*.[lo][ou]*"))]
        raise RuntimeError("\n".join(logs))

    def _environment(self) -> dict[str, str]:
        return environment.for_child() | self.variables


def _found(name: str) -> str:
    path = find_program(name)
    if path is None:
        raise FileNotFoundError(
            f"{name} is not installed; as root: apt-get install slurmctld slurmd slurm-client munge"
        )
    return path


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()
