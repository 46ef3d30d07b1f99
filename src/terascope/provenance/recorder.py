"""Keeps a record of every request, durable before the last byte of its answer, for as long as configured."""

import logging

from terascope.core.clock import Clock
from terascope.core.config import RecordsConfig
from terascope.core.errors import NotFound
from terascope.core.ledger import Charge, Settlement
from terascope.core.runs import RunRecord
from terascope.store.runs import RunStore

log = logging.getLogger(__name__)
_DAY_S = 86_400.0


class Recorder:
    """Writes, finds and forgets run records."""

    def __init__(self, store: RunStore, config: RecordsConfig, clock: Clock) -> None:
        self._store = store
        self._config = config
        self._clock = clock

    async def save(self, record: RunRecord, settlement: Settlement | Charge | None = None) -> None:
        """Write `record` and settle what the request cost; both durable on return."""
        if uncovered := await self._store.add(record, settlement):
            log.warning("%d micro service units could not be charged", uncovered, extra={"request_id": record.id})

    async def get(self, run_id: str, *, key_id: str = "") -> RunRecord:
        """Return one record; with `key_id`, only if that key made the request.

        Raises `NotFound`, also for another key's record, so that ids tell nothing.
        """
        record = await self._store.get(run_id)
        if record is None or (key_id and record.key_id != key_id):
            raise NotFound(f"there is no run {run_id[:60]!r}")
        return record

    async def has(self, run_id: str) -> bool:
        """Whether there is a record of that id."""
        return await self._store.get(run_id) is not None

    async def newest(self, limit: int, *, key_id: str = "", model: str = "", before: str = "") -> list[RunRecord]:
        """Return up to `limit` records, newest first."""
        return await self._store.newest(limit, key_id=key_id, model=model, before=before)

    async def forget_old(self) -> int:
        """Delete what is older than the configuration keeps; return how many."""
        days = self._config.retention_days
        return await self._store.forget(self._clock.now() - days * _DAY_S) if days > 0 else 0

    async def keep_forgetting(self) -> None:
        """Forget old records now and every hour, until cancelled."""
        while True:
            await self.forget_old()
            await self._clock.sleep(3600)
