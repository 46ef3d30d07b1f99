"""Identifiers: a prefix that says what is named, 48 bits of time and 80 random bits, as ULIDs have them, in hex."""

import os
import time


def new_id(prefix: str) -> str:
    """Return `prefix_` and 32 hex digits that sort by creation time to the millisecond."""
    return f"{prefix}_{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"


def lowest_id(prefix: str, when: float) -> str:
    """Return the id that sorts before every id made at `when` (seconds since the epoch) or later."""
    return f"{prefix}_{max(0, int(when * 1000)):012x}{'0' * 20}"


def time_of(id: str) -> float:
    """Return when `id` was made, in seconds since the epoch, to the millisecond."""
    return int(id.rpartition("_")[2][:12], 16) / 1000
