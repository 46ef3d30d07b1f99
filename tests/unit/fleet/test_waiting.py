"""Waiting with a limit."""

import asyncio

import pytest

from terascope.fleet.waiting import within
from terascope.testing.clock import ManualClock


async def _three() -> int:
    return 3


async def _fails() -> int:
    raise LookupError


class _Endless:
    def __init__(self) -> None:
        self.cancelled = False

    async def wait(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


async def test_it_returns_and_raises_what_the_work_does() -> None:
    clock = ManualClock()
    assert await within(clock, 1.0, _three()) == 3
    with pytest.raises(LookupError):
        await within(clock, 1.0, _fails())
    assert clock.waits() == []


async def test_what_takes_too_long_is_cancelled() -> None:
    clock, work = ManualClock(), _Endless()
    waiting = asyncio.create_task(within(clock, 5.0, work.wait()))
    await clock.slept(5.0)
    clock.advance(4.9)
    await asyncio.sleep(0)
    assert not waiting.done()
    clock.advance(0.1)
    with pytest.raises(TimeoutError):
        await waiting
    assert work.cancelled


async def test_cancelling_the_wait_cancels_the_work() -> None:
    clock, work = ManualClock(), _Endless()
    waiting = asyncio.create_task(within(clock, 5.0, work.wait()))
    await clock.slept(5.0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert work.cancelled
    assert clock.waits() == []
