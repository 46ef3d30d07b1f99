"""A program started to fetch something, its output read line by line."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

_LONGEST_LINE = 1024 * 1024


async def run_child(arguments: Sequence[str], environment: Mapping[str, str], on_line: Callable[[str], None]) -> int:
    """Run a program, call `on_line` for each line of its output and errors, and return its exit code.

    Its standard input is a pipe that closes when this process ends, however that happens. On cancellation, and
    when `on_line` raises, the program is killed and gone before this returns.
    """
    process = await asyncio.create_subprocess_exec(
        *arguments,
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=_LONGEST_LINE,
    )
    try:
        assert process.stdout is not None  # noqa: S101 - asked for above
        async for line in process.stdout:
            on_line(line.decode(errors="replace").rstrip())
        return await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
