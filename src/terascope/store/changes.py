"""Helpers for the changes that the group writer applies."""

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection


def one_by_one(change: Callable[[Connection, Any], Any]) -> Callable[[Connection, Sequence[Any]], list[Any]]:
    """A change of the group writer from one that takes a single argument."""
    return lambda connection, arguments: [change(connection, argument) for argument in arguments]
