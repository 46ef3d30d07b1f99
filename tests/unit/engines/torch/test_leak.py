"""Ten thousand requests of every kind leave nothing behind."""

import asyncio
import ctypes
import gc
from collections.abc import Callable
from typing import Any

import pytest

from terascope.engines.torch.jobs import Job
from terascope.engines.torch.loop import BatchLoop, RowJob
from terascope.engines.torch.model import CausalModel
from terascope.engines.torch.rows import RowPlan
from terascope.engines.torch.sampling import Sampling

from .conftest import Client
from .test_loop import _becomes, _idle

MANY, WINDOWS, MOST_WINDOWS, WAVE, BY_HTTP = 2000, 5, 12, 200, 10
_MALLINFO2 = ["arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"]
GROWTH_MIB, GROWTH_OBJECTS = 4, 500


def _job(number: int) -> RowJob:
    """One of five kinds: greedy, drawn with a common beginning, three choices, with log-probabilities, no answer.

    Grammars are left out: their library keeps some of what it builds, at a rate that falls.
    """
    prompt = [number % 200 + 20, 7, number % 90 + 20]
    kind = number % 5
    if kind == 1:
        plan = RowPlan([30] * 40 + prompt, Sampling(seed=number), 3, scope=f"scope {number % 7}")
        return Job(f"{number}", [plan])
    if kind == 2:
        return Job(f"{number}", [RowPlan(prompt, Sampling(seed=number, choice=i), 2, scope="") for i in range(3)])
    if kind == 3:
        return Job(f"{number}", [RowPlan(prompt, Sampling(seed=number, logprobs=2, top_p=0.9), 4, stops=("ab",))])
    return Job(f"{number}", [RowPlan(prompt, Sampling(temperature=0), 2 if kind == 0 else 0)])


async def _end(loop: BatchLoop, job: RowJob, number: int) -> None:
    """Wait for a job's end; every ninth is cancelled instead."""
    if number % 9 == 0:
        loop.cancel(job)
        return
    left = len(job.work)
    while left:
        event = await job.news.get()
        assert event.error is None
        left -= event.finish is not None


async def _ask_many(client: Client, first: int) -> None:
    loop = client.server.loop
    for start in range(first, first + MANY, WAVE):
        jobs = {number: _job(number) for number in range(start, start + WAVE - BY_HTTP)}
        for job in jobs.values():
            loop.submit(job)
        asked = {"prompt": [5, start % 300 + 9], "max_tokens": 2, "n": 2}
        over_http = [client.events("v1/completions", **asked, seed=i) for i in range(BY_HTTP)]
        await asyncio.gather(*over_http, *(_end(loop, job, number) for number, job in jobs.items()))
    await _becomes(lambda: _idle(loop))


class _MallocInfo(ctypes.Structure):
    """`struct mallinfo2` of glibc."""

    _fields_ = [(name, ctypes.c_size_t) for name in _MALLINFO2]


def _held() -> tuple[float, int]:
    """MiB that the C library has lent and not got back, and how many objects Python keeps.

    The process's size would not do: it grows for a while by what the allocator keeps for each thread.
    """
    gc.collect()
    library = ctypes.CDLL(None)
    library.mallinfo2.restype = _MallocInfo
    info = library.mallinfo2()
    return (info.uordblks + info.hblkhd) / 2**20, len(gc.get_objects())


@pytest.mark.slow
async def test_ten_thousand_requests_leave_nothing(tiny: CausalModel, start: Callable[..., Any]) -> None:
    client: Client = await start(tiny, max_batch=32, step_tokens=256)
    await _ask_many(client, 0)  # warms up
    held = [_held()]
    growths: list[float] = []
    while len(growths) < WINDOWS or (min(growths) >= GROWTH_MIB and len(growths) < MOST_WINDOWS):
        await _ask_many(client, len(held) * MANY)
        held.append(_held())
        growths.append(held[-1][0] - held[-2][0])
    assert min(growths) < GROWTH_MIB  # pools that fill up show in some windows, what is lost with each request in all
    assert held[-1][1] - held[0][1] < GROWTH_OBJECTS
    client.server.loop._packed.pool.check()
    assert len(asyncio.all_tasks()) <= BY_HTTP + 2  # kept connections, and this test
