"""Fine-tuning jobs, as routes ask for them and as they are carried out beside."""

import asyncio
import logging
import secrets
from contextlib import suppress
from dataclasses import dataclass, field

from terascope.access.access import Access
from terascope.access.principal import Principal
from terascope.access.projects import Right
from terascope.catalog.adapters import check_base
from terascope.catalog.threads import to_the_end
from terascope.core.errors import BadRequest, InternalError, NotFound, ServiceError, UnsupportedFeature
from terascope.core.ids import new_id
from terascope.core.models import Mode, ModelVersion
from terascope.core.tuning import Hyperparameters, TuningMethod, TuningStatus
from terascope.files.files import no_file
from terascope.store.tuning import CHECKPOINT, EventRow, JobRow, Said
from terascope.tuning.carrying import Carrying, Rooms

_log = logging.getLogger(__name__)
_PURPOSE = "fine-tune"
_NAME_DIGITS = 8


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job that is asked for. `asked_as` is what the request called the method; without a seed one is drawn."""

    model: str
    method: TuningMethod
    asked_as: str
    settings: Hyperparameters
    training_file: str
    validation_file: str = ""
    suffix: str = ""
    seed: int | None = None
    tags: dict[str, str] = field(default_factory=dict)


class Tuning:
    """Takes jobs, carries them out `config.jobs` at a time, and goes on with those of an earlier life."""

    def __init__(self, access: Access, rooms: Rooms) -> None:
        self._access, self._rooms = access, rooms
        self._carrying = Carrying(rooms)
        self._slots = asyncio.Semaphore(max(1, rooms.config.jobs))
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ending: set[str] = set()  # jobs whose result is being registered: too late to cancel them

    async def create(self, who: Principal, new: NewJob, project: str = "") -> JobRow:
        """Take a job, durably on return. What is in its files is looked at afterwards.

        Raises `NotAllowed` without the mode `tune`, `ModelNotFound`, `BadRequest` for a base that cannot be tuned,
        `NotFound` for files that the caller may not use, `Conflict` for a name that is another project's.
        """
        if self._rooms.config.jobs < 1:
            raise UnsupportedFeature("this gateway takes no fine-tuning jobs (`tuning.jobs` is 0)")
        version = self._rooms.catalog.resolve(new.model)
        grant = await self._access.admit(who, version, Mode.TUNE, project=project)
        _check_base(version)
        await self._check_file(grant.project, new.training_file, "training_file")
        if new.validation_file:
            await self._check_file(grant.project, new.validation_file, "validation_file")
        row = _row(who, grant.project, version, new, self._rooms.clock.now())
        if row.method is TuningMethod.LORA:
            self._rooms.results.check_name(version, row.suffix, row.project)
        await asyncio.to_thread(self._carrying.directory(row.id).mkdir, mode=0o700, parents=True, exist_ok=True)
        await self._rooms.store.add(row, Said(f"Created fine-tuning job: {row.id}"))
        self._begin(row)
        return row

    async def get(self, who: Principal, job: str) -> JobRow:
        """Return a job of a project that `who` may see. Raises `NotFound`, in the same words, for any other."""
        row = await self._rooms.store.get(job)
        project = await self._access.projects.find(row.project) if row else None
        if row is None or project is None or not project.allows(who, Right.SEE):
            raise NotFound(f"there is no fine-tuning job {job[:60]!r} in your projects", param="fine_tuning_job_id")
        return row

    async def of(self, who: Principal, project: str, limit: int, *, after: str = "") -> list[JobRow]:
        """Return up to `limit` jobs of a project, newest first; those past the id `after`. Raises as `get`."""
        seen = await self._access.projects.require(who, project or who.project, Right.SEE)
        return await self._rooms.store.of(seen.name, limit, after=after)

    async def events(self, who: Principal, job: str, limit: int, *, after: str = "") -> list[EventRow]:
        """Return up to `limit` events, newest first; those past the id `after`. Raises `NotFound`."""
        row = await self.get(who, job)
        return await self._rooms.store.events(row.id, limit, after=after)

    async def over(self, job: str) -> bool:
        """Whether nothing more will happen to a job."""
        row = await self._rooms.store.get(job)
        return row is None or row.status.final

    async def events_since(self, job: str, after: str, limit: int) -> list[EventRow]:
        """Return up to `limit` events that were told after the event `after`, oldest first."""
        return await self._rooms.store.events(job, limit, after=after, oldest_first=True)

    async def checkpoints(self, who: Principal, job: str, limit: int, *, after: str = "") -> list[EventRow]:
        """Return up to `limit` events that tell of checkpoints, newest first. Raises `NotFound`."""
        row = await self.get(who, job)
        return await self._rooms.store.events(row.id, limit, after=after, kind=CHECKPOINT)

    async def cancel(self, who: Principal, job: str) -> JobRow:
        """End a job; nothing of it runs on return. For whoever made it, a PI of its project and operators.

        Raises `NotFound`, `NotAllowed`, and `Conflict` when it is over.
        """
        row = await self.get(who, job)
        await self._access.projects.require(who, row.project, Right.USE if row.user_id == who.user_id else Right.MANAGE)
        task = self._tasks.get(job)
        if task is not None and job in self._ending:
            await asyncio.wait([task])
        row = await self._carrying.cancel(row)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        await self._carrying.tidy(row)
        return row

    async def resume(self) -> None:
        """Go on with the jobs that an earlier life of this gateway has left, the oldest first."""
        for job in await asyncio.to_thread(self._carrying.left):
            row = await self._rooms.store.get(job)
            if row is not None and not row.status.final:
                self._begin(row)
            elif row is not None:
                await self._carrying.tidy(row)

    async def aclose(self) -> None:
        """Stop all trainers; the next life of the gateway goes on with their jobs."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, row: JobRow) -> None:
        task = self._tasks[row.id] = asyncio.create_task(self._carry(row), name=row.id)
        task.add_done_callback(lambda _: self._tasks.pop(row.id, None))

    async def _carry(self, row: JobRow) -> None:
        try:
            if row.status is TuningStatus.VALIDATING:
                row = await self._carrying.validate(row)
            async with self._slots:
                row = await self._carrying.train(row)
            self._ending.add(row.id)
            await to_the_end(self._carrying.succeed(row))
        except ServiceError as error:
            await self._failed(row, error)
        except Exception:  # noqa: BLE001 - the edge of one job: whatever breaks here must not break another
            _log.exception("the job %s broke", row.id)
            await self._failed(row, InternalError("something went wrong here; the gateway's log has the reason"))
        finally:
            self._ending.discard(row.id)

    async def _failed(self, row: JobRow, error: ServiceError) -> None:
        with suppress(ServiceError):  # it is over already: somebody cancelled it
            await self._carrying.fail(await self._rooms.store.get(row.id) or row, error)

    async def _check_file(self, project: str, file_id: str, param: str) -> None:
        file = await self._rooms.files.get(file_id)
        if file.project != project:
            raise no_file(file_id)
        if file.purpose != _PURPOSE:
            raise BadRequest(
                f"{file_id} was uploaded for {file.purpose!r}; upload it with the purpose {_PURPOSE!r}", param=param
            )


def _check_base(version: ModelVersion) -> None:
    if version.parent:
        raise BadRequest(f"{version.public_name} is an adapter; name the model that it adds to", param="model")
    try:
        check_base(version)
    except BadRequest:
        raise BadRequest(
            f"{version.public_name} cannot be tuned: that needs a language model whose files are on this machine",
            param="model",
        ) from None


def _row(who: Principal, project: str, version: ModelVersion, new: NewJob, now: float) -> JobRow:
    job = new_id("ftjob")
    seed = secrets.randbelow(1 << 31) if new.seed is None else new.seed
    return JobRow(
        job, new_id("req"), project, who.user_id, who.key_id, now, new.method, new.asked_as, version.public_name,
        version.digest, new.training_file, new.validation_file, new.suffix or f"ft-{job[-_NAME_DIGITS:]}", seed,
        new.settings.of(new.method), new.tags,
    )  # fmt: skip
