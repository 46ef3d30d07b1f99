"""The contract of a batch system: submit a script, cancel a job, and say what is known of jobs. All of it blocks."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from terascope.fleet.launchers.contract import Observation


@dataclass(frozen=True, slots=True)
class Script:
    """What is submitted: a job's name, its lines of shell, where its files go, what it asks for.

    `devices` are accelerators of each of its `nodes`.
    """

    name: str
    body: str
    directory: Path
    devices: int
    nodes: int = 1


@dataclass(frozen=True, slots=True)
class Job:
    """A job in the queue's listing: its name, and what that says of it."""

    name: str
    seen: Observation


class Scheduler(Protocol):
    """One batch system. Every method raises `OSError` when the system does not answer, with its words."""

    def submit(self, script: Script) -> str:
        """Submit; return the job's id. The script is left in `script.directory`, whatever happens."""
        ...

    def render(self, script: Script) -> str:
        """Return the whole file that `submit` would hand over; nothing is submitted."""
        ...

    def trial(self, script: Script) -> str:
        """Ask whether a script would be taken, as far as the system can say; return its words. Nothing is queued."""
        ...

    def cancel(self, job_id: str) -> None:
        """Have a job end: SIGTERM, and force after the system's own patience. One that has ended is no error."""
        ...

    def jobs(self) -> Mapping[str, Job]:
        """Return the user's jobs by their ids: all that wait or run, and those that ended lately if they are told."""
        ...

    def past(self, job_id: str) -> Observation:
        """Say what the system's books say of a job that is not listed any more; `UNKNOWN` when they say nothing."""
        ...
