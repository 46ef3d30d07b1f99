"""Repository of `runs`: the run records."""

from collections import Counter
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import orjson
from sqlalchemy import Connection, RowMapping, delete, select

from terascope.core.ids import lowest_id
from terascope.core.ledger import Charge, Settlement
from terascope.core.runs import RunRecord
from terascope.core.states import Outcome
from terascope.store import charges
from terascope.store.database import Database
from terascope.store.holds import settle
from terascope.store.insert import PlainInsert, PlainInsertWith
from terascope.store.tables import runs

_PLAIN = tuple(name for name in RunRecord.__slots__ if name != "parameters")
_plain_values = attrgetter(*_PLAIN)
_INSERT = PlainInsert(runs, (*_PLAIN, "parameters"))
_INSERT_CHARGED = PlainInsertWith(_INSERT, charges.INSERT)


class RunStore:
    """Reads and writes `runs`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, record: RunRecord, settlement: Settlement | Charge | None = None) -> int:
        """Store `record` and settle what the request cost, both durably on return, or neither.

        A charge is on record then, and in the ledger a moment later (`store/charges.py`).
        Returns what no allocation could pay for, in micro service units.
        """
        return int(await self._database.writer.submit(_insert, (record, settlement)))

    async def get(self, run_id: str) -> RunRecord | None:
        """Return the record of that id."""
        async with self._database.read() as connection:
            row = (await connection.execute(select(runs).where(runs.c.id == run_id))).mappings().one_or_none()
        return _record(row) if row else None

    async def newest(self, limit: int, *, key_id: str = "", model: str = "", before: str = "") -> list[RunRecord]:
        """Return up to `limit` records, newest first; of one key or model, or older than the id `before`."""
        query = select(runs).order_by(runs.c.id.desc()).limit(limit)
        if key_id:
            query = query.where(runs.c.key_id == key_id)
        if model:
            query = query.where(runs.c.model == model)
        if before:
            query = query.where(runs.c.id < before)
        async with self._database.read() as connection:
            return [_record(row) for row in (await connection.execute(query)).mappings().all()]

    async def traced(self, kind: str, which: str, since: float) -> dict[str, int]:
        """Return what traces that began at `since` or later have used, by the names that records have it under.

        Those of a `key` or a `project`: `kind` says which of them `which` is.
        """
        owner = runs.c.key_id if kind == "key" else runs.c.project
        begun = (runs.c.id >= lowest_id("req", since), runs.c.started >= since)  # the first is an index
        query = select(runs.c.parameters).where(owner == which, runs.c.endpoint == "traces", *begun)
        total: Counter[str] = Counter()
        async with self._database.read() as connection:
            for parameters in (await connection.execute(query)).scalars():
                total.update(parameters.get("used", {}))
        return dict(total)

    async def forget(self, before: float) -> int:
        """Delete the records that started before that time; return how many."""
        return int(await self._database.writer.submit(_forget, before))


def _insert(connection: Connection, added: Sequence[tuple[RunRecord, Settlement | Charge | None]]) -> list[int]:
    records = [_values(record) for record, _ in added]
    charged = [due for _, due in added if isinstance(due, Charge)]
    if charged:
        _INSERT_CHARGED(connection, records, charges.row_of(charged))
        charges.remember(connection, charged)
    else:
        _INSERT(connection, records)
    uncovered = settle(connection, [due for _, due in added if isinstance(due, Settlement)])
    return [uncovered.get(record.id, 0) for record, _ in added]


def _forget(connection: Connection, times: Sequence[float]) -> list[int]:
    return [connection.execute(delete(runs).where(runs.c.id < lowest_id("req", before))).rowcount for before in times]


def _values(record: RunRecord) -> tuple[Any, ...]:
    return (*_plain_values(record), orjson.dumps(record.parameters).decode())


def _record(row: RowMapping) -> RunRecord:
    return RunRecord(**{**row, "outcome": Outcome(row["outcome"])})
