"""Commands of a batch system: run, waited for, their words kept for the user."""

import subprocess

from terascope.core import environment

_MOST_WORDS = 300


def run(*command: str, timeout_s: float) -> str:
    """Return what `command` prints. Raises `OSError` when it is not there, takes too long, or fails, with its words."""
    code, printed, complaint = tried(*command, timeout_s=timeout_s)
    if code:
        raise OSError(f"{command[0]} failed: {told(complaint or printed) or f'exit code {code}'}")
    return printed


def tried(*command: str, timeout_s: float) -> tuple[int, str, str]:
    """Return exit code, output and error output. Raises `OSError` when it is not there or takes too long."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False,
            stdin=subprocess.DEVNULL, env=environment.for_child() | {"LC_ALL": "C"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise OSError(f"{command[0]} did not answer within {timeout_s:g} s") from None
    except FileNotFoundError:
        raise OSError(f"{command[0]} is not installed here") from None
    return done.returncode, done.stdout, done.stderr


def told(text: str) -> str:
    """Words of a command for a message: one line, not too long."""
    return " ".join(text.split())[:_MOST_WORDS]
