"""Work beside the running batch: errands between steps, batches of rows that others wait for together."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from terascope.core.errors import BadRequest, InternalError, Overloaded
from terascope.engines.torch.model import CausalModel
from terascope.engines.torch.tracing.batcher import Batcher
from terascope.engines.torch.tracing.row import Bench, RowTracer, no_sources
from terascope.internals.plan import Capture

from .conftest import Client
from .driver import Driver, plan
from .plans import planned, prompt_of, trace, where


class Now:
    """Does at once what should be done between steps, and says who waits for it to begin."""

    def __init__(self) -> None:
        self.free = asyncio.Event()
        self.free.set()

    async def between_steps(self, work: Callable[[], Any]) -> Any:
        await self.free.wait()
        return work()


def batcher(thread: Any, seen: list[list[int]], most: int = 10) -> Batcher[int]:
    def compute(items: Sequence[int]) -> None:
        seen.append(list(items))
        if any(item < 0 for item in items):
            raise BadRequest(f"{min(items)} is less than nothing")

    return Batcher(thread, compute, abs, most)


async def test_items_of_several_calls_share_batches() -> None:
    seen: list[list[int]] = []
    one = batcher(Now(), seen)
    await asyncio.gather(one.run([3, 3]), one.run([4, 30, 2]), one.run([1]))
    assert seen == [[3, 3, 4], [30], [2, 1]]


async def test_who_is_wrong_is_so_alone() -> None:
    seen: list[list[int]] = []
    one = batcher(Now(), seen)
    results = await asyncio.gather(one.run([1, 2]), one.run([-3]), one.run([4]), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), BadRequest, type(None)]
    assert seen == [[1, 2, -3, 4], [1], [2], [-3], [4]]


async def test_who_leaves_is_not_waited_for() -> None:
    seen: list[list[int]] = []
    thread = Now()
    thread.free.clear()
    one = batcher(thread, seen, most=3)
    first, second = asyncio.create_task(one.run([3])), asyncio.create_task(one.run([3, 3]))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    thread.free.set()
    await first
    await one.run([2])
    assert seen == [[3], [2]]


async def test_errands_between_steps(client: Client) -> None:
    loop = client.server.loop
    assert await loop.between_steps(lambda: 7) == 7
    with pytest.raises(BadRequest, match="no"):
        await loop.between_steps(lambda: (_ for _ in ()).throw(BadRequest("no")))
    with pytest.raises(InternalError) as found:
        await loop.between_steps(lambda: 1 // 0)
    assert "ZeroDivisionError" in found.value.detail
    text, number = await asyncio.gather(client.text("the", max_tokens=5), loop.between_steps(lambda: 8))
    assert (isinstance(text, str), number) == (True, 8)


async def test_errands_of_a_thread_that_stops(client: Client) -> None:
    loop = client.server.loop
    ready, go = asyncio.Event(), asyncio.Event()
    running = asyncio.get_running_loop()

    def hold() -> None:
        running.call_soon_threadsafe(ready.set)
        asyncio.run_coroutine_threadsafe(go.wait(), running).result()

    holding = asyncio.create_task(loop.between_steps(hold))
    await ready.wait()
    late, left = (asyncio.create_task(loop.between_steps(lambda: 9)) for _ in range(2))
    await asyncio.sleep(0)
    left.cancel()
    loop.stop()
    go.set()
    await holding
    with pytest.raises(Overloaded):
        await late
    await asyncio.gather(left, return_exceptions=True)
    assert left.cancelled()


def test_rows_with_whole_prompts_share_steps_with_their_kind_only(tiny: CausalModel, bench: Bench) -> None:
    one = trace(Capture("p", where("blocks.0.attention.probabilities")), most=3)
    driver = Driver(tiny, step_tokens=20)
    driver._packed._taps = bench.taps
    steps: list[tuple[bool, list[int]]] = []
    compute = driver._packed.run

    def watched(step: Any, between: Any = None) -> Any:
        steps.append((bool(step.attached), [span.count for span in step.spans]))
        return compute(step, between)

    driver._packed.run = watched  # type: ignore[method-assign]
    plain = [driver.ask(plan(prompt_of(n, 40), 4)) for n in range(2)]
    traced = []
    for number in (3, 4):
        tracer = RowTracer(one, prompt_of(number, 30), bench, no_sources)
        traced.append((tracer, driver.ask(planned(one, prompt_of(number, 30), tracer))))
    driver.finish()
    assert [30] in [counts[:1] for attached, counts in steps if attached]
    assert all(len(row.tokens()) == 4 for row in plain)
    for tracer, _ in traced:
        assert tracer.found("p")[""].shape == (32, 4, 32)
        assert not tracer.found("p")[""][:30].triu(0)[0, 0, 1:].any()
    kinds = [attached for attached, _ in steps]
    assert True in kinds[:2]
    assert False in kinds[:2]
