"""The arithmetic of allocations within one transaction: what is there, what is held, what changed.

Every change of a balance or of what is held goes through a `Book`. The tables' own constraints say it again: nothing
is ever overspent.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import orjson
from sqlalchemy import Connection

from terascope.core.ledger import DAY_S, Charge, EntryKind, Portion, Redraw, Settlement, Share, day_of
from terascope.store.plain import LOCK, Plain, PlainIn

_PAYER = ("unlimited", "block", "allocation")
_whose = itemgetter(*map(Charge._fields.index, (*_PAYER, "project", "user_id", "key_id", "model")))
_portion = itemgetter(*map(Charge._fields.index, ("id", *Portion._fields[1:])))
_time_of = itemgetter(Charge._fields.index("time"))
_FIELDS = "SELECT id, project, unlimited, balance, held, starts, ends FROM allocations WHERE"
_BY_PROJECT = PlainIn(f"{_FIELDS} project IN ({{}}) ORDER BY id{LOCK}")
_BY_ID = PlainIn(f"{_FIELDS} id IN ({{}}) ORDER BY id{LOCK}")
_HOLDS = PlainIn("SELECT id, allocation, amount FROM holds WHERE id IN ({}) ORDER BY id, allocation")
_ADJUST = Plain("UPDATE allocations SET balance = balance + ?, held = held + ? WHERE id = ?")
_ADD_HOLD = Plain("INSERT INTO holds (id, allocation, amount, expires) VALUES (?, ?, ?, ?)")
_DROP_HOLD = Plain("DELETE FROM holds WHERE id = ? AND allocation = ?")
_SHRINK_HOLD = Plain("UPDATE holds SET amount = amount - ? WHERE id = ? AND allocation = ?")
_PLENTY = 8  # a block takes no more than this part of what is available, so that other gateways find enough
_FEWEST = 4  # requests that a block must serve, or it is not worth having
_ENTRY = Plain(
    "INSERT INTO entries (id, allocation, project, kind, amount, time, day, user_id, key_id, model, prompt_tokens, "
    "output_tokens, note, requests, portions) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


@dataclass(slots=True)
class Account:
    """An allocation as this transaction sees it; `balance` and `held` follow the changes."""

    id: str
    project: str
    unlimited: bool
    balance: int
    held: int
    starts: float
    ends: float | None
    balance_change: int = 0
    held_change: int = 0

    @property
    def available(self) -> int:
        """What may still be held or taken."""
        return self.balance - self.held

    def open(self, now: float) -> bool:
        """Whether it may be used at `now`."""
        return self.starts <= now and (self.ends is None or now < self.ends)

    def add(self, amount: int) -> None:
        """Change the balance."""
        self.balance += amount
        self.balance_change += amount

    def hold(self, amount: int) -> None:
        """Change what is held."""
        self.held += amount
        self.held_change += amount


@dataclass(slots=True)
class _Part:
    """What one request holds on one allocation."""

    account: Account
    amount: int


class Book:
    """The allocations of some projects, or of some ids, locked until the transaction ends."""

    def __init__(self, connection: Connection, *, projects: Iterable[str] = (), ids: Iterable[str] = ()) -> None:
        self._connection = connection  # `projects` or `ids`: locks are taken in one order only within one query
        rows = _BY_PROJECT.rows(connection, sorted(set(projects))) + _BY_ID.rows(connection, sorted(set(ids)))
        self.accounts = {row[0]: Account(row[0], row[1], bool(row[2]), *row[3:]) for row in rows}
        self._parts: dict[str, list[_Part]] = {}
        self._dropped: list[tuple[str, str]] = []
        self._shrunk: dict[tuple[str, str], int] = {}
        self._added: list[tuple[str, str, int, float]] = []
        self._entries: list[tuple[object, ...]] = []

    def load_holds(self, ids: Iterable[str]) -> None:
        """Look up what the requests or blocks `ids` hold, those that were not before."""
        wanted = sorted({one for one in ids if one not in self._parts})
        self._parts |= {one: [] for one in wanted}
        for hold_id, allocation, amount in _HOLDS.rows(self._connection, wanted):
            if allocation in self.accounts:
                self._parts[hold_id].append(_Part(self.accounts[allocation], amount))

    def open_accounts(self, project: str, now: float) -> list[Account]:
        """The project's allocations that may be used at `now`, in the order of use: the first to end first."""
        usable = [one for one in self.accounts.values() if one.project == project and one.open(now)]
        return sorted(usable, key=_first_to_end)

    def hold(self, hold_id: str, project: str, amount: int, now: float, expires: float) -> str | None:
        """Set `amount` aside, if need be in parts on several allocations.

        Returns the allocation without a limit that makes holding needless, empty when it is held, and None, with
        nothing changed, when there is not enough.
        """
        accounts = self.open_accounts(project, now)
        if unlimited := next((one for one in accounts if one.unlimited), None):
            return unlimited.id
        if sum(one.available for one in accounts) < amount:
            return None
        for account in accounts:
            part = min(account.available, amount)
            if part > 0:
                account.hold(part)
                self._add_part(hold_id, account, part, expires)
                amount -= part
        return ""

    def block(self, redraw: Redraw) -> Share | None:
        """Hold a block on the first allocation that has plenty; None, with nothing changed, when none has."""
        hold = redraw.hold
        accounts = self.open_accounts(hold.project, hold.now)
        for account in accounts if not any(one.unlimited for one in accounts) else ():
            amount = min(redraw.want, account.available // _PLENTY)
            if amount >= hold.amount * _FEWEST:
                old = redraw.old
                block = old.block if old is not None and old.allocation == account.id else redraw.new
                account.hold(amount)
                self._add_part(block, account, amount, hold.expires)
                return Share(block, account.id, amount)
        return None

    def keep(self, block: Share, amount: int) -> None:
        """Bring a block that was looked up down to `amount`, or to what is left of it when that is less."""
        part = self._part_of(block.block, block.allocation)
        if part is not None and part.amount > amount:
            self._shrink(block.block, part, part.amount - amount)

    def _part_of(self, block: str, allocation: str) -> _Part | None:
        return next((part for part in self._parts.get(block, ()) if part.account.id == allocation), None)

    def _shrink(self, block: str, part: _Part, amount: int) -> None:
        part.amount -= amount
        part.account.hold(-amount)
        key = (block, part.account.id)
        self._shrunk[key] = self._shrunk.get(key, 0) + amount

    def _add_part(self, hold_id: str, account: Account, amount: int, expires: float) -> None:
        parts = self._parts.setdefault(hold_id, [])
        there = next((part for part in parts if part.account is account), None)
        if there is None:
            parts.append(_Part(account, amount))
        else:
            self._dropped.append((hold_id, account.id))
            self._shrunk.pop((hold_id, account.id), None)
            there.amount += amount
            amount = there.amount
            self._added = [one for one in self._added if one[:2] != (hold_id, account.id)]
        self._added.append((hold_id, account.id, amount, expires))

    def held_by(self, hold_id: str) -> int:
        """How much that request holds, of what was looked up or held here."""
        return sum(part.amount for part in self._parts.get(hold_id, ()))

    def release(self, hold_id: str) -> list[_Part]:
        """Return all that a request holds; what it was."""
        parts = self._parts.pop(hold_id, [])
        for part in parts:
            part.account.hold(-part.amount)
            self._shrunk.pop((hold_id, part.account.id), None)
            self._dropped.append((hold_id, part.account.id))
        self._added = [one for one in self._added if one[0] != hold_id]
        return parts

    def settle(self, settlement: Settlement) -> int:
        """Return the hold of a request and charge what it cost; return what nobody could pay for.

        An allocation without a limit pays alone. Else its share of a block pays first, then what else was held, then
        whatever the project may use: never more than is there.
        """
        if settlement.unlimited in self.accounts:
            self.accounts[settlement.unlimited].add(-settlement.cost)
            self.charge(settlement, settlement.unlimited, settlement.cost)
            return 0
        paid = self._settle_share(settlement)
        if settlement.share is not None and not settlement.more and sum(paid.values()) == settlement.cost:
            self.charge(settlement, settlement.share.allocation, settlement.cost)
            return 0
        order = sorted((part.account for part in self.release(settlement.id)), key=_first_to_end)
        order += [one for one in self.open_accounts(settlement.project, settlement.now) if one not in order]
        for account in order:
            left = settlement.cost - sum(paid.values())
            taken = left if account.unlimited else max(0, min(left, account.available))
            if taken:
                account.add(-taken)
                paid[account.id] = paid.get(account.id, 0) + taken
        for number, (allocation, amount) in enumerate(paid.items()):
            self.charge(settlement, allocation, amount, first=number == 0)
        return settlement.cost - sum(paid.values())

    def settle_charges(self, rows: Iterable[Sequence[Any]]) -> list[str]:
        """Enter charges, given as rows of `Charge`: those of one payer, user, key, model and day together.

        Returns the requests of those that nobody could pay for in full.
        """
        groups: dict[object, list[Sequence[Any]]] = {}
        for row in rows:
            groups.setdefault((_whose(row), _time_of(row) // DAY_S), []).append(row)
        return [lacking for group in groups.values() for lacking in self._settle_group(group)]

    def _settle_group(self, group: list[Sequence[Any]]) -> list[str]:
        first = Charge._make(group[0])
        portions = [*map(_portion, group)]
        _, amounts, prompts, outputs = zip(*portions, strict=True)
        paid_by = self._pay(first, sum(amounts))
        if paid_by is None:  # its block is gone: each takes what it finds
            return [one.id for one in map(Charge._make, group) if self.settle(one.settlement())]
        self.enter(
            first.id, paid_by, first.project, EntryKind.CHARGE, -sum(amounts), max(map(_time_of, group)),
            first.user_id, first.key_id, first.model, sum(prompts), sum(outputs),
            portions=portions if len(group) > 1 else (),
        )  # fmt: skip
        return []

    def _pay(self, charge: Charge, amount: int) -> str | None:
        """Take `amount` from who pays `charge`, an account without a limit or a block; None if it lacks that."""
        account = self.accounts.get(charge.unlimited)
        if account is None:
            part = self._part_of(charge.block, charge.allocation)
            if part is None or part.amount < amount:
                return None
            self._shrink(charge.block, part, amount)
            account = part.account
        account.add(-amount)
        return account.id

    def _settle_share(self, settlement: Settlement) -> dict[str, int]:
        """Let the block pay that the request has a share of; return how much, by allocation."""
        share = settlement.share
        part = self._part_of(share.block, share.allocation) if share is not None else None
        taken = 0 if share is None or part is None else min(settlement.cost, share.amount, part.amount)
        if share is None or part is None or not taken:
            return {}
        self._shrink(share.block, part, taken)
        part.account.add(-taken)
        return {share.allocation: taken}

    def charge(self, settlement: Settlement, allocation: str, amount: int, *, first: bool = True) -> None:
        """Enter a charge; the balance is changed elsewhere. Of several parts the first has the request's tokens."""
        one = settlement
        who = (one.user_id, one.key_id, one.model, one.prompt_tokens * first, one.output_tokens * first)
        self.enter(one.id, allocation, one.project, EntryKind.CHARGE, -amount, one.now, *who)

    def enter(
        self, entry_id: str, allocation: str, project: str, kind: EntryKind, amount: int, now: float,
        user_id: str = "", key_id: str = "", model: str = "", prompt: int = 0, output: int = 0, note: str = "",
        *, portions: Sequence[tuple[Any, ...]] = (),
    ) -> None:  # fmt: skip
        """Add an entry to the ledger; to a charge of several requests belong their `Portion`s."""
        about = (user_id, key_id, model, prompt, output, note, max(1, len(portions)))
        each = orjson.dumps(portions).decode() if portions else ""
        self._entries.append((entry_id, allocation, project, kind.value, amount, now, day_of(now), *about, each))

    def save(self) -> None:
        """Write what changed."""
        connection = self._connection
        changed = [one for one in self.accounts.values() if one.balance_change or one.held_change]
        _ADJUST.run(connection, [(one.balance_change, one.held_change, one.id) for one in changed])
        _SHRINK_HOLD.run(connection, [(amount, *key) for key, amount in self._shrunk.items()])
        _DROP_HOLD.run(connection, self._dropped)
        _ADD_HOLD.run(connection, self._added)
        _ENTRY.run(connection, self._entries)


def _first_to_end(account: Account) -> tuple[bool, float, str]:
    return account.ends is None, account.ends or 0.0, account.id
