"""Waiting with a limit, by the injected clock."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from terascope.core.clock import Clock

T = TypeVar("T")


async def within(clock: Clock, seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns.

    Raises `TimeoutError` when it takes longer than `seconds`, and what `work` raises. On a raise and on
    cancellation `work` has been cancelled and has ended.
    """
    working = asyncio.ensure_future(work)
    limit = asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait({working, limit}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise TimeoutError
    finally:
        limit.cancel()
        working.cancel()
        await asyncio.gather(limit, working, return_exceptions=True)
