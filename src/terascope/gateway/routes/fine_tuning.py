"""`/v1/fine_tuning/jobs`: OpenAI's, with LoRA, soft prompts and projectors."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse

from terascope.core.tuning import DEFAULTS, TuningStatus
from terascope.gateway.depends import NO_NUL, Caller, Tuner, UseServices
from terascope.gateway.routes.files import ProjectHeader
from terascope.gateway.services import Services
from terascope.protocol.fine_tuning import MOST_LISTED, FineTuningRequest, method_of
from terascope.protocol.sse import DONE
from terascope.protocol.tuning_views import (
    CheckpointMetrics,
    JobCheckpoint,
    JobCheckpoints,
    JobError,
    JobEvent,
    JobEvents,
    JobHyperparameters,
    JobProgress,
    JobView,
    JobViews,
)
from terascope.store.tuning import EventRow, JobRow
from terascope.tuning.tuning import NewJob

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"])
_LOOK_S = 1.0
_STREAM = {"cache-control": "no-cache", "x-accel-buffering": "no"}
Limit = Annotated[int, Query(ge=1, le=MOST_LISTED)]
After = Annotated[str, Query(max_length=60, pattern=NO_NUL, description="Only what is past this id.")]
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The events; with `stream` each as it happens.", "content": {"text/event-stream": {}}}
}


@router.post("")
async def create_job(asked: FineTuningRequest, use: UseServices, who: Tuner, project: ProjectHeader = "") -> JobView:
    """Train something beside a model, on an uploaded file of JSON lines; the answer comes before that begins."""
    method, settings = method_of(asked)
    new = NewJob(
        asked.model,
        method,
        asked.method.type if asked.method else "supervised",
        settings,
        asked.training_file,
        asked.validation_file or "",
        asked.suffix or "",
        asked.seed,
        asked.metadata or {},
    )
    return _view(await use.tuning.create(who, new, project))


@router.get("")
async def list_jobs(
    use: UseServices, who: Caller, project: ProjectHeader = "", limit: Limit = 20, after: After = ""
) -> JobViews:
    """The jobs of a project, newest first."""
    found = await use.tuning.of(who, project, limit + 1, after=after)
    return JobViews(data=[_view(row) for row in found[:limit]], has_more=len(found) > limit)


@router.get("/{job}")
async def show_job(job: str, use: UseServices, who: Caller) -> JobView:
    """One job."""
    return _view(await use.tuning.get(who, job))


@router.post("/{job}/cancel")
async def cancel_job(job: str, use: UseServices, who: Caller) -> JobView:
    """End a job; what it has trained by then is charged."""
    return _view(await use.tuning.cancel(who, job))


@router.get("/{job}/events", response_model=JobEvents, responses=_EVENTS)
async def list_events(
    job: str,
    use: UseServices,
    who: Caller,
    limit: Limit = 20,
    after: After = "",
    stream: Annotated[bool, Query(description="Send all events, and further ones until the job is over.")] = False,
) -> Response | JobEvents:
    """What happened to a job, newest first; with `stream` oldest first, as server-sent events."""
    if stream:
        await use.tuning.get(who, job)
        return StreamingResponse(_streamed(use, job, after), headers=_STREAM, media_type="text/event-stream")
    found = await use.tuning.events(who, job, limit + 1, after=after)
    return JobEvents(data=[_event(row) for row in found[:limit]], has_more=len(found) > limit)


@router.get("/{job}/checkpoints")
async def list_checkpoints(
    job: str, use: UseServices, who: Caller, limit: Limit = 10, after: After = ""
) -> JobCheckpoints:
    """The checkpoints of a job, newest first."""
    found = await use.tuning.checkpoints(who, job, limit + 1, after=after)
    shown = [_checkpoint(row) for row in found[:limit]]
    ends = {"first_id": shown[0].id, "last_id": shown[-1].id} if shown else {}
    return JobCheckpoints(data=shown, has_more=len(found) > limit, **ends)


async def _streamed(use: Services, job: str, after: str) -> AsyncIterator[bytes]:
    silent_s = 0.0
    while True:
        over = await use.tuning.over(job)  # first: what is told after it is in the events by then
        while found := await use.tuning.events_since(job, after, MOST_LISTED):
            for row in found:
                yield b"data: " + _event(row).model_dump_json().encode() + b"\n\n"
            after, silent_s = found[-1].id, 0.0
        if over:
            yield DONE
            return
        if silent_s >= use.config.server.heartbeat_s:
            yield b": training\n\n"
            silent_s = 0.0
        await use.clock.sleep(_LOOK_S)
        silent_s += _LOOK_S


def _view(row: JobRow) -> JobView:
    settings = dict(row.settings)
    usual = DEFAULTS[row.method].learning_rate
    shown = JobHyperparameters(
        n_epochs=settings["n_epochs"],
        batch_size=settings["batch_size"],
        learning_rate_multiplier=settings["learning_rate"] / usual,
    )
    return JobView(
        id=row.id,
        created_at=int(row.created),
        started_at=_seconds(row.started),
        finished_at=_seconds(row.finished),
        estimated_finish=_estimated(row),
        status=row.status.value,
        model=row.base,
        base_digest=row.digest,
        fine_tuned_model=row.result or None,
        organization_id=row.project,
        project=row.project,
        training_file=row.training_file,
        validation_file=row.validation_file or None,
        data_digest=row.data_digest,
        seed=row.seed,
        hyperparameters=shown,
        method={"type": row.asked_as, row.asked_as: {"hyperparameters": settings}},
        result_files=[row.metrics_file] if row.metrics_file else [],
        trained_tokens=row.tokens if row.status.final else None,
        metadata=dict(row.tags) or None,
        suffix=row.suffix,
        run_id=row.run_id,
        progress=JobProgress(
            step=row.step, total_steps=row.steps, train_loss=row.loss, held_out_loss=row.held_out_loss,
            measured_tokens=row.measured,
        ),
        error=JobError(**row.error) if row.error else None,
    )  # fmt: skip


def _estimated(row: JobRow) -> int | None:
    """When it is done if all steps take as long as the last one, waits and restarts left out."""
    if row.status is not TuningStatus.RUNNING or not row.steps or row.started is None:
        return None
    return int(row.started + row.step_s * row.steps)


def _seconds(when: float | None) -> int | None:
    return None if when is None else int(when)


def _event(row: EventRow) -> JobEvent:
    kind = "metrics" if row.kind == "metrics" else "message"
    return JobEvent(
        id=row.id, created_at=int(row.time), level=row.level, message=row.message, type=kind, data=dict(row.data)
    )


def _checkpoint(row: EventRow) -> JobCheckpoint:
    metrics = CheckpointMetrics(**row.data)
    return JobCheckpoint(
        id=row.id,
        created_at=int(row.time),
        fine_tuning_job_id=row.job,
        fine_tuned_model_checkpoint=f"{row.job}:step-{metrics.step}",
        step_number=metrics.step,
        metrics=metrics,
    )
