"""Which replica: the one with the least to do."""

from collections.abc import Sequence


def least_loaded(in_flight: Sequence[int]) -> int:
    """Return the index of the smallest of `in_flight`, the first of equals. Raises `ValueError` when empty."""
    return min(range(len(in_flight)), key=in_flight.__getitem__)
