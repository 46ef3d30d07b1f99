"""Time that tests move."""

import asyncio

from terascope.core.clock import Clock, SystemClock
from terascope.testing.clock import ManualClock, SimulatedLoop


async def test_sleepers_wake_in_the_order_of_their_times() -> None:
    clock, woken = ManualClock(now=100.0), list[str]()

    async def sleep(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(name)

    tasks = [asyncio.create_task(sleep(name, seconds)) for name, seconds in (("late", 3), ("soon", 1), ("at once", 0))]
    await clock.slept(3)
    assert clock.waits() == [1, 3]
    clock.advance(2)
    await asyncio.wait(tasks[1:])
    assert woken == ["at once", "soon"]
    clock.advance(1)
    await tasks[0]
    assert (clock.now(), clock.monotonic()) == (103.0, 3.0)


async def test_a_cancelled_sleeper_is_gone() -> None:
    clock = ManualClock()
    task = asyncio.create_task(clock.sleep(5))
    await clock.slept(5)
    task.cancel()
    await asyncio.wait([task])
    assert clock.waits() == []
    clock.advance(10)


async def test_both_clocks_are_clocks() -> None:
    clocks: tuple[Clock, ...] = (SystemClock(), ManualClock())
    for clock in clocks:
        assert clock.now() > 1_700_000_000
        before = clock.monotonic()
        await clock.sleep(0)
        assert clock.monotonic() >= before


def test_hours_pass_at_once_on_a_simulated_loop() -> None:
    async def work() -> list[float]:
        loop = asyncio.get_running_loop()
        at: list[float] = []
        for seconds in (7200.0, 3600.0, 3600.5):
            loop.call_later(seconds, lambda: at.append(loop.time()))
        await asyncio.sleep(10_000.0)
        return [*at, loop.time()]

    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        assert runner.run(work()) == [3600.0, 3600.5, 7200.0, 10_000.0]
