"""Requests that fail, that leave, or that are refused leave nothing behind either."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from terascope.core.errors import EngineNan
from terascope.engines.torch.jobs import Job
from terascope.engines.torch.loop import RowJob
from terascope.engines.torch.model import CausalModel
from terascope.engines.torch.packed import PackedModel
from terascope.engines.torch.respond import News

from .conftest import NAN_TOKEN, Client
from .driver import plan
from .test_leak import GROWTH_MIB, GROWTH_OBJECTS, _held
from .test_loop import _becomes, _idle

TEXT = "v1/completions"
SCOPE = {"X-Terascope-Scope": "us"}
WINDOW, WINDOWS, WAVE = 1000, 4, 100
MOST = 40  # tokens of an answer. Together with the small steps this bounds how many shapes are computed: oneDNN keeps
# something for each that it has seen, which is no leak but would hide one


async def _over_http(client: Client, number: int, prompt: list[int]) -> str:
    """One that is refused, one that fails, or one whose client leaves after its first bytes."""
    asked: dict[str, Any] = {"model": "tiny", "prompt": prompt, "max_tokens": MOST, "seed": number, "ignore_eos": True}
    if number % 3 == 0:
        status, _, _ = await client.post(TEXT, asked | {"prompt": []})
        return f"status {status}"
    if number % 3 == 1:
        status, _, _ = await client.post(TEXT, asked | {"prompt": [*prompt, NAN_TOKEN], "n": 2}, headers=SCOPE)
        return f"status {status}"
    response = await client.session.post(f"http://engine/{TEXT}", json=asked | {"stream": True}, headers=SCOPE)
    await response.content.readany()
    response.close()
    return "left"


async def _directly(client: Client, number: int, prompt: list[int]) -> str:
    """One that fails, one that is cancelled after its first news, or three choices that are cancelled at once."""
    kinds = (
        [plan([*prompt, NAN_TOKEN], 2, scope="us")],
        [plan(prompt, MOST, seed=number, reproducible=number % 2 == 0)],
        [plan(prompt, MOST, scope="us")] * 3,
    )
    job: RowJob = Job("", kinds[number % 3])
    loop = client.server.loop
    loop.submit(job)
    try:
        if number % 3 < 2:
            await News(job).next()
    except EngineNan:
        return "not a number"
    finally:
        loop.cancel(job)
    return "cancelled"


async def _window(client: Client, first: int) -> set[str]:
    found: set[str] = set()
    for start in range(first, first + WINDOW, WAVE):
        numbers = range(start, start + WAVE)
        prompts = [[(number * 7 + i) % 290 for i in range(1 + number % 37)] for number in numbers]
        kinds = [_over_http if number % 5 == 0 else _directly for number in numbers]
        found |= set(await asyncio.gather(*(k(client, n, p) for k, n, p in zip(kinds, numbers, prompts, strict=True))))
    await _becomes(lambda: _idle(client.server.loop))
    client.server.loop._schedule._pool.check()
    assert not client.server.loop._followers
    assert not any(map(len, client.server.loop._schedule._reading.values()))
    return found


@pytest.mark.slow
async def test_failures_leave_nothing(broken_tiny: CausalModel, start: Callable[..., Any]) -> None:
    packed = PackedModel(broken_tiny.packed.module, 4000)
    packed.fixed_rows = broken_tiny.packed.fixed_rows
    client: Client = await start(replace(broken_tiny, packed=packed), max_batch=32, step_tokens=1)
    found = await _window(client, 0)
    assert found == {"status 400", "status 500", "left", "cancelled", "not a number"}
    held = [_held()]
    for window in range(1, WINDOWS + 1):
        await _window(client, window * WINDOW)
        held.append(_held())
    assert min(after[0] - before[0] for before, after in pairwise(held)) < GROWTH_MIB
    assert held[-1][1] - held[0][1] < GROWTH_OBJECTS
    assert len(asyncio.all_tasks()) <= WAVE // 5 + 2  # kept connections, and this test
