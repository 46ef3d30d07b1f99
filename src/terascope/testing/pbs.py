"""PBS Professional as executables that behave as its own do: qsub, qstat and qdel over a directory, jobs as processes.
With them there is an mpiexec that starts all ranks on this machine.

A job runs in a session of its own, with only what PBS gives it. Its states, exit status and messages are PBS's;
directives are read as qsub reads them. What is in the file `broken` of the directory fails every command.
"""

import os
import shutil
import signal
import sys
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType

_COMMON = """#!{python} -IS
import getpass, json, os, re, shlex, signal, subprocess, sys, time
ROOT = {root!r}
BROKEN = os.path.join(ROOT, "broken")
if os.path.exists(BROKEN):
    sys.exit(open(BROKEN).read().strip() or "pbs: cannot connect to server")
def path(name): return os.path.join(ROOT, "jobs", name)
def read(name):
    try:
        with open(path(name)) as file: return json.load(file)
    except FileNotFoundError: return None
def write(name, job):
    with open(path("." + name), "w") as file: json.dump(job, file)
    os.replace(path("." + name), path(name))
def names(): return sorted(name for name in os.listdir(path("")) if not name.startswith("."))
"""

_QSUB = """
arguments, script = sys.argv[1:-1], sys.argv[-1]
given = dict(zip(arguments[::2], arguments[1::2]))
lines = open(script).read().splitlines()
directives = [shlex.split(line[5:]) for line in lines if line.startswith("#PBS ")]
for words in directives:
    if words[0] not in ("-l", "-N", "-S", "-m", "-o", "-e", "-q", "-A", "-W", "-j", "-r"):
        sys.exit("qsub: illegal option " + words[0])
    given.setdefault(words[0], words[1] if len(words) > 1 else "")
if given.get("-q") == "closed": sys.exit("qsub: Unknown queue")
number = str(1 + len(names())) + ".testing"
job = {{"Job_Name": given["-N"], "Job_Owner": getpass.getuser() + "@here", "job_state": "Q", "script": script}}
write(number, job)
if os.fork() == 0:
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2): os.dup2(null, fd)
    nodes = os.path.join(ROOT, "nodes")
    with open(nodes, "w") as file: file.write("localhost\\n" * 2)
    clean = {{"HOME": os.environ.get("HOME", "/"), "PATH": ROOT + "/bin:/usr/local/bin:/usr/bin:/bin"}}
    clean |= {{"PBS_JOBID": number, "PBS_NODEFILE": nodes}}
    with open(given["-o"], "a") as out, open(given["-e"], "a") as err:
        running = subprocess.Popen(["/bin/bash", script], env=clean, stdout=out, stderr=err, start_new_session=True)
    write(number, dict(job, job_state="R", session_id=running.pid))
    code = running.wait()
    write(number, dict(job, job_state="F", Exit_status=code if code >= 0 else 256 - code))
    os._exit(0)
print(number)
"""

_QSTAT = """
words = sys.argv[1:]
if "-Q" in words:
    if "closed" in words: sys.exit("qstat: Unknown queue closed")
    sys.exit(print("Queue Max Tot Ena Str"))
asked = [one for one in words if re.fullmatch(r"[0-9]+\\\\.testing", one)]
for one in asked:
    if read(one) is None: sys.exit("qstat: Unknown Job Id " + one)
    if "-x" not in words and read(one)["job_state"] == "F": sys.exit("qstat: " + one + " Job has finished")
found = {{one: read(one) for one in asked or names()}}
if "-x" not in words: found = {{one: job for one, job in found.items() if job["job_state"] != "F"}}
if found: print(json.dumps({{"pbs_version": "23.06.06", "Jobs": found}}))
"""

_QDEL = """
for one in sys.argv[1:]:
    job = read(one)
    if job is None: sys.exit("qdel: Unknown Job Id " + one)
    if job["job_state"] == "F": sys.exit("qdel: Job has finished " + one)
    while "session_id" not in job and job["job_state"] != "F":
        time.sleep(0.05)
        job = read(one)
    if job["job_state"] != "F": os.kill(job["session_id"], signal.SIGTERM)
"""

_MPIEXEC = """
assert sys.argv[1] == "-n" and sys.argv[3:5] == ["--ppn", "1"], sys.argv
ranks = [subprocess.Popen(sys.argv[5:], env=dict(os.environ, PMI_RANK=str(rank))) for rank in range(int(sys.argv[2]))]
def end(*_):
    for one in ranks: one.terminate()
signal.signal(signal.SIGTERM, end)
codes = []
while len(codes) < len(ranks):
    pid, status = os.wait()
    codes.append(os.waitstatus_to_exitcode(status))
    if codes[-1]: end()
sys.exit(max(codes, key=abs))
"""


class PbsCluster:
    """The executables in `bin`, to be put first on PATH; leaving `with` kills all jobs and removes all files."""

    def __init__(self) -> None:
        self.root = Path(mkdtemp(prefix="terascope-pbs-"))
        self.bin = self.root / "bin"
        for directory in (self.bin, self.root / "jobs"):
            directory.mkdir()
        for name, source in (("qsub", _QSUB), ("qstat", _QSTAT), ("qdel", _QDEL), ("mpiexec", _MPIEXEC)):
            program = self.bin / name
            program.write_text((_COMMON + source).format(python=sys.executable, root=str(self.root)))
            program.chmod(0o755)

    @property
    def path(self) -> str:
        """What PATH must be."""
        return f"{self.bin}{os.pathsep}{os.defpath}"

    def break_down(self, words: str = "") -> None:
        """Have every command fail, with these words."""
        (self.root / "broken").write_text(words)

    def mend(self) -> None:
        """Have commands work again."""
        (self.root / "broken").unlink(missing_ok=True)

    def forget(self) -> None:
        """Lose all that ended, as PBS does after its history's duration."""
        for job in (self.root / "jobs").iterdir():
            if '"F"' in job.read_text():
                job.unlink()

    def __enter__(self) -> "PbsCluster":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import json

        for path in (self.root / "jobs").iterdir():
            job = json.loads(path.read_text())
            if job["job_state"] == "R":
                os.killpg(job["session_id"], signal.SIGKILL)
        shutil.rmtree(self.root)
