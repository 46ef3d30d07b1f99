"""Vector stores of projects: made, changed, listed, deleted; a row for each, its passages in a collection."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from terascope.access.access import Access
from terascope.access.principal import Principal
from terascope.access.projects import Right
from terascope.catalog.catalog import Catalog
from terascope.core.clock import Clock
from terascope.core.errors import BadRequest, ServiceError
from terascope.core.ids import new_id
from terascope.core.models import Mode, ModelVersion, Task
from terascope.core.projects import Qos
from terascope.fleet.fleet import Fleet
from terascope.retrieval.pool import Pool
from terascope.retrieval.searching import no_store
from terascope.store.vector_stores import DAY_S, Order, StoreRow, VectorStoreStore

log = logging.getLogger(__name__)
_TIDY_EVERY_S = 3600.0


@dataclass(frozen=True, slots=True)
class NewStore:
    """A store to be made; an empty `model` is the default. `lasts_days` None: for ever."""

    project: str
    name: str = ""
    model: str = ""
    labels: Mapping[str, str] | None = None
    lasts_days: int | None = None


class Stores:
    """Keeps vector stores."""

    def __init__(
        self,
        rows: VectorStoreStore,
        pool: Pool,
        access: Access,
        catalog: Catalog,
        fleet: Fleet,
        clock: Clock,
        default_model: str,
        retention_days: float,
    ) -> None:
        """A version is kept for `retention_days` after it was last the newest or was asked for; 0: for ever."""
        self._rows = rows
        self._pool = pool
        self._access = access
        self._catalog = catalog
        self._fleet = fleet
        self._clock = clock
        self._default_model = default_model
        self._retention_days = retention_days

    async def create(self, who: Principal, new: NewStore) -> StoreRow:
        """Make a store with nothing in it; durable on return.

        Raises `NotAllowed` when `who` or the project may not embed with the model, `ModelNotFound`.
        """
        who.require(Mode.EMBED)
        model = self._model(new.model)
        grant = await self.admit(who, model, new.project)
        now = self._clock.now()
        row = StoreRow(
            new_id("vs"), grant, who.user_id, who.key_id, new.name, model.public_name, now, now,
            labels=dict(new.labels or {}), lasts_days=new.lasts_days,
        )  # fmt: skip
        await self._rows.add(row)
        return row

    async def admit(self, who: Principal, model: ModelVersion, project: str) -> str:
        """Return the project that pays for embedding with `model`. Raises `NotAllowed`."""
        grant = await self._access.admit(who, model, Mode.EMBED, project=project, qos=Qos.INTERACTIVE)
        return grant.project

    async def found(self, who: Principal, store: str, project: str = "") -> StoreRow:
        """Return a store that `who` may use, of `project` if that is named.

        Raises `NotFound`, in the same words for one of somebody else.
        """
        row = await self._rows.get(store)
        owner = await self._access.projects.find(row.project) if row else None
        if row is None or owner is None or not owner.allows(who, Right.USE) or (project and project != row.project):
            raise no_store(store)
        return row

    async def of(
        self, who: Principal, project: str, limit: int, *, order: Order = "desc", after: str = "", before: str = ""
    ) -> list[StoreRow]:
        """Return up to `limit` stores of a project. Raises `NotAllowed` where `who` may not use it."""
        payer = await self._access.projects.for_use(who, project or who.project)
        return await self._rows.of(payer.name, limit, order=order, after=after, before=before)

    async def change(self, row: StoreRow) -> StoreRow:
        """Give a store the name, the labels and the lifetime of `row`; that counts as a use of it."""
        row = replace(row, active=self._clock.now())
        await self._rows.change(row)
        return row

    async def remove(self, row: StoreRow) -> None:
        """Delete a store with all its versions. On return nobody finds it; a search that runs ends or fails."""
        async with self._pool.lock(row.id):
            if not await self._rows.remove(row.id):
                raise no_store(row.id)
            await self._pool.drop(row.id)

    def context_length(self, row: StoreRow) -> int:
        """How many tokens the store's embedding model reads; 0 when that is not known."""
        return self._fleet.context_length(row.model)

    def model(self, row: StoreRow) -> ModelVersion:
        """The version that makes the store's vectors. Raises `ModelNotFound` when it is gone."""
        return self._catalog.resolve(row.model)

    async def tidy(self) -> None:
        """Remove stores that have expired, collections without a store, and versions that are not to be kept.

        Raises nothing for what cannot be done just now.
        """
        try:
            rows = {row.id: row for row in await self._rows.all()}
            for name in await self._pool.names():
                if name.startswith("vs_") and name not in rows:
                    await self._pool.drop(name)
            for row in rows.values():
                await self._tidy_one(row)
        except ServiceError as error:
            log.warning("the vector stores were not tidied: %s", error.detail or error.message)

    async def keep_tidying(self) -> None:
        """Tidy now and every hour, until cancelled."""
        while True:
            await self.tidy()
            await self._clock.sleep(_TIDY_EVERY_S)

    async def _tidy_one(self, row: StoreRow) -> None:
        if row.expires is not None and row.expires <= self._clock.now():
            await self.remove(row)
        elif row.width and self._retention_days > 0:
            async with self._pool.lock(row.id):
                await self._purge(row.id)

    async def _purge(self, store: str) -> None:
        row = await self._rows.get(store)
        if row is None:
            return
        used = await self._rows.oldest_used(store, self._clock.now() - self._retention_days * DAY_S)
        oldest = row.version if used is None else min(used, row.version)
        if oldest > row.kept:
            await self._rows.keep_from(store, oldest)  # first nobody may ask for them, then they go
        collection = await self._pool.to_change(row)
        await self._pool.run(collection.purge, oldest)
        self._pool.changed(store)

    def _model(self, name: str) -> ModelVersion:
        """The model that was asked for, or the default. Raises `ModelNotFound`, `BadRequest` where there is none."""
        if name or self._default_model:
            return self._catalog.resolve(name or self._default_model)
        deployed = (one for one in self._catalog.list() if self._fleet.deployments_for(one.public_name))
        found = next((one for one in deployed if one.task is Task.EMBED), None)
        if found is None:
            raise BadRequest(
                "no embedding model is deployed; name one in `embedding_model`, GET /v1/models lists them",
                param="embedding_model",
            )
        return found
