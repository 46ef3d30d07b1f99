"""`/v1/vector_stores/{store}/files` and `/file_batches`: what is in a vector store."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query

from terascope.core.errors import BadRequest
from terascope.core.states import Ingestion
from terascope.gateway.depends import NO_NUL, Caller, UseServices
from terascope.gateway.routes.files import ProjectHeader
from terascope.gateway.routes.vector_stores import After, Before, Limit, StoreId, available, counted, ends, entries_of
from terascope.gateway.services import Services
from terascope.protocol import vector_stores as wire
from terascope.retrieval.entries import NewEntry
from terascope.store.vector_store_files import BatchRow, EntryRow
from terascope.store.vector_stores import Order, StoreRow

router = APIRouter(prefix="/v1/vector_stores/{store}", tags=["vector stores"], dependencies=[Depends(available)])
FileId = Annotated[str, Path(max_length=60, pattern=NO_NUL)]
BatchId = Annotated[str, Path(max_length=60, pattern=NO_NUL)]
Status = Annotated[
    Literal["", "in_progress", "completed", "failed", "cancelled"], Query(alias="filter", description="Only these.")
]
_PASSAGES = 100


@router.post("/files")
async def add_file(
    store: StoreId, asked: wire.AddFile, use: UseServices, who: Caller, project: ProjectHeader = ""
) -> wire.StoreFile:
    """Put a file into a store; it is read, cut and embedded in the background."""
    row = await use.retrieval.stores.found(who, store, project)
    [new] = entries_of(use, row, [asked.file_id], asked.chunking_strategy, asked.attributes)
    return _file(await use.retrieval.entries.add(who, row, new))


@router.get("/files")
async def list_store_files(
    store: StoreId,
    use: UseServices,
    who: Caller,
    project: ProjectHeader = "",
    limit: Limit = 20,
    order: Order = "desc",
    after: After = "",
    before: Before = "",
    status: Status = "",
) -> wire.StoreFiles:
    """The files of a store, those that were asked for last first."""
    row = await use.retrieval.stores.found(who, store, project)
    rows = await use.retrieval.entries.of(row, limit + 1, order=order, after=after, before=before, status=status)
    return _page(rows, limit)


@router.get("/files/{file_id}")
async def show_store_file(
    store: StoreId, file_id: FileId, use: UseServices, who: Caller, project: ProjectHeader = ""
) -> wire.StoreFile:
    """One file of a store, and how far it is."""
    row = await use.retrieval.stores.found(who, store, project)
    return _file(await use.retrieval.entries.get(row, file_id))


@router.post("/files/{file_id}")
async def set_attributes(
    store: StoreId,
    file_id: FileId,
    asked: wire.SetAttributes,
    use: UseServices,
    who: Caller,
    project: ProjectHeader = "",
) -> wire.StoreFile:
    """Give a file other attributes, in place of all that it has."""
    row = await use.retrieval.stores.found(who, store, project)
    return _file(await use.retrieval.entries.set_attributes(row, file_id, asked.attributes or {}))


@router.get("/files/{file_id}/content")
async def show_passages(
    store: StoreId,
    file_id: FileId,
    use: UseServices,
    who: Caller,
    project: ProjectHeader = "",
    page: Annotated[str, Query(max_length=12, pattern=r"^[0-9]*$", description="`next_page` of the one before.")] = "",
) -> wire.StoreFileContent:
    """The passages of a file, in order; neighbours overlap."""
    row = await use.retrieval.stores.found(who, store, project)
    entry = await use.retrieval.entries.get(row, file_id)
    start = int(page or 0)
    found = await use.retrieval.entries.passages(row, file_id, start, _PASSAGES + 1)
    more = len(found) > _PASSAGES
    return wire.StoreFileContent(
        file_id=file_id, filename=entry.filename, attributes=dict(entry.attributes),
        data=[wire.TextContent(text=one.text) for one in found[:_PASSAGES]],
        has_more=more, next_page=str(start + _PASSAGES) if more else None,
    )  # fmt: skip


@router.delete("/files/{file_id}")
async def remove_file(
    store: StoreId, file_id: FileId, use: UseServices, who: Caller, project: ProjectHeader = ""
) -> wire.StoreFileDeleted:
    """Take a file out of a store; it stays in `/v1/files`, and in the store's earlier versions."""
    row = await use.retrieval.stores.found(who, store, project)
    await use.retrieval.entries.remove(row, file_id)
    return wire.StoreFileDeleted(id=file_id)


@router.post("/file_batches")
async def add_batch(
    store: StoreId, asked: wire.AddBatch, use: UseServices, who: Caller, project: ProjectHeader = ""
) -> wire.Batch:
    """Put several files into a store, all of them or none."""
    row = await use.retrieval.stores.found(who, store, project)
    return await _batch(use, row, await use.retrieval.entries.add_batch(who, row, _entries(use, row, asked)))


@router.get("/file_batches/{batch_id}")
async def show_batch(
    store: StoreId, batch_id: BatchId, use: UseServices, who: Caller, project: ProjectHeader = ""
) -> wire.Batch:
    """How far a batch is."""
    row = await use.retrieval.stores.found(who, store, project)
    return await _batch(use, row, await use.retrieval.entries.batch(row, batch_id))


@router.post("/file_batches/{batch_id}/cancel")
async def cancel_batch(
    store: StoreId, batch_id: BatchId, use: UseServices, who: Caller, project: ProjectHeader = ""
) -> wire.Batch:
    """Those of its files that are not there yet will not come."""
    row = await use.retrieval.stores.found(who, store, project)
    batch = await use.retrieval.entries.batch(row, batch_id)
    return await _batch(use, row, await use.retrieval.entries.cancel(batch))


@router.get("/file_batches/{batch_id}/files")
async def list_batch_files(
    store: StoreId,
    batch_id: BatchId,
    use: UseServices,
    who: Caller,
    project: ProjectHeader = "",
    limit: Limit = 20,
    order: Order = "desc",
    after: After = "",
    before: Before = "",
    status: Status = "",
) -> wire.StoreFiles:
    """The files of a batch."""
    row = await use.retrieval.stores.found(who, store, project)
    batch = await use.retrieval.entries.batch(row, batch_id)
    rows = await use.retrieval.entries.of(
        row, limit + 1, order=order, after=after, before=before, status=status, batch=batch.id
    )
    return _page(rows, limit)


def _entries(use: Services, row: StoreRow, asked: wire.AddBatch) -> list[NewEntry]:
    if bool(asked.file_ids) == bool(asked.files):
        raise BadRequest("give either `file_ids` or `files`, with a file at least", param="file_ids")
    if asked.file_ids:
        return entries_of(use, row, asked.file_ids, asked.chunking_strategy, asked.attributes)
    by_id = {one.file_id: one for one in asked.files or ()}
    return [
        entry
        for one in by_id.values()
        for entry in entries_of(use, row, [one.file_id], one.chunking_strategy, one.attributes)
    ]


async def _batch(use: Services, row: StoreRow, batch: BatchRow) -> wire.Batch:
    counts = await use.retrieval.entries.counts(row, batch.id)
    failed = counts.of(Ingestion.FAILED) == sum(counts.by_status.values()) > 0
    ended: Literal["cancelled", "failed", "completed"] = (
        "cancelled" if batch.cancelled else "failed" if failed else "completed"
    )
    return wire.Batch(
        id=batch.id, created_at=int(batch.created), vector_store_id=row.id, file_counts=counted(counts),
        status="in_progress" if counts.of(Ingestion.IN_PROGRESS) else ended,
    )  # fmt: skip


def _page(rows: list[EntryRow], limit: int) -> wire.StoreFiles:
    data = [_file(row) for row in rows[:limit]]
    return wire.StoreFiles(data=data, has_more=len(rows) > limit, **ends(data))


def _file(row: EntryRow) -> wire.StoreFile:
    sizes = {"max_chunk_size_tokens": row.size, "chunk_overlap_tokens": row.overlap}
    error = wire.LastError.model_validate({"code": row.error, "message": row.message}) if row.error else None
    return wire.StoreFile(
        id=row.file, created_at=int(row.created), vector_store_id=row.store, status=row.status.value,
        last_error=error, usage_bytes=row.usage, attributes=dict(row.attributes),
        chunking_strategy={"type": "static", "static": sizes}, passages=row.passages, filename=row.filename,
    )  # fmt: skip
