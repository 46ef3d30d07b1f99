"""The wire of `/v1/files`: OpenAI's, with sha256 and project besides."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from terascope.core.errors import BadRequest
from terascope.core.projects import checked_text
from terascope.core.words import suggestion

UPLOADED = ("assistants", "batch", "evals", "fine-tune", "user_data", "vision", "arrays", "prompts")
"""What files may be uploaded for: OpenAI's purposes, then ours."""
MADE = ("batch_output", "fine-tune-results", "trace_output")
"""Purposes of files that Terascope makes."""
_LEAST_S, _MOST_S = 3600, 2_592_000  # OpenAI's
_EXPIRY = "expires_after"
MOST_LISTED = 10_000

Purpose = Annotated[str, Field(description=f"One of {', '.join((*UPLOADED, *MADE))}.")]


@dataclass(frozen=True, slots=True)
class Upload:
    """What the fields beside an uploaded file say; `lasts_s` None: for ever."""

    purpose: str
    filename: str
    lasts_s: float | None = None


class FileObject(BaseModel):
    """A file, as OpenAI has it; `sha256` and `project` are ours."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int = Field(description="Seconds since the epoch.")
    expires_at: int | None = Field(None, description="Seconds since the epoch; null: never.")
    filename: str
    purpose: Purpose
    status: Literal["processed"] = "processed"
    sha256: str = Field(description="Of the content, in hex.")
    project: str = Field(description="Whose it is.")


class FileObjects(BaseModel):
    """`GET /v1/files`."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


class FileDeleted(BaseModel):
    """`DELETE /v1/files/{file_id}`."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


def checked_purpose(purpose: str, known: tuple[str, ...] = UPLOADED) -> str:
    """Return `purpose`. Raises `BadRequest` that names the nearest when there is no such one."""
    if purpose not in known:
        told = f"there is no purpose `{purpose[:40]}`" if purpose else "the form has no `purpose`"
        raise BadRequest(f"{told}{suggestion(purpose, known)}", param="purpose")
    return purpose


def check_field(name: str, value: str) -> None:
    """Look at a field of an upload as soon as it is there. Raises `BadRequest` for one that nothing can be made of."""
    if name == "purpose":
        checked_purpose(value)
    elif name.startswith(_EXPIRY):
        _lasts_s({name: value})
    else:
        known = ("file", "purpose", f"{_EXPIRY}[anchor]", f"{_EXPIRY}[seconds]")
        raise BadRequest(f"the form has a field `{name[:40]}`{suggestion(name, known)}", param=name[:40])


def read_upload(fields: Mapping[str, str], filename: str) -> Upload:
    """Return what the fields of an upload say. Raises `BadRequest`."""
    name = checked_text(filename.replace("\\", "/").rpartition("/")[2], "filename", most=400)
    return Upload(checked_purpose(fields.get("purpose", "")), name, _lasts_s(fields))


def _lasts_s(fields: Mapping[str, str]) -> float | None:
    given = {
        name.removeprefix(_EXPIRY).strip("[]"): value for name, value in fields.items() if name.startswith(_EXPIRY)
    }
    if given.get("anchor", "created_at") != "created_at":
        raise BadRequest("`expires_after[anchor]` must be `created_at`", param="expires_after")
    seconds = given.get("seconds")
    if seconds is None:
        return None
    if not (seconds.isascii() and seconds.isdecimal() and _LEAST_S <= int(seconds[:20]) <= _MOST_S):
        told = f"`expires_after[seconds]` must be a whole number from {_LEAST_S} (an hour) to {_MOST_S} (30 days)"
        raise BadRequest(told, param="expires_after")
    return float(seconds)
