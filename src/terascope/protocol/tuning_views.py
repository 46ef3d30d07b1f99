"""What `/v1/fine_tuning/jobs` answers: OpenAI's objects, with `project`, `progress` and `base_digest` besides."""

from typing import Any, Literal

from pydantic import BaseModel, Field


class JobError(BaseModel):
    """Why a job failed."""

    code: str
    message: str
    param: str | None = None


class JobHyperparameters(BaseModel):
    """OpenAI's three; all are under `method`."""

    n_epochs: int
    batch_size: int
    learning_rate_multiplier: float


class JobProgress(BaseModel):
    """How far a job is."""

    step: int
    total_steps: int = Field(description="0: not known yet.")
    train_loss: float | None = Field(None, description="Mean loss of the last step's learned tokens, in nats.")
    held_out_loss: float | None = Field(None, description="Mean loss of the held-out lines' learned tokens, last.")
    measured_tokens: int = Field(description="Tokens of held-out lines that were computed.")


class JobView(BaseModel):
    """A fine-tuning job."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    started_at: int | None = None
    finished_at: int | None = None
    estimated_finish: int | None = None
    status: Literal["validating_files", "queued", "running", "succeeded", "failed", "cancelled"]
    model: str = Field(description="The base, `name@version`.")
    base_digest: str = Field(description="The digest of the base's files.")
    fine_tuned_model: str | None = Field(
        None,
        description="By what requests name the result: a `model`, `base:name@version` or `base@version+name@version`; "
        "a projector's is the `encoder`, `project/name@version`.",
    )
    organization_id: str = Field(description="The project.")
    project: str
    training_file: str
    validation_file: str | None = None
    data_digest: str = Field(description="sha256 of the training file; empty until it was looked at.")
    seed: int
    hyperparameters: JobHyperparameters
    method: dict[str, Any] = Field(description="`type`, and under it all `hyperparameters` as they are used.")
    trained_tokens: int | None = None
    result_files: list[str] = Field([], description="A file with the losses of all steps, as CSV.")
    integrations: list[str] = []
    metadata: dict[str, str] | None = None
    suffix: str = Field(description="What the result is called.")
    run_id: str = Field(description="The run record that is written when the job is over.")
    progress: JobProgress
    error: JobError | None = None


class JobViews(BaseModel):
    """`GET /v1/fine_tuning/jobs`."""

    object: Literal["list"] = "list"
    data: list[JobView]
    has_more: bool = False


class JobEvent(BaseModel):
    """Something that happened to a job."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any] = {}


class JobEvents(BaseModel):
    """`GET /v1/fine_tuning/jobs/{job}/events`."""

    object: Literal["list"] = "list"
    data: list[JobEvent]
    has_more: bool = False


class CheckpointMetrics(BaseModel):
    """The losses at a checkpoint."""

    step: int
    train_loss: float | None = None
    full_valid_loss: float | None = None


class JobCheckpoint(BaseModel):
    """A checkpoint that a job goes on from when it was interrupted."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuning_job_id: str
    fine_tuned_model_checkpoint: str = Field(description="`job:step-NUMBER`; it is no model that can be asked.")
    step_number: int
    metrics: CheckpointMetrics


class JobCheckpoints(BaseModel):
    """`GET /v1/fine_tuning/jobs/{job}/checkpoints`."""

    object: Literal["list"] = "list"
    data: list[JobCheckpoint]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False
