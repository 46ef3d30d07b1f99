"""The contract of a launcher: start a program somewhere, tell what became of it, stop it.

A program is a server (a replica, runs until stopped) or a finite job (a fine-tuning run, ends by itself). A
launcher knows nothing of models or engines. `terascope.testing.check_launcher` is the conformance suite.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Program:
    """What to start.

    `environment` is added to the launcher's own; secrets travel only there, never in `arguments`, which
    anyone on the machine can read. `listen` is the path of the Unix socket at which it will listen where it runs, as
    `Launcher.place` said; empty for one that runs here, or that nobody talks to. `devices` is how many accelerators it
    uses, on all its nodes. `others` are the arguments for its further nodes, if any: all nodes begin and end together.
    """

    id: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    log: Path | None = None
    listen: str = ""
    devices: int = 1
    others: tuple[tuple[str, ...], ...] = ()

    @property
    def nodes(self) -> int:
        """How many nodes it runs on."""
        return 1 + len(self.others)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a program that runs elsewhere listens: the path of a Unix socket there, and the URL that leads to it.

    `grace_s`: how long the way there may be broken before what is under way is given up, where it can be mended.
    """

    listen: str
    reach: str
    grace_s: float = 0.0


Handle = Mapping[str, str | int]
"""What a launcher needs to find a program again after a restart of the gateway; JSON, saved in the row."""


class Sight(StrEnum):
    """What a look at a program showed. Absence is not evidence: a failed look is `UNKNOWN`, never `GONE`."""

    KNOWN = "known"
    GONE = "gone"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Observation:
    """A look at a program. `exit_code` is set when it is gone and its code is known; `reason` is for the user.

    `waiting`: it has not begun, and that is nobody's fault, since it waits in a queue.
    """

    sight: Sight
    exit_code: int | None = None
    reason: str = ""
    waiting: bool = False


class Launcher(Protocol):
    """Starts, watches and stops programs."""

    def place(self, program_id: str) -> Place | None:
        """Say where a program of that id is to listen; None where it runs on this machine, and any socket will do."""
        ...

    def start(self, program: Program) -> AsyncIterator[Handle]:
        """Start `program`; yield a handle after every step that leaves something behind.

        The caller saves each handle before it asks for the next, so that after a crash at any point `stop`
        with the last saved handle leaves nothing. Raises `OSError` when the program cannot be started; then
        nothing is left.
        """
        ...

    async def observe(self, handle: Handle) -> Observation:
        """Look once. Never raises for a program that cannot be seen: that is `UNKNOWN`."""
        ...

    async def ended(self, handle: Handle) -> Observation:
        """Return when the program has ended, as soon as that can be known here; cancellable."""
        ...

    async def stop(self, handle: Handle, *, grace_s: float) -> None:
        """Ask the program to end, and force it after `grace_s` seconds.

        Holds on return: nothing of it is left, its children included. Idempotent; a program that is
        already gone is no error. Raises `OSError` when it cannot be stopped now; to be tried again.
        """
        ...
