"""Where the C library takes memory from. Imports no torch."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h of glibc
_OPTIONS = (
    (_M_ARENA_MAX, 1),
    (_M_MMAP_THRESHOLD, 32 << 20),  # bytes; the most that glibc takes
    (_M_TRIM_THRESHOLD, 128 << 20),
)


def keep() -> bool:
    """Let all threads take memory from one heap, and that keep what a step needs; return whether that could be had.

    Else glibc gives the thread that computes a heap of its own, and the memory of a step goes back to the system at
    its end, to be zeroed for the next: reading prompts then takes a tenth longer (benchmarks/RESULTS.md, capture). To
    be called before there are threads. Without glibc nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(*option) == 1 for option in _OPTIONS)
