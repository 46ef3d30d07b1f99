"""Searching a vector store, as it is or as it was."""

from collections.abc import Sequence
from dataclasses import dataclass

from terascope.core.clock import Clock
from terascope.core.errors import BadRequest, Conflict, NotFound, ServiceError
from terascope.protocol.vector_stores import RESULTS, Filter, RankingOptions
from terascope.retrieval.contract import Attributes, Collection, Found
from terascope.retrieval.embedding import Caller, Embedder
from terascope.retrieval.filters import matches
from terascope.retrieval.pool import Pool
from terascope.store.vector_stores import StoreRow, VectorStoreStore

_TOLD_EVERY_S = 60.0  # a store's use, and a version's, is written down at most so often


@dataclass(frozen=True, slots=True)
class Query:
    """What is looked for. `threshold` is the least cosine; `version` None: the newest."""

    texts: tuple[str, ...]
    limit: int = RESULTS
    wanted: Filter | None = None
    threshold: float = -1.0
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found in which version, the nearest first."""

    version: int
    found: tuple[Found, ...]


class Searcher:
    """Searches vector stores; who may do so is for the caller to know."""

    def __init__(self, stores: VectorStoreStore, pool: Pool, embedder: Embedder, clock: Clock) -> None:
        self._stores = stores
        self._pool = pool
        self._embedder = embedder
        self._clock = clock
        self._told: dict[tuple[str, int], float] = {}

    async def search(self, row: StoreRow, query: Query, caller: Caller) -> Answer:
        """Return what is nearest to any of the texts, each passage once.

        Raises `NotFound` for a version that there is not, or not any more, and for a store that was deleted meanwhile;
        `Conflict` for one that has expired, or whose embedding model makes other vectors now; what embedding raises.
        """
        version = self._checked(row, query)
        await self._note_use(row, version)
        if not row.width or not version:
            return Answer(version, ())
        vectors = await self._embedder.vectors(row.model, query.texts, caller)
        _check_width(row, vectors)
        try:
            collection = await self._pool.to_read(row)
            found = await self._pool.run(_nearest, collection, vectors, version, query)
        except ServiceError:
            if await self._stores.get(row.id) is None:
                raise no_store(row.id) from None
            raise
        return Answer(version, found)

    def _checked(self, row: StoreRow, query: Query) -> int:
        if row.expires is not None and row.expires <= self._clock.now():
            raise Conflict(f"the vector store {row.id} has expired; make it again, or give it another `expires_after`")
        version = row.version if query.version is None else query.version
        if version > row.version:
            raise NotFound(f"{row.id} has no version {version}; its newest is {row.version}", param="version")
        if version < row.kept:
            raise NotFound(
                f"version {version} of {row.id} is not kept any more; its oldest is {row.kept}", param="version"
            )
        return version

    async def _note_use(self, row: StoreRow, version: int) -> None:
        """Also of the version: one that is asked for is kept. What is the newest needs no such note."""
        now = self._clock.monotonic()
        if now - self._told.get((row.id, version), float("-inf")) < _TOLD_EVERY_S:
            return
        self._told[row.id, version] = now
        await self._stores.touch(row.id, self._clock.now())
        if version != row.version:
            await self._stores.use(row.id, version, self._clock.now())
        self._told = {which: then for which, then in self._told.items() if now - then < _TOLD_EVERY_S}


def threshold_of(ranking: RankingOptions | None) -> float:
    """The least cosine that ranking options ask for; without any, everything is near enough."""
    return -1.0 if ranking is None or ranking.score_threshold is None else ranking.score_threshold


def no_store(store: str) -> NotFound:
    """The error for a store that is not there, or that the caller may not know of."""
    return NotFound(
        f"there is no vector store {store[:60]!r} in your projects; GET /v1/vector_stores lists those of one",
        param="vector_store_id",
    )


def _check_width(row: StoreRow, vectors: Sequence[bytes]) -> None:
    width = len(vectors[0]) // 4
    if width != row.width:
        raise Conflict(
            f"{row.model} makes vectors of {width} numbers now, and those of {row.id} have {row.width}; make the store "
            "again"
        )


def _nearest(collection: Collection, vectors: Sequence[bytes], version: int, query: Query) -> tuple[Found, ...]:
    among = None if query.wanted is None else _chosen(collection.attributes(version), query.wanted)
    best: dict[tuple[str, int], Found] = {}
    for vector in vectors:
        for one in collection.search(vector, version, query.limit, among):
            place = (one.passage.file_id, one.passage.index)
            if place not in best or best[place].score < one.score:
                best[place] = one
    ordered = sorted(best.items(), key=lambda item: (-item[1].score, item[0]))
    return tuple(one for _, one in ordered[: query.limit] if one.score >= query.threshold)


def _chosen(files: dict[str, Attributes], wanted: Filter) -> list[str]:
    return sorted(one for one, attributes in files.items() if matches(wanted, attributes))


def checked_texts(text: str | Sequence[str]) -> tuple[str, ...]:
    """The texts of a query. Raises `BadRequest` for empty ones."""
    texts = (text,) if isinstance(text, str) else tuple(text)
    if not all(one.strip() for one in texts):
        raise BadRequest("`query` must say what is looked for", param="query")
    return texts
