"""The wire of the answers of `POST /v1/traces`."""

from typing import Any, Literal

from pydantic import Field

from terascope.protocol.openai import Wire
from terascope.protocol.traces import ArrayData


class TraceUsage(Wire):
    """What a trace took."""

    prompt_tokens: int
    completion_tokens: int = 0
    total_tokens: int = 0
    gradient_tokens: int = 0
    captured_bytes: int = 0


class ArrayResult(ArrayData):
    """An array of an answer."""

    axes: list[str] = Field([], description="What its axes are called.")


class TraceRow(Wire):
    """What became of one prompt."""

    name: str
    tokens: list[int] = Field(description="The prompt's.")
    pieces: list[str] = Field([], description="The text of each of them.")
    text: str = Field("", description="The answer's.")
    output_tokens: list[int] = Field([], description="The answer's.")
    finish_reason: Literal["stop", "length"] | None = None
    arrays: dict[str, ArrayResult] = Field({}, description="Results by name; `gradient/SITE` are gradients.")
    error: dict[str, Any] | None = Field(None, description="Why this prompt has no result; others are not concerned.")


class TraceRowEvent(Wire):
    """An event of a trace with `stream`: one prompt's result. The last event but `[DONE]` is a `TraceResult` without
    rows, which has the usage of the whole.
    """

    id: str
    object: Literal["trace.row"] = "trace.row"
    created: int
    model: str
    row: TraceRow
    usage: TraceUsage | None = Field(None, description="What the call has used up to here.")


class TraceEstimate(Wire):
    """The answer to a `dry_run`: upper bounds."""

    prompts: int
    operations: int
    prompt_tokens: int
    output_tokens: int
    gradient_tokens: int
    captured_bytes: int
    supplied_bytes: int
    memory_bytes: int
    seconds: float | None = Field(None, description="Probably; null where nothing is known yet.")
    service_units: float | None = None


class TraceArray(Wire):
    """An array of a file."""

    dtype: str
    shape: list[int]
    axes: list[str] = Field([], description="What its axes are called.")


class TraceFile(Wire):
    """Where the results are: a safetensors file of the project, `GET /v1/files/{id}/content`."""

    id: str
    bytes: int
    sha256: str
    filename: str
    expires_at: int | None = Field(None, description="Seconds since the epoch; null: never.")
    arrays: dict[str, TraceArray] = Field({}, description="By name, `PROMPT/NAME`; empty when they are too many.")


class TraceResult(Wire):
    """Answer of `POST /v1/traces` as JSON."""

    id: str
    object: Literal["trace"] = "trace"
    created: int
    model: str
    rows: list[TraceRow] = Field([])
    usage: TraceUsage | None = None
    file: TraceFile | None = Field(None, description="With `format: file`.")
    estimate: TraceEstimate | None = None


class SiteAxis(Wire):
    """An axis of what a site holds for one token."""

    name: str
    size: int


class SiteView(Wire):
    """A site of a model."""

    site: str
    axes: list[SiteAxis]
    writable: bool = Field(description="Whether operations can change it.")
    meaning: str


class SiteViews(Wire):
    """Answer of `POST /v1/traces/sites`."""

    model: str
    dtype: str = Field(description="Of captures, unless a plan says another.")
    shape: dict[str, Any] = Field(description="The model's: layers, width, heads and so on.")
    sites: list[SiteView]
    modules: dict[str, list[int | None]] = Field({}, description="Paths for `module:PATH:...`, with their widths.")
