"""What must hold in a database that nobody writes to, whatever happened before."""

from collections import Counter
from dataclasses import dataclass, field

import orjson
from sqlalchemy import Connection, Table, func, select

from terascope.core.ledger import Charge, EntryKind
from terascope.store.database import Database
from terascope.store.entries import portions
from terascope.store.tables import allocations, charges, entries, holds, runs


@dataclass(slots=True)
class Audit:
    """What is wrong; empty lists when nothing is."""

    lost: list[str] = field(default_factory=list)
    """Completed runs that cost something and were not charged."""
    doubled: list[str] = field(default_factory=list)
    """Runs that were charged more than they cost."""
    strange: list[str] = field(default_factory=list)
    """Charges without a run."""
    overspent: list[str] = field(default_factory=list)
    """Allocations with less than nothing, or less than is held of them."""
    unbalanced: list[str] = field(default_factory=list)
    """Allocations whose balance is not the sum of their entries, or what is held not that of their holds."""

    @property
    def clean(self) -> bool:
        """Whether all is well."""
        return not (self.lost or self.doubled or self.strange or self.overspent or self.unbalanced)


async def audit(database: Database) -> Audit:
    """Look at every run, entry, hold and allocation of `database`."""
    async with database.read() as connection, connection.begin():
        return await connection.run_sync(_audit)


def _audit(connection: Connection) -> Audit:
    found = Audit()
    charged = entered(connection)
    charged.update({one.id: one.amount for one in on_record(connection)})
    costs = {run: int(cost) for run, cost in connection.execute(select(runs.c.id, runs.c.cost))}
    found.lost = sorted(run for run, cost in costs.items() if charged.get(run, 0) < cost)
    found.doubled = sorted(run for run, amount in charged.items() if amount > costs.get(run, amount))
    found.strange = sorted(charged.keys() - costs.keys())
    sums = _sums(connection, entries), _sums(connection, holds)
    for row in connection.execute(select(allocations)).mappings():
        if not row["unlimited"] and not 0 <= row["held"] <= row["balance"]:
            found.overspent.append(row["id"])
        if (row["balance"], row["held"]) != tuple(one.get(row["id"], 0) for one in sums):
            found.unbalanced.append(row["id"])
    return found


def entered(connection: Connection) -> Counter[str]:
    """What each request paid, as the ledger has it."""
    found: Counter[str] = Counter()
    for row in connection.execute(select(entries).where(entries.c.kind == EntryKind.CHARGE.value)).mappings():
        for one in portions(row):
            found[one.request] += one.amount
    return found


def on_record(connection: Connection) -> list[Charge]:
    """What is still to be entered in the ledger."""
    return [
        Charge(*one) for text in connection.execute(select(charges.c.charges)).scalars() for one in orjson.loads(text)
    ]


def _sums(connection: Connection, table: Table) -> dict[str, int]:
    query = select(table.c.allocation, func.sum(table.c.amount)).group_by(table.c.allocation)
    return {allocation: int(amount) for allocation, amount in connection.execute(query)}
