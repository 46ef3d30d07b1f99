"""The guard: what its program inherits, and what it weighs."""

import json
import os
import resource
import signal
import stat
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from terascope.core.clock import SystemClock
from terascope.fleet.launchers import guard as guard_program
from terascope.fleet.launchers.contract import Handle, Observation, Program, Sight
from terascope.fleet.launchers.local import LocalLauncher, describe
from terascope.fleet.launchers.processes import MARK, Process, marked
from terascope.testing.disks import fill, possible, small_disk
from terascope.testing.launchers import start
from terascope.testing.programs import Pipe, pipe_in, server

NAME = f"test-{uuid4().hex}"

_PARENTS = """
import json, os, signal, sys
print(json.dumps({
    "umask": os.umask(0), "session": os.getsid(0) == os.getpid(), "group": os.getpgrp() == os.getpid(),
    "stdin": os.readlink("/proc/self/fd/0"), "fds": sorted(map(int, os.listdir("/proc/self/fd")))[:-1],
    "ignored": open("/proc/self/status").read().split("SigIgn:")[1].split()[0],
    "oom": open("/proc/self/oom_score_adj").read().strip(),
}), flush=True)
"""


@pytest.fixture
def launcher() -> LocalLauncher:
    return LocalLauncher(SystemClock(), orphan_grace_s=0.1)


async def _run(launcher: LocalLauncher, source: str, log: Path, *arguments: str) -> Observation:
    program = Program("told", (sys.executable, "-I", "-S", "-c", source, *arguments), log=log)
    handle = await start(launcher, program)
    seen = await launcher.ended(handle)
    await launcher.stop(handle, grace_s=1.0)
    return seen


async def test_what_a_program_inherits(launcher: LocalLauncher, tmp_path: Path) -> None:
    log = tmp_path / "log"
    await _run(launcher, _PARENTS, log)
    told = json.loads(log.read_text())
    assert told["umask"] == 0o077, "its sockets and files are its user's alone"
    assert told["session"]
    assert told["group"]
    assert told["stdin"] == os.devnull
    assert told["fds"] == [0, 1, 2], "no end of the guard's pipes"
    assert int(told["ignored"], 16) & (1 << signal.SIGXFSZ - 1) == 1 << signal.SIGXFSZ - 1, "Python's own doing"
    assert int(told["oom"]) >= 500
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


async def test_the_log_goes_on_where_it_ended(launcher: LocalLauncher, tmp_path: Path) -> None:
    log = tmp_path / "log"
    for word in ("one", "two"):
        await _run(launcher, "import sys; print(sys.argv[1])", log, word)
    assert log.read_text() == "one\ntwo\n"


async def test_a_log_that_cannot_be_written_is_told(launcher: LocalLauncher, tmp_path: Path) -> None:
    program = Program(NAME, (sys.executable,), log=tmp_path / "nowhere" / "log")
    with pytest.raises(FileNotFoundError):
        await start(launcher, program)
    assert marked(NAME) == []


_TALKS = """
import os, sys
line = b"x" * 1023 + b"\\n"
for _ in range(int(sys.argv[1])): os.write(1, line)
print("the last words")
"""


async def test_a_log_does_not_grow_for_ever(launcher: LocalLauncher, tmp_path: Path) -> None:
    log = tmp_path / "log"
    await _run(launcher, _TALKS, log, str(40 << 10))
    first, *_, last = log.read_bytes().splitlines()
    assert 4 << 20 < log.stat().st_size <= guard_program.MOST_LOG
    assert (first, last) == (b"[what was here before is not kept]", b"the last words")


@pytest.mark.skipif(not possible(), reason="this machine lets nobody mount a disk in a namespace of their own")
async def test_a_full_disk_keeps_the_last_words_and_holds_nobody_up(launcher: LocalLauncher, tmp_path: Path) -> None:
    with small_disk(256 << 10) as disk:
        log = disk / "log"
        seen = await _run(launcher, _TALKS, log, "2000")
        assert seen.exit_code == 0
        assert log.read_bytes().endswith(b"x\nthe last words\n")
        (disk / "log").unlink()
        fill(disk)
        assert (await _run(launcher, _TALKS, log, "2000")).exit_code == 0
        assert log.read_bytes() == b""


async def test_what_children_print_is_kept(launcher: LocalLauncher, tmp_path: Path) -> None:
    source = """
import os, signal, time
reading, writing = os.pipe()
if os.fork() == 0:
    os.setsid(); print("from the child", flush=True); os.write(writing, b"."); time.sleep(60)
os.read(reading, 1); print("from the program")
"""
    await _run(launcher, source, tmp_path / "log")
    assert (tmp_path / "log").read_text() == "from the child\nfrom the program\n"
    assert marked("told") == []


async def test_a_program_that_may_not_run_is_told(launcher: LocalLauncher, tmp_path: Path) -> None:
    (tmp_path / "program").write_text("#!/nowhere/interpreter\n")
    (tmp_path / "program").chmod(0o700)
    with pytest.raises(FileNotFoundError, match="program"):
        await start(launcher, Program("lost", (str(tmp_path / "program"),)))
    with pytest.raises(PermissionError):
        await start(launcher, Program("lost", (str(tmp_path),)))
    with pytest.raises(OSError, match="no program to start"):
        await start(launcher, Program("lost", ()))


async def test_a_program_killed_by_a_signal_is_told(launcher: LocalLauncher, tmp_path: Path) -> None:
    seen = await _run(launcher, "import os; os.kill(os.getpid(), 9)", tmp_path / "log")
    assert (seen.exit_code, seen.reason) == (-9, "was killed by SIGKILL")


async def test_the_grace_is_for_those_who_use_it(launcher: LocalLauncher, tmp_path: Path) -> None:
    """A program that takes its time to end in order is not cut short."""
    source = """
import os, signal, sys, time
def end(*_):
    time.sleep(0.3); print("in order", flush=True); sys.exit(0)
signal.signal(signal.SIGTERM, end)
os.write(os.open(sys.argv[1], os.O_WRONLY), b"up\\n")
while True: time.sleep(60)
"""
    with pipe_in(tmp_path) as pipe:
        log = tmp_path / "log"
        program = Program("orderly", (sys.executable, "-c", source, str(pipe.path)), log=log)
        handle = await start(launcher, program)
        assert await pipe.line() == ["up"]
        await launcher.stop(handle, grace_s=20.0)
    assert log.read_text() == "in order\n"


async def _up(launcher: LocalLauncher, pipe: Pipe) -> tuple[Handle, Process]:
    handle = await start(launcher, server(pipe))
    await pipe.up()
    return handle, Process(int(handle["guard"]), int(handle["guard_started"]))


async def test_the_guard_is_light(launcher: LocalLauncher, tmp_path: Path) -> None:
    with pipe_in(tmp_path) as pipe:
        handle, guard = await _up(launcher, pipe)
        assert _resident(guard) < 16 * 1024 * 1024
        await launcher.stop(handle, grace_s=20.0)


def _resident(process: Process) -> int:
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * resource.getpagesize()


async def test_a_killed_guard_is_seen_and_cleaned_up_after(launcher: LocalLauncher, tmp_path: Path) -> None:
    with pipe_in(tmp_path) as pipe:
        handle = await start(launcher, server(pipe, stubborn=True, children=2))
        await pipe.up(3)
        Process(int(handle["guard"]), int(handle["guard_started"])).send(signal.SIGKILL)
        seen = await launcher.ended(handle)
        assert (seen.sight, seen.exit_code, seen.reason) == (Sight.GONE, None, "its guard process was killed")
        await launcher.stop(handle, grace_s=0.1)
        assert pipe.nobody_lives()


async def test_ctrl_c_in_the_terminal_does_not_reach_programs(launcher: LocalLauncher, tmp_path: Path) -> None:
    with pipe_in(tmp_path) as pipe:
        handle, guard = await _up(launcher, pipe)
        assert os.getsid(guard.pid) != os.getsid(0)
        await launcher.stop(handle, grace_s=20.0)


async def test_a_program_that_was_never_started_is_no_riddle(launcher: LocalLauncher, tmp_path: Path) -> None:
    with pipe_in(tmp_path) as pipe:
        starting = launcher.start(server(pipe))
        handle = await anext(starting)
        await launcher.stop(handle, grace_s=1.0)
        with pytest.raises(OSError, match="guard process"):
            await anext(starting)


def test_the_guard_needs_only_the_standard_library() -> None:
    text = Path(guard_program.__file__).read_text()
    imports = {line.split()[1] for line in text.splitlines() if line.startswith(("import ", "from "))}
    assert imports <= {"ctypes", "errno", "os", "select", "signal", "sys", "time"}
    assert MARK not in text


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "ended"), (1, "ended with exit code 1"), (-15, "was killed by SIGTERM"), (-64, "was killed by signal 64")],
)
def test_ends_are_described(code: int, words: str) -> None:
    known = -code in set(signal.Signals)
    assert describe(code) == (f"was killed by {signal.Signals(-code).name}" if code < 0 and known else words)
