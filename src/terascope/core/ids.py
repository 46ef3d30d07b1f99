"""Identifiers: a prefix that says what is named, 48 bits of time and 80 random bits, as ULIDs have them."""

import os
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, lower case


def new_id(prefix: str) -> str:
    """Return `prefix_` and 26 characters that sort by creation time to the millisecond."""
    number = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    return f"{prefix}_{_base32(number)}"


def lowest_id(prefix: str, when: float) -> str:
    """Return the id that sorts before every id made at `when` (seconds since the epoch) or later."""
    return f"{prefix}_{_base32(max(0, int(when * 1000)) << 80)}"


def _base32(number: int) -> str:
    return "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))
