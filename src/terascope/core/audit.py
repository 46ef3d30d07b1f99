"""Who makes a change: set where a request comes in, read where a change is written."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Actor:
    """A user, by a key, from an address."""

    user_id: str
    key_id: str = ""
    address: str = ""


_GATEWAY = Actor("the gateway itself")
_acting: ContextVar[Actor | None] = ContextVar("actor", default=None)


def acting() -> Actor:
    """Who makes the changes of the present task; the gateway itself unless a request does."""
    return _acting.get() or _GATEWAY


@contextmanager
def acting_as(actor: Actor) -> Iterator[None]:
    """Within the block `actor` makes the changes of this task and of tasks that it starts."""
    token = _acting.set(actor)
    try:
        yield
    finally:
        _acting.reset(token)
