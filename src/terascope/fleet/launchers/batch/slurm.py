"""Slurm: jobs submitted through Parsl, seen by squeue and sacct, cancelled by scancel."""

import os
import pwd
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from terascope.fleet.launchers.batch import parsl_jobs
from terascope.fleet.launchers.batch.commands import run, told, tried
from terascope.fleet.launchers.batch.contract import Job, Script
from terascope.fleet.launchers.contract import Observation, Sight
from terascope.fleet.launchers.local import describe

_FORMAT = "%i|%T|%r|%j"
_ALIVE = frozenset({
    "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "REQUEUED", "REQUEUE_HOLD",
    "REQUEUE_FED", "RESIZING", "SIGNALING", "STAGE_OUT", "RESV_DEL_HOLD", "SPECIAL_EXIT",
})  # fmt: skip
_WAITING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD"})
_ENDED = {
    "COMPLETED": "ended",
    "FAILED": "failed",
    "CANCELLED": "was cancelled",
    "TIMEOUT": "reached its walltime",
    "NODE_FAIL": "its node failed",
    "OUT_OF_MEMORY": "ran out of memory",
    "BOOT_FAIL": "its node did not boot",
    "DEADLINE": "could not end before its deadline",
    "PREEMPTED": "was preempted by another job",
    "REVOKED": "was moved to another cluster",
}
_GONE_WORDS = ("invalid job id", "already completing", "already completed")


class SlurmScheduler(parsl_jobs.ParslScheduler):
    """One Slurm cluster, by the commands on this machine's PATH."""

    def trial(self, script: Script) -> str:
        with TemporaryDirectory() as directory:
            path = Path(directory) / "trial"
            path.write_text(self.render(script))
            code, printed, complaint = tried("sbatch", "--test-only", str(path), timeout_s=self._site.command_timeout_s)
        if code:
            raise OSError(f"Slurm would not take a job: {told(complaint or printed)}")
        return told(complaint or printed).removeprefix("sbatch: ")

    def cancel(self, job_id: str) -> None:
        code, printed, complaint = tried("scancel", job_id, timeout_s=self._site.command_timeout_s)
        words = told(complaint or printed)
        if code and not any(one in words.lower() for one in _GONE_WORDS):
            raise OSError(f"scancel failed: {words}")

    def jobs(self) -> Mapping[str, Job]:
        user = pwd.getpwuid(os.geteuid()).pw_name
        listing = ("--noheader", f"--user={user}", "--states=all", f"--format={_FORMAT}")
        printed = run("squeue", *listing, timeout_s=self._site.command_timeout_s)
        return dict(_job(line) for line in printed.splitlines() if line.count("|") >= _FORMAT.count("|"))

    def past(self, job_id: str) -> Observation:
        books = ("-X", "--noheader", "--parsable2", "--format=State,ExitCode", f"--jobs={job_id}")
        code, printed, complaint = tried("sacct", *books, timeout_s=self._site.command_timeout_s)
        state, _, exit_code = printed.strip().partition("|")
        if code or not state:
            return Observation(Sight.UNKNOWN, reason=told(complaint) or "Slurm does not know the job any more")
        return seen_in(state.split()[0].rstrip("+"), exit_code=exit_code)

    def _provider(self, script: Script) -> Any:
        from parsl.providers import SlurmProvider

        site = self._site
        return SlurmProvider(
            nodes_per_block=script.nodes,
            partition=site.partition or None,
            account=site.account or None,
            qos=site.qos or None,
            constraint=site.constraint or None,
            cores_per_node=site.cores or None,
            mem_per_node=site.memory_gb or None,
            gpus_per_node=script.devices if site.gpus else None,
            walltime=site.walltime,
            exclusive=site.exclusive,
            # the gateway's own environment may hold secrets, and is none of the job's business
            scheduler_options="\n".join(["#SBATCH --export=NIL", "#SBATCH --open-mode=append", *site.directives]),
            launcher=parsl_jobs.simple_launcher(),
        )


def _job(line: str) -> tuple[str, Job]:
    job_id, state, reason, name = line.split("|", 3)
    return job_id, Job(name, seen_in(state, reason=reason))


def seen_in(state: str, *, reason: str = "", exit_code: str = "") -> Observation:
    """What a state of Slurm says; `exit_code` is sacct's, code and signal. A state that is not known says nothing."""
    if state in _ALIVE:
        waits = state in _WAITING
        return Observation(
            Sight.KNOWN, reason=f"waits in the queue: {reason}" if waits else state.lower(), waiting=waits
        )
    if state not in _ENDED:
        return Observation(Sight.UNKNOWN, reason=f"Slurm says {state!r} of it")
    code, signalled = _codes(exit_code)
    if state in ("COMPLETED", "FAILED") and code is not None:
        return Observation(Sight.GONE, -signalled if signalled else code, describe(-signalled if signalled else code))
    return Observation(Sight.GONE, reason=_ENDED[state])


def _codes(text: str) -> tuple[int | None, int]:
    code, _, number = text.partition(":")
    return (int(code), int(number)) if code.isdecimal() and number.isdecimal() else (None, 0)
