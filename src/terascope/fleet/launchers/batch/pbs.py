"""PBS Professional: jobs submitted through Parsl, seen by qstat, cancelled by qdel."""

import json
import os
import pwd
from collections.abc import Mapping
from typing import Any

from terascope.fleet.launchers.batch import parsl_jobs
from terascope.fleet.launchers.batch.commands import run, told, tried
from terascope.fleet.launchers.batch.contract import Job, Script
from terascope.fleet.launchers.contract import Observation, Sight
from terascope.fleet.launchers.local import describe

_ALIVE = {"Q": "waits in the queue", "H": "is held", "W": "waits for its time", "T": "is being moved", "S": "suspended"}
_RUNS = frozenset("RBEU")  # E: it is ending, and may still hold its node
_ENDED = frozenset("FXM")
_SIGNALLED = 256  # an exit status above it is a signal
_GONE_WORDS = ("unknown job", "has finished", "request invalid for state")


class PbsScheduler(parsl_jobs.ParslScheduler):
    """One PBS Professional, by the commands on this machine's PATH."""

    def trial(self, script: Script) -> str:
        """As the contract says; PBS can only say whether there is such a queue."""
        queue = ["-Q", self._site.partition] if self._site.partition else ["-Q"]
        run("qstat", *queue, timeout_s=self._site.command_timeout_s)
        return f"queue {self._site.partition}" if self._site.partition else "the default queue"

    def cancel(self, job_id: str) -> None:
        code, printed, complaint = tried("qdel", job_id, timeout_s=self._site.command_timeout_s)
        words = told(complaint or printed)
        if code and not any(one in words.lower() for one in _GONE_WORDS):
            raise OSError(f"qdel failed: {words}")

    def jobs(self) -> Mapping[str, Job]:
        """As the contract says; qstat with a user lists jobs only as a table, so all are asked for."""
        user = pwd.getpwuid(os.geteuid()).pw_name
        said = _jobs(run("qstat", "-f", "-F", "json", timeout_s=self._site.command_timeout_s))
        mine = {job_id: one for job_id, one in said.items() if str(one.get("Job_Owner", "")).partition("@")[0] == user}
        return {job_id: Job(str(one.get("Job_Name", "")), seen_in(one)) for job_id, one in mine.items()}

    def past(self, job_id: str) -> Observation:
        asking = ("-x", "-f", "-F", "json", job_id)
        code, printed, complaint = tried("qstat", *asking, timeout_s=self._site.command_timeout_s)
        found = {} if code else _jobs(printed)
        if not found:
            return Observation(Sight.UNKNOWN, reason=told(complaint) or "PBS does not know the job any more")
        return seen_in(next(iter(found.values())))

    def _provider(self, script: Script) -> Any:
        from parsl.providers import PBSProProvider

        site = self._site
        select = [f"mem={site.memory_gb}gb"] if site.memory_gb else []
        select += [f"ngpus={script.devices}"] if site.gpus else []
        select += [site.constraint] if site.constraint else []
        place = ":".join(["scatter"] * (script.nodes > 1) + ["excl"] * site.exclusive)
        directives = [f"#PBS -l place={place}", *site.directives] if place else site.directives
        return PBSProProvider(
            nodes_per_block=script.nodes,
            account=site.account or None,
            queue=site.partition or None,
            scheduler_options="\n".join(directives),
            select_options=":".join(select),
            cpus_per_node=site.cores or 1,
            walltime=site.walltime,
            launcher=parsl_jobs.simple_launcher(),
        )


def _jobs(printed: str) -> dict[str, dict[str, Any]]:
    """The jobs of qstat's JSON; it prints nothing at all when there is none. Raises `OSError` for something else."""
    if not printed.strip():
        return {}
    try:
        jobs: dict[str, dict[str, Any]] = json.loads(printed).get("Jobs", {})
        if all(isinstance(one, dict) for one in jobs.values()):
            return jobs
    except (ValueError, AttributeError, RecursionError):
        pass
    raise OSError("qstat's answer cannot be read")


def seen_in(job: Mapping[str, Any]) -> Observation:
    """What qstat says of a job. A state that is not known says nothing."""
    state = str(job.get("job_state", ""))
    if state in _ALIVE:
        reason = ": ".join(filter(None, [_ALIVE[state], str(job.get("comment", ""))]))
        return Observation(Sight.KNOWN, reason=reason, waiting=state != "S")
    if state in _RUNS:
        return Observation(Sight.KNOWN, reason="running")
    if state not in _ENDED:
        return Observation(Sight.UNKNOWN, reason=f"PBS says {state!r} of it")
    status = job.get("Exit_status")
    if not isinstance(status, int):
        return Observation(Sight.GONE, reason="ended before it ran")
    if status < 0:
        return Observation(Sight.GONE, reason=f"PBS could not run it (exit status {status})")
    code = _SIGNALLED - status if status > _SIGNALLED else status
    return Observation(Sight.GONE, code, describe(code))
