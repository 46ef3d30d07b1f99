"""Commands of a batch system: run, waited for, their words kept for the user."""

import os
import signal
import subprocess
from contextlib import suppress

from terascope.core import environment

_MOST_WORDS = 300


def run(*command: str, timeout_s: float) -> str:
    """Return what `command` prints. Raises `OSError` when it is not there, takes too long, or fails, with its words."""
    code, printed, complaint = tried(*command, timeout_s=timeout_s)
    if code:
        raise OSError(f"{command[0]} failed: {told(complaint or printed) or f'exit code {code}'}")
    return printed


def tried(*command: str, timeout_s: float) -> tuple[int, str, str]:
    """Return exit code, output and error output. Raises `OSError` when it is not there or takes too long.

    What takes too long is killed with all that it started: sites put scripts of their own before these commands.
    """
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            errors="replace", env=environment.for_child() | {"LC_ALL": "C"}, start_new_session=True,
        )  # fmt: skip
    except FileNotFoundError:
        raise OSError(f"{command[0]} is not installed here") from None
    with process:
        try:
            printed, complaint = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise OSError(f"{command[0]} did not answer within {timeout_s:g} s") from None
    return process.returncode, printed, complaint


def told(text: str) -> str:
    """Words of a command for a message: one line, not too long."""
    return " ".join(text.split())[:_MOST_WORDS]
