"""Carries one job from its request to its end."""

import asyncio
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terascope.access.accounts import Accounts
from terascope.access.principal import Grant, Principal
from terascope.access.projects import Projects
from terascope.catalog.catalog import Catalog
from terascope.core.clock import Clock
from terascope.core.config import TuningConfig
from terascope.core.errors import EngineError, InternalError, ModelNotFound, ServiceError, all_errors
from terascope.core.models import Mode, ModelVersion
from terascope.core.prices import FREE, Price
from terascope.core.runs import RunRecord
from terascope.core.states import Outcome
from terascope.core.tuning import Hyperparameters, TuningStatus
from terascope.engines.torch.adapter import converted_dir
from terascope.engines.torch.tuning.job import FAILED, RESULT, TuningJob
from terascope.files.files import Files
from terascope.fleet.logs import last_words, log_file
from terascope.provenance.recorder import Recorder
from terascope.store.tuning import JobChange, JobRow, Said, TuningStore
from terascope.tuning.attempt import Attempt, Ended
from terascope.tuning.checking import LineCheck, Size, checked_copy
from terascope.tuning.metrics import kept_metrics
from terascope.tuning.pricing import cost, most_tokens
from terascope.tuning.results import Results

_log = logging.getLogger(__name__)
ENDPOINT = "fine_tuning/jobs"
"""What run records of jobs have as their endpoint."""
_TRAINING, _VALIDATION = "training.jsonl", "validation.jsonl"


@dataclass(frozen=True, slots=True)
class Rooms:
    """What carrying a job needs."""

    store: TuningStore
    files: Files
    catalog: Catalog
    projects: Projects
    accounts: Accounts
    recorder: Recorder
    results: Results
    attempt: Attempt
    config: TuningConfig
    clock: Clock
    data_dir: Path


class Carrying:
    """Moves jobs on, one call for each stretch of their way."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    def directory(self, job: str) -> Path:
        """Where a job's data, checkpoints and result are while it lasts."""
        return self._rooms.data_dir / "tuning" / job

    async def validate(self, row: JobRow) -> JobRow:
        """Copy and check the job's files, line by line, and set aside what it may cost; it is queued then.

        Raises `BadRequest` that names the first bad line, `NotFound` and `FileLost` for files that are gone,
        `AllocationExhausted`.
        """
        rooms, version = self._rooms, self._rooms.catalog.resolve(row.base)
        row = await self._say(row, Said(f"Validating training file: {row.training_file}"))
        training = await self._copied(row, version, row.training_file, _TRAINING)
        validation = await self._copied(row, version, row.validation_file, _VALIDATION) if row.validation_file else None
        data = await rooms.files.get(row.training_file)
        sizes = [training, *([validation] if validation else [])]
        most = most_tokens(settings_of(row), row.method, sizes)
        row = await self._change(row, {"data_digest": data.sha256, "most_tokens": most})
        await self._hold(row, version)
        return await self._change(
            row,
            {"status": TuningStatus.QUEUED.value},
            Said(f"Files validated ({training.lines} lines), moving job to queued state"),
        )

    async def train(self, row: JobRow) -> JobRow:
        """Let trainers work until one has finished. Raises the error that ends the job."""
        rooms, version = self._rooms, self._rooms.catalog.resolve(row.base)
        await self._hold(row, version)
        await asyncio.to_thread(self._job(row, version).write, self.directory(row.id))
        begun = {} if row.started else {"started": rooms.clock.now()}
        words = "Fine-tuning job started" if begun else "Fine-tuning job goes on"
        row = await self._change(row, begun | {"status": TuningStatus.RUNNING.value}, Said(words))
        deaths = 0
        while True:
            saved = row.saved
            ended = await self._tried(row)
            row = ended.row
            if ended.last is not None and ended.last["kind"] == "done":
                return row
            if ended.last is not None or ended.exit_code == FAILED:
                raise _told_error(ended, self._last_words(row))
            deaths = 1 if row.saved > saved else deaths + 1
            if deaths > rooms.config.restarts:
                raise EngineError(
                    f"the trainer ended unexpectedly {deaths} times in a row ({_how(ended)}): {self._last_words(row)}"
                )
            row = await self._say(
                row, Said(f"The trainer ended unexpectedly ({_how(ended)}) and is started again", "warn")
            )

    async def succeed(self, row: JobRow) -> None:
        """Register the result, settle the cost, write the run record. Carried through once begun; may be repeated."""
        rooms = self._rooms
        result = await rooms.results.register(row, self.directory(row.id) / RESULT)
        file = await kept_metrics(row, rooms.store, rooms.files)
        await self._settle(row, Outcome.COMPLETED, result=result)
        await self._change(
            row,
            {
                "status": TuningStatus.SUCCEEDED.value,
                "result": result,
                "metrics_file": file,
                "finished": self._rooms.clock.now(),
                "handle": {},
            },
            Said(f"New fine-tuned model created: {result}"),
            Said("The job has successfully completed"),
        )
        await self._clear(row)

    async def fail(self, row: JobRow, error: ServiceError) -> None:
        """End a job with an error; nothing is charged."""
        told = {"code": error.code, "message": error.message, "param": error.param}
        values = {"status": TuningStatus.FAILED.value, "error": told, "finished": self._rooms.clock.now(), "handle": {}}
        await self._change(row, values, Said(f"The job failed: {error.message}", "error"))
        await self._settle(row, Outcome.FAILED, error)
        await self._clear(row)

    async def cancel(self, row: JobRow) -> JobRow:
        """End a job that is asked to end; what was trained is charged. Raises `Conflict` when it is over."""
        values = {"status": TuningStatus.CANCELLED.value, "finished": self._rooms.clock.now()}
        return await self._change(row, values, Said("The job was cancelled"))

    async def tidy(self, row: JobRow) -> None:
        """Do what is left of `succeed`, `fail` or `cancel` for a job that is over."""
        outcomes = {TuningStatus.SUCCEEDED: Outcome.COMPLETED, TuningStatus.CANCELLED: Outcome.CANCELLED}
        await self._rooms.attempt.stop(row.handle)
        await self._settle(row, outcomes.get(row.status, Outcome.FAILED), result=row.result)
        await self._clear(row)

    def left(self) -> list[str]:
        """The jobs that have a directory here."""
        home = self._rooms.data_dir / "tuning"
        return sorted(path.name for path in home.iterdir()) if home.is_dir() else []

    async def _copied(self, row: JobRow, version: ModelVersion, file_id: str, name: str) -> Size:
        rooms, directory = self._rooms, self.directory(row.id)
        await asyncio.to_thread(directory.mkdir, mode=0o700, parents=True, exist_ok=True)
        file = await rooms.files.get(file_id)
        which = "training_file" if name == _TRAINING else "validation_file"
        check = LineCheck(which, row.method, version.context_length)
        return await checked_copy(await rooms.files.content(file, 0, file.bytes), directory / name, check)

    async def _tried(self, row: JobRow) -> Ended:
        try:
            return await self._rooms.attempt.run(row, self.directory(row.id))
        except OSError as error:
            raise EngineError(f"the trainer cannot be started or stopped: {error.strerror or error}") from error

    async def _hold(self, row: JobRow, version: ModelVersion) -> None:
        """Set aside what the job may cost, or as much as is missing of that. Raises `AllocationExhausted`."""
        grant = await self._grant(row, version.price)
        if not grant.unlimited:
            amount = grant.price.cost(row.most_tokens, 0)
            await self._rooms.accounts.extend(row.run_id, grant, amount, advice="set fewer n_epochs or max_steps")

    def _price(self, row: JobRow) -> Price:
        """What a token of the base costs; nothing where the base was removed while the job ran."""
        try:
            return self._rooms.catalog.resolve(row.base).price
        except ModelNotFound:
            return FREE

    async def _grant(self, row: JobRow, price: Price) -> Grant:
        project = await self._rooms.projects.find(row.project)
        who = Principal(row.key_id, "", frozenset({Mode.TUNE}), row.user_id, row.project)
        unlimited = project.unlimited if project else ""
        return Grant(who, Mode.TUNE, row.base, row.project, price=price, unlimited=unlimited)

    async def _settle(
        self, row: JobRow, outcome: Outcome, error: ServiceError | None = None, *, result: str = ""
    ) -> None:
        """Write the run record and charge what was trained; a second time nothing happens."""
        rooms = self._rooms
        if await rooms.recorder.has(row.run_id):
            return
        grant = await self._grant(row, self._price(row))
        charged = 0 if outcome is Outcome.FAILED else cost(grant.price, row.tokens, row.measured)
        record = _record(row, outcome, error, charged, rooms.clock.now(), result)
        settlement = rooms.accounts.settlement(grant, record, prompt_tokens=row.tokens + row.measured)
        await rooms.recorder.save(record, settlement)

    def _job(self, row: JobRow, version: ModelVersion) -> TuningJob:
        directory, config = self.directory(row.id), self._rooms.config
        return TuningJob(
            row.id,
            row.method,
            row.base,
            row.digest,
            version.directory,
            str(directory / _TRAINING),
            str(directory / _VALIDATION) if row.validation_file else "",
            row.seed,
            settings_of(row),
            licence=version.licence,
            converted_dir=str(converted_dir(version)),
            device=config.device,
            dtype=config.dtype,
            threads=config.threads,
        )

    def _last_words(self, row: JobRow) -> str:
        return last_words(log_file(self._rooms.data_dir, row.id))

    async def _clear(self, row: JobRow) -> None:
        await asyncio.to_thread(shutil.rmtree, self.directory(row.id), ignore_errors=True)

    async def _say(self, row: JobRow, *said: Said) -> JobRow:
        return await self._change(row, {}, *said)

    async def _change(self, row: JobRow, values: Mapping[str, Any], *said: Said) -> JobRow:
        return await self._rooms.store.change(JobChange(row.id, self._rooms.clock.now(), values, said))


def settings_of(row: JobRow) -> Hyperparameters:
    """The settings in a row."""
    return Hyperparameters.read(row.settings)


def _told_error(ended: Ended, last: str) -> ServiceError:
    """The error that a trainer told of, as one of ours."""
    if ended.last is None:
        return InternalError(f"the trainer could not say why it failed; the last line of its log: {last}")
    kinds = {one.code: one for one in all_errors()}
    kind = kinds.get(str(ended.last.get("code")), InternalError)
    return kind(str(ended.last["message"]), param=ended.last.get("param"))


def _how(ended: Ended) -> str:
    code = ended.exit_code
    if code is None:
        return "nobody saw how"
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _record(
    row: JobRow, outcome: Outcome, error: ServiceError | None, charged: int, now: float, result: str
) -> RunRecord:
    parameters: dict[str, object] = {
        "job": row.id,
        "method": row.method.value,
        "seed": row.seed,
        "hyperparameters": dict(row.settings),
        "data_digest": row.data_digest,
        "tokens": {"trained": row.tokens, "measured": row.measured},
    }
    if result:
        parameters["result"] = result
    status = {Outcome.COMPLETED: 200, Outcome.CANCELLED: 499}.get(outcome, error.status if error else 500)
    return RunRecord(
        id=row.run_id,
        started=row.created,
        endpoint=ENDPOINT,
        key_id=row.key_id,
        model=row.base,
        digest=row.digest,
        engine="torch",
        parameters=parameters,
        outcome=outcome,
        status=status,
        error=error.code if error else "",
        prompt_tokens=row.tokens + row.measured,
        queued_s=max(0.0, (row.started or now) - row.created),
        total_s=max(0.0, now - row.created),
        attempts=1,
        project=row.project,
        user_id=row.user_id,
        cost=charged,
    )
