"""What is asked of the ledger, to every room. Amounts are micro service units, times seconds since the epoch."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

DAY_S = 86_400


class EntryKind(StrEnum):
    """Why a balance changed."""

    GRANT = "grant"  # an operator gave it
    CHARGE = "charge"  # a request used it
    REFUND = "refund"  # a charge was given back
    TRANSFER = "transfer"  # it went from one allocation to another


def day_of(when: float) -> int:
    """The day since the epoch (UTC) that a time is on."""
    return int(when // DAY_S)


@dataclass(frozen=True, slots=True)
class Hold:
    """An upper estimate to be set aside for the request `id`, until it is settled or `expires`."""

    id: str
    project: str
    amount: int
    now: float
    expires: float


class Share(NamedTuple):
    """What one request has of a block: `amount` of the hold `block` on `allocation`."""

    block: str
    allocation: str
    amount: int


@dataclass(frozen=True, slots=True)
class Redraw:
    """A hold that may be had as a share of a block, a hold in bulk that the gateway shares out without the database.

    The block `old` of the project, if there is one, is brought down to `keep`, which its shares still need. Where an
    allocation has plenty, a block of up to `want` is held on it: under `old.block` if it is the same, else under `new`.
    """

    hold: Hold
    want: int
    new: str
    old: Share | None = None
    keep: int = 0


class Settlement(NamedTuple):
    """What the request `id` really cost: its hold is returned and `cost` is charged, to its `share` first.

    `more` says that beyond its share something is held for it alone.
    `unlimited` names the allocation without a limit that pays, for which nothing was held; else it is empty.
    """

    id: str
    project: str
    cost: int
    now: float
    unlimited: str = ""
    user_id: str = ""
    key_id: str = ""
    model: str = ""
    prompt_tokens: int = 0
    output_tokens: int = 0
    share: Share | None = None
    more: bool = False


class Charge(NamedTuple):
    """What a request cost that is covered for certain: on record until it is entered in the ledger with others.

    The allocation `unlimited` pays, which has no limit, or the request's share of the hold `block` on `allocation`; the
    others are empty.
    """

    id: str
    project: str
    amount: int
    time: float
    unlimited: str
    user_id: str
    key_id: str
    model: str
    prompt_tokens: int
    output_tokens: int
    block: str
    allocation: str

    def settlement(self) -> Settlement:
        """The same to be settled alone; all of its share is what it cost."""
        return Settlement(*self[:10], Share(self.block, self.allocation, self.amount) if self.block else None)


class Portion(NamedTuple):
    """What one request has of an entry that is of several."""

    request: str
    amount: int
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What one user used of one model in one project on one day (`YYYY-MM-DD`, UTC)."""

    project: str
    user_id: str
    model: str
    day: str
    requests: int
    prompt_tokens: int
    output_tokens: int
    amount: int
