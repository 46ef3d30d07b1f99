"""`/v1/files`: uploads and results by reference, of the caller's projects."""

from collections.abc import AsyncIterator
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from terascope.access.principal import Principal
from terascope.access.projects import Right
from terascope.core.errors import NotAllowed, RangeNotSatisfiable
from terascope.files.files import no_file, too_large
from terascope.gateway.depends import NO_NUL, Caller, UseServices
from terascope.gateway.multipart import FileForm
from terascope.gateway.ranges import Part, part_of
from terascope.gateway.services import Services
from terascope.protocol.files import (
    MOST_LISTED,
    UPLOADED,
    FileDeleted,
    FileObject,
    FileObjects,
    check_field,
    read_upload,
)
from terascope.store.files import FileRow, Order

router = APIRouter(prefix="/v1/files", tags=["files"])
_FORM_BYTES = 1 << 16  # what a form has around its file, at most
_PROJECT = "Whose the file is; default: the key's own project."
ProjectHeader = Annotated[str, Header(alias="X-Terascope-Project", description=_PROJECT, max_length=200)]
_UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": list(UPLOADED)},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2592000},
                    },
                }
            }
        },
    }
}
_CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"description": "The content.", "content": {"application/octet-stream": {}}},
    206: {"description": "The part of it that `Range` names.", "content": {"application/octet-stream": {}}},
    304: {"description": "`If-None-Match` names what there is."},
}


@router.post("", openapi_extra=_UPLOAD)
async def upload_file(request: Request, use: UseServices, who: Caller, project: ProjectHeader = "") -> FileObject:
    """Keep a file: a multipart form with `file` and `purpose`, written as it comes."""
    payer = await use.access.projects.for_use(who, project or who.project)
    if payer.closed:
        raise NotAllowed(f"the project {payer.name} is closed; ask an operator to open it again")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > use.files.most_of_one + _FORM_BYTES:
        raise too_large(use.files.most_of_one)
    form = FileForm(request.headers.get("content-type", ""), request.stream(), check_field)
    async with use.files.draft(payer.name, who.user_id, who.key_id) as draft:
        await draft.fill(form.content())
        told = read_upload(form.fields, form.filename)
        expires = None if told.lasts_s is None else use.files.now() + told.lasts_s
        return file_object(await draft.keep(told.purpose, told.filename, expires))


@router.get("")
async def list_files(
    use: UseServices,
    who: Caller,
    project: ProjectHeader = "",
    limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = MOST_LISTED,
    order: Order = "desc",
    after: Annotated[str, Query(max_length=60, pattern=NO_NUL, description="Only files past this file's id.")] = "",
    purpose: Annotated[str, Query(max_length=40, pattern=NO_NUL, description="Only files of this purpose.")] = "",
) -> FileObjects:
    """The files of a project, newest first."""
    payer = await use.access.projects.for_use(who, project or who.project)
    found = await use.files.of(payer.name, limit + 1, order=order, after=after, purpose=purpose)
    shown = [file_object(row) for row in found[:limit]]
    ends = {"first_id": shown[0].id, "last_id": shown[-1].id} if shown else {}
    return FileObjects(data=shown, has_more=len(found) > limit, **ends)


@router.get("/{file_id}")
async def show_file(file_id: str, use: UseServices, who: Caller, project: ProjectHeader = "") -> FileObject:
    """One file, without its content."""
    return file_object(await _found(use, who, file_id, project))


@router.get("/{file_id}/content", response_class=Response, responses=_CONTENT)
async def read_file(
    request: Request, file_id: str, use: UseServices, who: Caller, project: ProjectHeader = ""
) -> Response:
    """The content of a file, or the part of it that `Range` names."""
    row = await _found(use, who, file_id, project)
    etag = f'"{row.sha256}"'
    part = part_of({name.lower(): value for name, value in request.headers.items()}, row.bytes, etag)
    headers = {"etag": etag, "accept-ranges": "bytes", "cache-control": "private, no-cache"}
    if part.status == 304:
        return Response(status_code=304, headers=headers)
    if part.status == 416:
        raise _beyond(row)
    return _sent(row, part, headers, await use.files.content(row, part.start, part.stop))


@router.delete("/{file_id}")
async def delete_file(file_id: str, use: UseServices, who: Caller, project: ProjectHeader = "") -> FileDeleted:
    """Delete a file and its content."""
    await use.files.remove(await _found(use, who, file_id, project))
    return FileDeleted(id=file_id)


async def _found(use: Services, who: Principal, file_id: str, project: str) -> FileRow:
    """A file that `who` may use. Raises `NotFound`, in the same words, for one of somebody else."""
    row = await use.files.get(file_id)
    owner = await use.access.projects.find(row.project)
    if owner is None or not owner.allows(who, Right.USE) or (project and project != row.project):
        raise no_file(file_id)
    return row


def file_object(row: FileRow) -> FileObject:
    """A file as the API shows it."""
    return FileObject(
        id=row.id, bytes=row.bytes, created_at=int(row.created), filename=row.filename, purpose=row.purpose,
        expires_at=None if row.expires is None else int(row.expires), sha256=row.sha256, project=row.project,
    )  # fmt: skip


def _beyond(row: FileRow) -> RangeNotSatisfiable:
    error = RangeNotSatisfiable(f"the file has {row.bytes} bytes, and nothing at that `Range`", param="Range")
    error.headers = {"content-range": f"bytes */{row.bytes}"}
    return error


def _sent(row: FileRow, part: Part, headers: dict[str, str], content: AsyncIterator[bytes]) -> Response:
    headers["content-length"] = str(part.stop - part.start)
    headers["content-disposition"] = f"attachment; filename*=UTF-8''{quote(row.filename, safe='')}"
    if part.status == 206:
        headers["content-range"] = f"bytes {part.start}-{part.stop - 1}/{row.bytes}"
    return StreamingResponse(content, part.status, headers, "application/octet-stream")
