"""How long a request may be silent, to the microsecond of a simulated time."""

import asyncio
from contextlib import AbstractContextManager

import pytest

from terascope.core.config import ServerConfig
from terascope.core.errors import DeadlineExceeded, EngineLost, IdleTimeout, ServiceError
from terascope.inference.patience import Patience

CONFIG = ServerConfig(idle_timeout_s=600.0, heartbeat_s=15.0)
HOUR = 3600.0


class Beats:
    """Takes heartbeats and notes when they came; with `stuck` the first is never taken."""

    def __init__(self, *, stuck: bool = False) -> None:
        self.at: list[float] = []
        self._stuck = stuck

    async def beat(self) -> None:
        self.at.append(now())
        if self._stuck:
            await asyncio.Event().wait()


def now() -> float:
    return asyncio.get_running_loop().time()


def ends_in(error: type[ServiceError], words: str | None = None) -> AbstractContextManager[object, bool]:
    return pytest.raises(error, match=words)


def patience(beats: Beats | None = None, *, deadline_s: float | None = None, config: ServerConfig = CONFIG) -> Patience:
    return Patience(config, deadline_s=deadline_s, beat=beats.beat if beats else None)


async def test_a_stream_that_waits_gets_heartbeats_and_no_limit() -> None:
    beats = Beats()
    async with patience(beats):
        await asyncio.sleep(10 * HOUR)
    assert beats.at == [pytest.approx(15.0 * (n + 1)) for n in range(len(beats.at))]
    assert len(beats.at) in (2399, 2400)


async def test_an_answer_that_goes_on_is_never_cut() -> None:
    beats = Beats()
    async with patience(beats) as one:
        one.engine_works()
        for _ in range(1000):
            await asyncio.sleep(599.9)
            one.heard()
            one.delivered()
    assert now() > 160 * HOUR


async def test_steady_events_need_no_heartbeats() -> None:
    beats = Beats()
    async with patience(beats) as one:
        one.engine_works()
        for _ in range(1000):
            await asyncio.sleep(14.9)
            one.heard()
            one.delivered()
    assert beats.at == []


async def test_a_heartbeat_comes_exactly_so_long_after_the_last_event() -> None:
    beats = Beats()
    async with patience(beats) as one:
        one.engine_works()
        await asyncio.sleep(14.0)
        one.heard()
        one.delivered()
        await asyncio.sleep(40.0)
    assert beats.at == [pytest.approx(29.0), pytest.approx(44.0)]


@pytest.mark.parametrize("heartbeat_s", [15.0, 7.0, 599.0, 10_000.0])
async def test_silence_ends_exactly_at_the_idle_limit(heartbeat_s: float) -> None:
    config = ServerConfig(idle_timeout_s=600.0, heartbeat_s=heartbeat_s)
    with ends_in(IdleTimeout, "engine said nothing for 600 s"):
        async with patience(Beats(), config=config) as one:
            one.engine_works()
            await asyncio.sleep(100.0)
            one.heard()
            one.delivered()
            await asyncio.sleep(HOUR)
    assert now() == pytest.approx(700.0)


async def test_waiting_for_a_replica_is_not_the_engines_silence() -> None:
    with ends_in(IdleTimeout):
        async with patience(Beats()) as one:
            await asyncio.sleep(HOUR)
            one.engine_works()
            await asyncio.sleep(HOUR)
    assert HOUR + 600.0 <= now() <= HOUR + 615.0


async def test_a_slow_client_is_not_a_silent_engine() -> None:
    beats = Beats()
    async with patience(beats) as one:
        one.engine_works()
        one.heard()
        await asyncio.sleep(599.0)  # the client does not read
        one.delivered()
        assert beats.at == [], "nothing is put behind what it has not taken"
        await asyncio.sleep(599.0)
    assert len(beats.at) == 39


async def test_a_client_that_takes_nothing_is_named_as_the_reason() -> None:
    with ends_in(IdleTimeout, "client took nothing of its answer for 600 s"):
        async with patience(Beats()) as one:
            one.engine_works()
            one.heard()
            await asyncio.sleep(HOUR)
    assert now() == pytest.approx(600.0, abs=15.0)


async def test_heartbeats_that_are_not_taken_do_not_pile_up() -> None:
    beats = Beats(stuck=True)
    async with patience(beats):
        await asyncio.sleep(HOUR)
    await asyncio.sleep(0)
    assert beats.at == [15.0]
    assert len(asyncio.all_tasks()) == 1, "and none is left behind"


async def test_a_whole_answer_has_no_idle_limit_and_no_heartbeats() -> None:
    async with patience() as one:
        one.engine_works()
        await asyncio.sleep(100 * HOUR)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_deadline_is_kept_exactly(stream: bool) -> None:
    beats = Beats()
    with ends_in(DeadlineExceeded, "deadline of 100 s"):
        async with patience(beats if stream else None, deadline_s=100.0) as one:
            one.engine_works()
            while True:
                one.heard()
                one.delivered()
                await asyncio.sleep(1.0)
    assert now() == pytest.approx(100.0)


async def test_a_deadline_of_a_moment() -> None:
    with ends_in(DeadlineExceeded):
        async with patience(deadline_s=1e-9):
            await asyncio.sleep(1.0)


async def test_work_that_ends_in_time_leaves_nothing_behind() -> None:
    async with patience(Beats(), deadline_s=10.0):
        await asyncio.sleep(9.999)
    await asyncio.sleep(HOUR)
    assert asyncio.current_task() is not None
    assert len(asyncio.all_tasks()) == 1


async def test_another_error_is_not_hidden() -> None:
    with pytest.raises(EngineLost):
        async with patience(Beats(), deadline_s=10.0):
            raise EngineLost("gone")


async def test_cancellation_from_outside_stays_one() -> None:
    async def work() -> None:
        async with patience(Beats(), deadline_s=10.0):
            await asyncio.sleep(HOUR)

    task = asyncio.create_task(work())
    await asyncio.sleep(5.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert now() == 5.0


async def test_a_client_that_leaves_at_the_very_deadline_has_left() -> None:
    async def work() -> None:
        async with patience(deadline_s=10.0):
            await asyncio.sleep(HOUR)

    task = asyncio.create_task(work())
    asyncio.get_running_loop().call_at(10.0, task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_task_can_be_cancelled_again_afterwards() -> None:
    with ends_in(DeadlineExceeded):
        async with patience(deadline_s=1.0):
            await asyncio.sleep(HOUR)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await asyncio.sleep(HOUR)
