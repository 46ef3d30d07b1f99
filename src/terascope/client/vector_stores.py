"""What can be asked about vector stores and the files in them."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from terascope.client.ask import Ask, Noun, Sender, call
from terascope.protocol.vector_stores import (
    AddBatch,
    AddFile,
    AutoStrategy,
    Batch,
    CreateStore,
    ExpiresAfter,
    ModifyStore,
    SearchResults,
    SearchStore,
    SetAttributes,
    StaticSizes,
    StaticStrategy,
    Store,
    StoreDeleted,
    StoreFile,
    StoreFileContent,
    StoreFileDeleted,
    StoreFiles,
    Stores,
    Value,
)

_STORES = "/v1/vector_stores"


class VectorStores(Noun[Sender]):
    """The vector stores of projects. Without `project` it is the key's own."""

    @call
    def create(
        self, name: str = "", *, model: str = "", days: int | None = None,
        metadata: Mapping[str, str] | None = None, project: str = "",
    ) -> Ask[Store]:  # fmt: skip
        """Make a store whose vectors `model` makes, for good; it expires `days` after it was last used."""
        body = CreateStore(
            name=name, embedding_model=model or None, metadata=dict(metadata or {}),
            expires_after=None if days is None else ExpiresAfter(days=days),
        )  # fmt: skip
        return Ask("POST", _STORES, Store, body, headers=_of(project))

    @call
    def get(self, store: str) -> Ask[Store]:
        """Return one store, with its versions."""
        return Ask("GET", _path(store), Store)

    @call
    def list(self, *, limit: int = 20, after: str = "", order: str = "desc", project: str = "") -> Ask[Stores]:
        """Return up to `limit` stores, newest first or in `order` `asc`, past the id `after`."""
        return Ask("GET", _STORES, Stores, query=_query(limit=limit, after=after, order=order), headers=_of(project))

    @call
    def modify(
        self, store: str, *, name: str | None = None, days: int | None = None, metadata: Mapping[str, str] | None = None
    ) -> Ask[Store]:
        """Give a store another name, other metadata, or another number of days after which it expires."""
        given: dict[str, Any] = {"name": name, "metadata": None if metadata is None else dict(metadata)}
        given["expires_after"] = None if days is None else {"days": days}
        body = ModifyStore.model_validate({field: value for field, value in given.items() if value is not None})
        return Ask("POST", _path(store), Store, body)

    @call
    def remove(self, store: str) -> Ask[StoreDeleted]:
        """Delete a store with all its versions; its files stay."""
        return Ask("DELETE", _path(store), StoreDeleted)

    @call
    def search(
        self, store: str, query: str | Sequence[str], *, results: int = 10, version: int | None = None,
        filters: Mapping[str, Any] | None = None, threshold: float | None = None,
    ) -> Ask[SearchResults]:  # fmt: skip
        """Return the `results` passages that are nearest, in the newest version or in `version`.

        `filters` are OpenAI's, over the attributes of files; `threshold` is the least score.
        """
        asked = {
            "query": query if isinstance(query, str) else [*query], "max_num_results": results, "version": version,
            "filters": filters, "ranking_options": None if threshold is None else {"score_threshold": threshold},
        }  # fmt: skip
        return Ask("POST", _path(store, "search"), SearchResults, SearchStore.model_validate(asked), patient=True)

    @call
    def add(
        self, store: str, file_id: str, *, attributes: Mapping[str, Value] | None = None, size: int | None = None,
        overlap: int | None = None,
    ) -> Ask[StoreFile]:  # fmt: skip
        """Put a file into a store, in passages of `size` tokens, two of which share `overlap`.

        Returns at once; `file` says how far it is.
        """
        body = AddFile(file_id=file_id, attributes=dict(attributes or {}), chunking_strategy=_strategy(size, overlap))
        return Ask("POST", _path(store, "files"), StoreFile, body)

    @call
    def add_batch(self, store: str, file_ids: Sequence[str]) -> Ask[Batch]:
        """Put up to 2,000 files into a store; `batch` says how far they are."""
        return Ask("POST", _path(store, "file_batches"), Batch, AddBatch(file_ids=[*file_ids]))

    @call
    def batch(self, store: str, batch: str) -> Ask[Batch]:
        """Return how far a batch is."""
        return Ask("GET", _path(store, "file_batches", batch), Batch)

    @call
    def cancel_batch(self, store: str, batch: str) -> Ask[Batch]:
        """Have those files of a batch not come that are not there yet."""
        return Ask("POST", _path(store, "file_batches", batch, "cancel"), Batch)

    @call
    def file(self, store: str, file_id: str) -> Ask[StoreFile]:
        """Return one file of a store, and how far it is."""
        return Ask("GET", _path(store, "files", file_id), StoreFile)

    @call
    def files(
        self, store: str, *, limit: int = 20, after: str = "", order: str = "desc", status: str = ""
    ) -> Ask[StoreFiles]:
        """Return up to `limit` files of a store, past the file `after`; only those of a `status`."""
        query = _query(limit=limit, after=after, order=order, filter=status)
        return Ask("GET", _path(store, "files"), StoreFiles, query=query)

    @call
    def set_attributes(self, store: str, file_id: str, attributes: Mapping[str, Value]) -> Ask[StoreFile]:
        """Give a file other attributes, in place of all that it has."""
        return Ask("POST", _path(store, "files", file_id), StoreFile, SetAttributes(attributes=dict(attributes)))

    @call
    def passages(self, store: str, file_id: str, page: str = "") -> Ask[StoreFileContent]:
        """Return the passages of a file, a hundred at a time; `page` is the `next_page` of the ones before."""
        return Ask("GET", _path(store, "files", file_id, "content"), StoreFileContent, query=_query(page=page))

    @call
    def take_out(self, store: str, file_id: str) -> Ask[StoreFileDeleted]:
        """Take a file out of a store; earlier versions still have it."""
        return Ask("DELETE", _path(store, "files", file_id), StoreFileDeleted)


def _strategy(size: int | None, overlap: int | None) -> AutoStrategy | StaticStrategy | None:
    if size is None:
        return None
    sizes = StaticSizes(max_chunk_size_tokens=size, chunk_overlap_tokens=size // 2 if overlap is None else overlap)
    return StaticStrategy(type="static", static=sizes)


def _query(**asked: str | int) -> dict[str, str | int]:
    return {name: value for name, value in asked.items() if value != ""}


def _path(*parts: str) -> str:
    return "/".join([_STORES, *(quote(part, safe="") for part in parts)])


def _of(project: str) -> Mapping[str, str]:
    return {"x-terascope-project": project} if project else {}
