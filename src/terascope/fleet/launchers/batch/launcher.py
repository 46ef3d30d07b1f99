"""The launcher of one site: every program is a job of its batch system."""

import asyncio
import re
import secrets
import shlex
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from terascope.core.clock import Clock
from terascope.core.config import SiteConfig
from terascope.core.errors import ConfigError
from terascope.fleet.launchers.batch.contract import Job, Scheduler, Script
from terascope.fleet.launchers.batch.directory import LaunchDirectory
from terascope.fleet.launchers.batch.nodes import across
from terascope.fleet.launchers.batch.pbs import PbsScheduler
from terascope.fleet.launchers.batch.slurm import SlurmScheduler
from terascope.fleet.launchers.contract import Handle, Observation, Place, Program, Sight

_NAME = "terascope-"
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9_./+@=-]*")
_PATIENCE_S = 90.0  # beyond the grace: for the batch system's own force, and its accounts
_MOST_GRACE_S = 3600.0
_HASTE_S = 0.5  # between two looks while something is being stopped
_KINDS: dict[str, type[SlurmScheduler] | type[PbsScheduler]] = {"slurm": SlurmScheduler, "pbs": PbsScheduler}


def scheduler_of(site: SiteConfig) -> Scheduler:
    """Return the batch system of a site. Raises `ConfigError` where Parsl is not installed."""
    return _KINDS[site.scheduler](site)


class BatchLauncher:
    """Submits, watches and cancels jobs. A launch keeps its script, its log and its address in a directory of its own.

    What became of a job is read from the file that its node writes at the program's end, then from the queue's listing,
    then from the system's books; where all three are silent it is unknown, never gone.
    """

    def __init__(self, name: str, site: SiteConfig, clock: Clock, scheduler: Scheduler | None = None) -> None:
        """`name` is the site's. Raises `ConfigError` when the site says too little."""
        _check(name, site)
        self._site = site
        self._clock = clock
        self._scheduler = scheduler or scheduler_of(site)
        self._launches = Path(site.logs) / "launches"
        self._lock = asyncio.Lock()
        self._listed: tuple[float, Mapping[str, Job]] | None = None

    def place(self, program_id: str) -> Place | None:
        socket = Path(self._site.node_dir) / f"terascope-{secrets.token_hex(8)}" / "engine.sock"
        at = f"tunnel:{program_id}" if self._site.reach == "tunnel" else f"at:{self._directory(program_id).address}"
        return Place(str(socket), at, self._site.tunnel_grace_s)

    async def start(self, program: Program) -> AsyncIterator[Handle]:
        directory = self._directory(program.id)
        await asyncio.to_thread(directory.make, program, self._agent(program, directory))
        handle: dict[str, str | int] = {"name": _NAME + program.id, "directory": str(directory.path)}
        yield handle
        try:
            job_id = await asyncio.to_thread(self._scheduler.submit, self._script(program))
        except OSError:
            await asyncio.to_thread(directory.close)
            raise
        yield {**handle, "job": job_id}

    def render(self, program: Program) -> str:
        """Return the script that `start` would submit; makes and submits nothing. It blocks."""
        return self._scheduler.render(self._script(program))

    def trial(self) -> str:
        """Ask the batch system whether it would take a job; return its words. Raises `OSError`. It blocks."""
        return self._scheduler.trial(self._script(Program("trial", (sys.executable, "-c", "pass"))))

    async def observe(self, handle: Handle) -> Observation:
        if "directory" not in handle:
            return Observation(Sight.UNKNOWN, reason="the handle names no job")
        directory = _directory(handle)
        if ended := await asyncio.to_thread(directory.ended):
            return ended
        try:
            seen = await self._look(handle, self._site.poll_s)
        except OSError as error:
            return Observation(Sight.UNKNOWN, reason=str(error))
        if seen.sight is Sight.GONE:  # its file may have come between the two looks, and says more
            return await asyncio.to_thread(directory.ended) or seen
        return seen

    async def ended(self, handle: Handle) -> Observation:
        while (seen := await self.observe(handle)).sight is not Sight.GONE:
            await self._clock.sleep(self._site.poll_s)
        return seen

    async def stop(self, handle: Handle, *, grace_s: float) -> None:
        if "directory" not in handle:
            return
        directory = _directory(handle)
        await asyncio.to_thread(directory.allow, grace_s)
        for job_id in await self._jobs_of(handle):
            await self._stop(job_id, grace_s + _PATIENCE_S)
        if directory.path.exists():
            await asyncio.to_thread(directory.close)

    async def _stop(self, job_id: str, seconds: float) -> None:
        """Cancel a job, and return once the batch system does not have it running any more."""
        await asyncio.to_thread(self._scheduler.cancel, job_id)
        until = self._clock.monotonic() + seconds
        while self._clock.monotonic() < until:
            job = (await self._list(0.0)).get(job_id)
            if job is None or job.seen.sight is Sight.GONE:
                return
            await self._clock.sleep(min(_HASTE_S, self._site.poll_s))
        raise OSError(f"job {job_id} is still there {seconds:g} s after it was cancelled")

    async def _jobs_of(self, handle: Handle) -> list[str]:
        """The ids of a launch: the one in the handle, else those of its name, if it broke off while it submitted."""
        if "job" in handle:
            return [str(handle["job"])]
        name = f"{handle['name']}."
        return [job_id for job_id, job in (await self._list(0.0)).items() if job.name.startswith(name)]

    async def _look(self, handle: Handle, age_s: float) -> Observation:
        jobs = await self._list(age_s)
        for job_id in await self._jobs_of(handle) if "job" not in handle else [str(handle["job"])]:
            if job_id in jobs:
                return jobs[job_id].seen
            return await asyncio.to_thread(self._scheduler.past, job_id)
        return Observation(Sight.UNKNOWN, reason="no job of that name is in the queue")

    async def _list(self, age_s: float) -> Mapping[str, Job]:
        """The queue's listing, not older than `age_s`: one look serves all who wait for their programs' ends."""
        async with self._lock:
            now = self._clock.monotonic()
            if self._listed is None or now - self._listed[0] >= age_s:
                self._listed = (now, await asyncio.to_thread(self._scheduler.jobs))
            return self._listed[1]

    def _script(self, program: Program) -> Script:
        directory, site = self._directory(program.id), self._site
        python = program.arguments[0] if "python" in Path(program.arguments[0]).name else sys.executable
        caches = shlex.quote(site.caches or str(Path(site.logs) / "caches"))
        setup = (f"export XDG_CACHE_HOME={caches} HF_HOME={caches}/huggingface TRITON_CACHE_DIR={caches}/triton",)
        body = directory.body(program, python=python, address=site.address, setup=(*setup, *site.setup))
        if program.nodes > 1:
            body = across(program, directory, site, python=python, setup=(*setup, *site.setup))
        devices = -(-program.devices // program.nodes)
        return Script(_NAME + program.id, body, directory.path, devices, program.nodes)

    def _agent(self, program: Program, directory: LaunchDirectory) -> tuple[str, ...]:
        """The command of the agent beside a program; nothing where it needs none."""
        site = self._site
        if site.reach != "tunnel" or not program.listen:
            return ()
        words = [*(site.agent or (sys.executable, "-m", "terascope")), "agent", "--gateway", site.gateway]
        words += ["--engine", f"unix:{program.listen}", "--log", str(directory.log)]
        words += ["--ca", site.gateway_ca] if site.gateway_ca else []
        return (*words, *(["--plain-http"] if site.gateway.startswith("http:") else []))

    def _directory(self, program_id: str) -> LaunchDirectory:
        return LaunchDirectory(self._launches / program_id)


def _directory(handle: Handle) -> LaunchDirectory:
    return LaunchDirectory(Path(str(handle["directory"])))


def _check(name: str, site: SiteConfig) -> None:
    if not _PLAIN_PATH.fullmatch(site.logs):
        raise ConfigError(
            f"sites.{name}.logs must name a directory that the nodes see, for scripts and logs: a whole path of "
            "letters, digits and `_.+-`"  # Parsl hands it to a shell as it is
        )
    if site.reach == "tunnel" and not site.gateway:
        raise ConfigError(f"sites.{name}.gateway must say where nodes reach this gateway: https://host[:port]")
    if not 0 < site.tunnel_grace_s <= _MOST_GRACE_S:
        grace = f"sites.{name}.tunnel_grace_s"
        raise ConfigError(f"{grace} is {site.tunnel_grace_s:g}; write seconds above 0, up to {_MOST_GRACE_S:g}")
