"""The room as a whole: what the gateway asks of vector stores."""

from collections.abc import Callable
from dataclasses import dataclass

from terascope.access.access import Access
from terascope.catalog.catalog import Catalog
from terascope.core.clock import Clock
from terascope.core.config import Config
from terascope.files.files import Files
from terascope.fleet.fleet import Fleet
from terascope.inference.inference import Inference
from terascope.retrieval.contract import Collections
from terascope.retrieval.cutting import Cutter
from terascope.retrieval.embedding import Embedder
from terascope.retrieval.entries import Entries
from terascope.retrieval.file_search import FileSearch
from terascope.retrieval.ingesting import Ingester
from terascope.retrieval.pool import Pool
from terascope.retrieval.searching import Searcher
from terascope.retrieval.stores import Stores
from terascope.store.database import Database
from terascope.store.vector_store_files import VectorStoreFileStore
from terascope.store.vector_stores import VectorStoreStore


@dataclass(frozen=True, slots=True)
class Rooms:
    """What vector stores stand on."""

    database: Database
    access: Access
    catalog: Catalog
    fleet: Fleet
    files: Files
    inference: Inference
    config: Config
    clock: Clock


class Retrieval:
    """Stores, their files, and searches."""

    def __init__(self, rooms: Rooms, collections: Collections, check: Callable[[], None] = lambda: None) -> None:
        """From now on chats can search files. `check` raises where collections cannot be had here."""
        self.check = check
        rows, entries = VectorStoreStore(rooms.database), VectorStoreFileStore(rooms.database)
        config, clock = rooms.config, rooms.clock
        embedder = Embedder(rooms.inference)
        self._pool = Pool(collections)
        cutter = Cutter(rooms.files, embedder, config.retrieval.max_file_bytes)
        self._ingester = Ingester(
            rows, entries, self._pool, cutter, embedder, rooms.access, rooms.catalog, config.retrieval, clock
        )
        self.stores = Stores(
            rows, self._pool, rooms.access, rooms.catalog, rooms.fleet, clock, config.retrieval.embedding_model,
            config.records.retention_days,
        )  # fmt: skip
        self.entries = Entries(self.stores, entries, rows, rooms.files, self._pool, self._ingester, clock)
        self.searcher = Searcher(rows, self._pool, embedder, clock)
        rooms.inference.searches = FileSearch(self.stores, self.searcher, embedder, rooms.fleet, clock)

    async def settled(self, store: str) -> None:
        """Return when no file of a store is in progress."""
        await self._ingester.settled(store)

    async def keep_working(self) -> None:
        """Go on with what was not finished, then tidy every hour, until cancelled."""
        await self._ingester.resume()
        await self.stores.keep_tidying()

    async def aclose(self) -> None:
        """Stop bringing files into stores, and end the threads. Idempotent."""
        await self._ingester.aclose()
        await self._pool.aclose()
