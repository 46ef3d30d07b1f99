"""Stores over time: versions that end, stores that expire, models that change, what is left behind."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, update

from terascope.access.principal import Principal
from terascope.access.scopes import OPERATOR
from terascope.cli import settings
from terascope.cli.assemble import deploy, opened
from terascope.core.config import Config, DeploymentConfig, LimitConfig, LimitsConfig, RecordsConfig, RetrievalConfig
from terascope.core.errors import BadRequest, Conflict, FileLost, ModelNotFound, NotFound, StorageUnavailable
from terascope.core.states import Ingestion
from terascope.gateway.services import Services
from terascope.retrieval.chunking import Strategy
from terascope.retrieval.embedding import Caller
from terascope.retrieval.entries import NewEntry
from terascope.retrieval.lance import LanceCollections
from terascope.retrieval.searching import Query
from terascope.retrieval.stores import NewStore
from terascope.store.database import Database
from terascope.store.tables import vector_stores
from terascope.store.vector_store_files import EntryRow
from terascope.store.vector_stores import StoreRow
from terascope.testing.clock import ManualClock
from terascope.testing.collections import placed
from terascope.testing.databases import new_sqlite

DAY_S = 86_400.0
WHO = Principal("key_local", "local operator", frozenset({OPERATOR}), "local operator")
ECHO = DeploymentConfig(model="echo", engine="echo", launcher="inprocess")


class Room:
    """A gateway without its HTTP, whose time passes as the test says."""

    def __init__(self, services: Services, clock: ManualClock, data_dir: Path) -> None:
        self.services, self.clock, self.data_dir = services, clock, data_dir
        self.retrieval = services.retrieval

    async def store(self, **fields: Any) -> StoreRow:
        return await self.retrieval.stores.create(WHO, NewStore("local", model="echo", **fields))

    async def add(self, store: StoreRow, text: str) -> EntryRow:
        async def content() -> AsyncIterator[bytes]:
            yield text.encode()

        async with self.services.files.draft("local", WHO.user_id, WHO.key_id) as draft:
            await draft.fill(content())
            file = await draft.keep("user_data", "a.txt")
        new = NewEntry(file.id, Strategy("auto", 800, 400), {})
        await self.retrieval.entries.add(WHO, store, new)
        await self.retrieval.settled(store.id)
        return await self.retrieval.entries.get(store, file.id)

    async def now(self, store: StoreRow) -> StoreRow:
        return await self.retrieval.stores.found(WHO, store.id)

    async def texts(self, store: StoreRow, version: int | None = None) -> list[str]:
        query = Query(("x",), 50, version=version)
        answer = await self.retrieval.searcher.search(await self.now(store), query, Caller(WHO, "local"))
        return sorted(one.passage.text for one in answer.found)


Opened = Callable[..., AbstractAsyncContextManager[Room]]


@pytest.fixture
def rooms(tmp_path: Path) -> Opened:
    """Opens the same gateway each time, as a start does it."""

    @asynccontextmanager
    async def open_room(**config: Any) -> AsyncIterator[Room]:
        clock = ManualClock(real_below_s=5)
        whole = Config(deployments=[ECHO], **config)
        new_sqlite(tmp_path / "data" / "terascope.db")
        async with opened(whole, tmp_path / "data", tmp_path / "cache", clock=clock) as services:
            await deploy(services, lambda _name, _message: None)
            await services.fleet.settled()
            yield Room(services, clock, tmp_path / "data")

    return open_room


async def test_a_version_lasts_as_long_as_records_do(rooms: Opened) -> None:
    async with rooms(records=RecordsConfig(retention_days=10)) as room:
        store = await room.store()
        first = await room.add(store, "one")
        await room.retrieval.entries.remove(store, first.file)
        await room.add(store, "two")
        assert [await room.texts(store, version) for version in range(4)] == [[], ["one"], [], ["two"]]
        room.clock.advance(9 * DAY_S)
        await room.retrieval.stores.tidy()
        assert await room.texts(store, 1) == ["one"]  # and so it is used again
        room.clock.advance(9 * DAY_S)
        await room.retrieval.stores.tidy()
        assert (await room.now(store)).kept == 1
        assert await room.texts(store) == ["two"]
        room.clock.advance(2 * DAY_S)
        await room.retrieval.stores.tidy()
        assert (await room.now(store)).kept == 3
        with pytest.raises(NotFound, match=r"version 1 of vs_\w+ is not kept any more; its oldest is 3"):
            await room.texts(store, 1)
        collection = LanceCollections(room.data_dir / "collections").open(store.id, 64)
        assert collection.search(bytes(4 * 63) + b"\0\0\x80?", 1, 9) == []
        assert await room.texts(store, 3) == ["two"]


async def test_versions_that_are_kept_for_ever(rooms: Opened) -> None:
    async with rooms(records=RecordsConfig(retention_days=0)) as room:
        store = await room.store()
        await room.add(store, "one")
        await room.add(store, "two")
        room.clock.advance(10_000 * DAY_S)
        await room.retrieval.stores.tidy()
        assert await room.texts(store, 1) == ["one"]


async def test_a_store_that_expires(rooms: Opened) -> None:
    async with rooms() as room:
        store = await room.store(lasts_days=2)
        await room.add(store, "one")
        room.clock.advance(1.9 * DAY_S)
        assert await room.texts(store) == ["one"]  # that is a use of it
        room.clock.advance(1.9 * DAY_S)
        await room.retrieval.stores.tidy()
        assert (await room.now(store)).version == 1
        room.clock.advance(0.2 * DAY_S)
        with pytest.raises(Conflict, match="has expired"):
            await room.texts(store)
        await room.retrieval.stores.tidy()
        with pytest.raises(NotFound, match="there is no vector store"):
            await room.now(store)
        assert not list((room.data_dir / "collections").iterdir())


async def test_what_a_crash_left(rooms: Opened) -> None:
    """Passages of a version that never came to be are not found, and collections without a store go."""
    async with rooms() as room:
        store = await room.store()
        await room.add(store, "one")
    there = LanceCollections(room.data_dir / "collections")
    there.open(store.id, 64).put(
        [one.__class__(one.passage, one.vector + bytes(4 * 60)) for one in placed("left", 0)], 2
    )
    there.open("vs_none", 8)
    async with rooms() as room:
        assert await room.texts(store) == ["one"]
        await room.add(store, "two")
        assert await room.texts(store) == ["one", "two"]
        await room.retrieval.stores.tidy()
        assert there.names() == [store.id]


async def test_passages_that_are_not_there(rooms: Opened) -> None:
    async with rooms() as room:
        store = await room.store()
        await room.add(store, "one")
        LanceCollections(room.data_dir / "collections").drop(store.id)
    async with rooms() as room:
        with pytest.raises(FileLost, match="are not in the data directory any more"):
            await room.texts(store)
        failed = await room.add(store, "two")
        assert (failed.status, failed.error) == (Ingestion.FAILED, "server_error")
        await room.retrieval.stores.remove(await room.now(store))


async def test_a_collection_that_breaks_while_it_is_open(rooms: Opened) -> None:
    async with rooms() as room:
        store = await room.store()
        await room.add(store, "one")
        LanceCollections(room.data_dir / "collections").drop(store.id)
        with pytest.raises(StorageUnavailable, match="try again"):
            await room.texts(store)


async def test_a_model_that_makes_other_vectors_now(rooms: Opened, tmp_path: Path) -> None:
    async with rooms() as room:
        store = await room.store()
        await room.add(store, "one")
    database = await Database.open(settings.database_url(Config(), tmp_path / "data"))
    await database.writer.submit(_narrow, store.id)  # as if the model had made vectors of 8 numbers then
    await database.aclose()
    async with rooms() as room:
        with pytest.raises(Conflict, match=r"makes vectors of 64 numbers now, and those of \w+ have 8"):
            await room.texts(store)
        failed = await room.add(store, "two")
        assert failed.status is Ingestion.FAILED
        assert "makes vectors of 64 numbers now, and the store has 8; make it again" in failed.message


def _narrow(connection: Connection, stores: Sequence[str]) -> None:
    connection.execute(update(vector_stores).where(vector_stores.c.id.in_(stores)).values(width=8))


async def test_a_model_that_is_gone(rooms: Opened) -> None:
    async with rooms() as room:
        store = await room.store()
        await room.add(store, "one")
        await room.services.catalog.add_remote("echo", "echo:other", version="other")
        name, _, version = store.model.partition("@")
        await room.services.catalog.remove(name, version)
        with pytest.raises(ModelNotFound):
            await room.texts(store)
        with pytest.raises(ModelNotFound):
            await room.add(store, "two")


async def test_no_embedding_model(rooms: Opened) -> None:
    async with rooms() as room:
        with pytest.raises(BadRequest, match="no embedding model is deployed; name one in `embedding_model`"):
            await room.retrieval.stores.create(WHO, NewStore("local"))
    async with rooms(retrieval=RetrievalConfig(embedding_model="echo")) as room:
        row = await room.retrieval.stores.create(WHO, NewStore("local"))
        assert row.model.startswith("echo@")


async def test_the_room_of_a_project(rooms: Opened) -> None:
    """A passage of three bytes and its vector of 256 fit in once."""
    async with rooms(retrieval=RetrievalConfig(max_project_bytes=500)) as room:
        store = await room.store()
        one, two = await room.add(store, "one"), await room.add(store, "two")
        assert (one.status, one.usage, two.status) == (Ingestion.COMPLETED, 259, Ingestion.FAILED)
        assert "may have 500 bytes in all (`retrieval.max_project_bytes`)" in two.message
        await room.retrieval.entries.remove(store, one.file)
        assert (await room.add(store, "two")).status is Ingestion.COMPLETED


async def test_a_limit_is_waited_for(rooms: Opened) -> None:
    """A request a minute: the first search takes it, and the file comes after a pause."""
    async with rooms(limits=LimitsConfig(key=LimitConfig(requests_per_minute=1))) as room:
        store = await room.store()
        await room.retrieval.searcher._embedder.vectors("echo", ["x"], Caller(WHO, "local"))
        adding = asyncio.create_task(room.add(store, "one"))
        await room.clock.slept(60.0)
        room.clock.advance(60.0)
        assert (await adding).status is Ingestion.COMPLETED
