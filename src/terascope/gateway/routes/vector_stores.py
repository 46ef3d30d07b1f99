"""`/v1/vector_stores`: files of the caller's projects, found by meaning."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request

from terascope.core.errors import BadRequest
from terascope.core.projects import Qos
from terascope.core.states import Ingestion
from terascope.gateway.depends import NO_NUL, Caller, UseServices
from terascope.gateway.routes.files import ProjectHeader
from terascope.gateway.services import Services
from terascope.protocol import vector_stores as wire
from terascope.retrieval import chunking
from terascope.retrieval.contract import Found
from terascope.retrieval.embedding import Caller as Asker
from terascope.retrieval.entries import NewEntry
from terascope.retrieval.searching import Answer, checked_texts, threshold_of
from terascope.retrieval.searching import Query as Wanted
from terascope.retrieval.stores import NewStore
from terascope.store.vector_store_files import Counts
from terascope.store.vector_stores import Order, StoreRow


def available(use: UseServices) -> None:
    """Raise `UnsupportedFeature` where vector stores cannot be had."""
    use.retrieval.check()


router = APIRouter(prefix="/v1/vector_stores", tags=["vector stores"], dependencies=[Depends(available)])
StoreId = Annotated[str, Path(max_length=60, pattern=NO_NUL)]
Limit = Annotated[int, Query(ge=1, le=100)]
After = Annotated[str, Query(max_length=60, pattern=NO_NUL, description="Only what comes past this id.")]
Before = Annotated[str, Query(max_length=60, pattern=NO_NUL, description="Only what comes before this id.")]


@router.post("")
async def create_store(
    asked: wire.CreateStore, use: UseServices, who: Caller, project: ProjectHeader = ""
) -> wire.Store:
    """Make a vector store, with files in it if some are named."""
    lasts = asked.expires_after.days if asked.expires_after else None
    new = NewStore(project, asked.name or "", asked.embedding_model or "", _labels(asked), lasts)
    row = await use.retrieval.stores.create(who, new)
    if asked.file_ids:
        try:
            await use.retrieval.entries.add_batch(
                who, row, entries_of(use, row, asked.file_ids, asked.chunking_strategy)
            )
        except BaseException:
            await use.retrieval.stores.remove(row)  # nobody has heard of it yet
            raise
    return await shown(use, row)


@router.get("")
async def list_stores(
    use: UseServices,
    who: Caller,
    project: ProjectHeader = "",
    limit: Limit = 20,
    order: Order = "desc",
    after: After = "",
    before: Before = "",
) -> wire.Stores:
    """The vector stores of a project, newest first."""
    rows = await use.retrieval.stores.of(who, project, limit + 1, order=order, after=after, before=before)
    data = [await shown(use, row) for row in rows[:limit]]
    return wire.Stores(data=data, has_more=len(rows) > limit, **ends(data))


@router.get("/{store}")
async def show_store(store: StoreId, use: UseServices, who: Caller, project: ProjectHeader = "") -> wire.Store:
    """One vector store."""
    return await shown(use, await use.retrieval.stores.found(who, store, project))


@router.post("/{store}")
async def modify_store(
    store: StoreId, asked: wire.ModifyStore, use: UseServices, who: Caller, project: ProjectHeader = ""
) -> wire.Store:
    """Give it another name, other metadata or another lifetime."""
    row = await use.retrieval.stores.found(who, store, project)
    if "name" in asked.model_fields_set:
        row = replace(row, name=asked.name or "")
    if "metadata" in asked.model_fields_set:
        row = replace(row, labels=asked.metadata or {})
    if "expires_after" in asked.model_fields_set:
        row = replace(row, lasts_days=asked.expires_after.days if asked.expires_after else None)
    return await shown(use, await use.retrieval.stores.change(row))


@router.delete("/{store}")
async def delete_store(store: StoreId, use: UseServices, who: Caller, project: ProjectHeader = "") -> wire.StoreDeleted:
    """Delete it with all its versions; its files stay in `/v1/files`."""
    await use.retrieval.stores.remove(await use.retrieval.stores.found(who, store, project))
    return wire.StoreDeleted(id=store)


@router.post("/{store}/search")
async def search_store(
    request: Request,
    store: StoreId,
    asked: wire.SearchStore,
    use: UseServices,
    who: Caller,
    project: ProjectHeader = "",
) -> wire.SearchResults:
    """Find the passages that are nearest to a query, in the newest version or in one that is named."""
    row = await use.retrieval.stores.found(who, store)
    texts = checked_texts(asked.query)
    least = threshold_of(asked.ranking_options)
    wanted = Wanted(texts, asked.max_num_results or wire.RESULTS, asked.filters, least, asked.version)
    answer = await use.retrieval.searcher.search(row, wanted, Asker(who, project or row.project, qos_of(request)))
    return _results(texts, answer)


def qos_of(request: Request) -> Qos:
    """How urgent a request is. Raises `BadRequest`."""
    text = request.headers.get("x-terascope-qos", Qos.INTERACTIVE)
    if text not in set(Qos):
        raise BadRequest(f"X-Terascope-QOS must be one of {', '.join(Qos)}", param="X-Terascope-QOS")
    return Qos(text)


async def shown(use: Services, row: StoreRow) -> wire.Store:
    """A store as the API shows it."""
    counts = await use.retrieval.entries.counts(row)
    expired = row.expires is not None and row.expires <= use.clock.now()
    busy = counts.of(Ingestion.IN_PROGRESS) > 0
    return wire.Store(
        id=row.id, created_at=int(row.created), name=row.name,
        status="expired" if expired else "in_progress" if busy else "completed",
        file_counts=counted(counts), usage_bytes=counts.usage, last_active_at=int(row.active),
        expires_after=wire.ExpiresAfter(days=row.lasts_days) if row.lasts_days else None,
        expires_at=None if row.expires is None else int(row.expires), metadata=dict(row.labels), project=row.project,
        embedding_model=row.model, version=row.version, oldest_version=row.kept,
    )  # fmt: skip


def counted(counts: Counts) -> wire.FileCounts:
    """Numbers of files as the API shows them."""
    by = {str(status): counts.of(status) for status in Ingestion}
    return wire.FileCounts(**by, total=sum(by.values()))


def entries_of(
    use: Services,
    row: StoreRow,
    files: list[str],
    strategy: wire.AutoStrategy | wire.StaticStrategy | None = None,
    attributes: Mapping[str, wire.Value] | None = None,
) -> list[NewEntry]:
    """Files that are to go into a store, each once. Raises `BadRequest` for a strategy that cannot be."""
    length = use.retrieval.stores.context_length(row)
    if isinstance(strategy, wire.StaticStrategy):
        sizes = strategy.static
        chosen = chunking.static(sizes.max_chunk_size_tokens, sizes.chunk_overlap_tokens, length)
    else:
        chosen = chunking.auto(length)
    return [NewEntry(one, chosen, attributes or {}) for one in dict.fromkeys(files)]


def ends(data: list[wire.Store] | list[wire.StoreFile]) -> dict[str, str]:
    """First and last id of a page."""
    return {"first_id": data[0].id, "last_id": data[-1].id} if data else {}


def _labels(asked: wire.CreateStore) -> dict[str, str]:
    """OpenAI shows a description nowhere; here it is kept beside the metadata."""
    return (asked.metadata or {}) | ({"description": asked.description} if asked.description else {})


def _results(texts: tuple[str, ...], answer: Answer) -> wire.SearchResults:
    return wire.SearchResults(
        search_query=list(texts), data=[_result(one) for one in answer.found], version=answer.version
    )


def _result(one: Found) -> wire.Result:
    passage = one.passage
    place = wire.Place(start=passage.start, end=passage.end, index=passage.index, digest=passage.digest)
    return wire.Result(
        file_id=passage.file_id, filename=passage.filename, score=max(0.0, min(1.0, one.score)),
        attributes=dict(passage.attributes), content=[wire.TextContent(text=passage.text)], passage=place,
    )  # fmt: skip
