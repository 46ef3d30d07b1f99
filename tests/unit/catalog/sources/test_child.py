"""Programs that fetch."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from terascope.catalog.sources.child import run_child
from terascope.core import environment

SLEEPER = "import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"


async def _run(program: str, lines: list[str]) -> int:
    return await run_child((sys.executable, "-c", program), environment.for_child(), lines.append)


async def test_hears_output_and_errors_and_the_exit_code() -> None:
    lines: list[str] = []
    code = await _run(
        "import sys; print('out', flush=True); sys.stderr.buffer.write(b'\\xff err\\n'); sys.exit(3)", lines
    )
    assert (code, lines) == (3, ["out", "\ufffd err"])


async def test_a_cancelled_program_is_gone() -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    run = asyncio.create_task(run_child((sys.executable, "-c", SLEEPER), environment.for_child(), heard.put_nowait))
    pid = int(await heard.get())
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_program_whose_gateway_is_killed_sees_its_input_close(tmp_path: Path) -> None:
    os.mkfifo(seen := tmp_path / "seen")
    child = (sys.executable, "-c", f"{SLEEPER}; open({str(seen)!r}, 'w').write('closed')")
    parent = (
        "import asyncio, os\n"
        "from terascope.catalog.sources.child import run_child\n"
        f"asyncio.run(run_child({child!r}, dict(os.environ), lambda line: os.kill(os.getpid(), 9)))\n"
    )
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", parent], check=False, timeout=60)
    assert done.returncode == -9
    assert await asyncio.to_thread(seen.read_text) == "closed"  # returns when the program wrote to the pipe
