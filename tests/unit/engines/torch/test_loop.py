"""Rows among neighbours: joining, leaving, failing, waiting for memory."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import aiohttp
import pytest
import torch

from terascope.engines.torch.loop import BatchLoop
from terascope.engines.torch.model import CausalModel
from terascope.engines.torch.packed import PackedModel, Step
from terascope.protocol.openai import ErrorBody

from .conftest import NAN_TOKEN, Client

TEXT = "v1/completions"
Start = Callable[..., Any]
NO_END = {"2": -100}
LONG: dict[str, Any] = {"prompt": "x", "logit_bias": NO_END, "temperature": 2.0}  # goes on to the context's end


def _idle(loop: BatchLoop) -> bool:
    held = loop._schedule
    return not (held.running or held.waiting or loop._rows or loop._job_of) and held._pool.free == held._pool.blocks


async def _becomes(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the loop's thread knows no events of ours
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("neighbours", [1, 7, 31])
async def test_a_seed_means_the_same_among_neighbours(tiny: CausalModel, start: Start, neighbours: int) -> None:
    client: Client = await start(tiny, max_batch=32)
    asked = {"prompt": "The quick brown fox", "max_tokens": 20, "seed": 42, "logprobs": 3, "temperature": 1.3}
    greedy = {"prompt": "Paris", "max_tokens": 20, "temperature": 0, "logprobs": 3}
    alone = [await client.ask(TEXT, **asked), await client.ask(TEXT, **greedy)]
    others = [
        client.ask(TEXT, prompt="word " * (i % 9 + 1), max_tokens=5 + i, seed=i, top_p=0.9, logit_bias=NO_END)
        for i in range(neighbours - 1)
    ]
    together = (await asyncio.gather(*others, client.ask(TEXT, **asked), client.ask(TEXT, **greedy)))[-2:]
    for one, two in zip(alone, together, strict=True):
        assert one["choices"][0]["text"] == two["choices"][0]["text"]
        mine, theirs = (x["choices"][0]["logprobs"]["token_logprobs"] for x in (one, two))
        assert mine == pytest.approx(theirs, abs=1e-4)
    await _becomes(lambda: _idle(client.server.loop))


async def test_rows_that_lose_their_memory_lose_nothing_else(tiny: CausalModel, start: Start) -> None:
    """Eight rows of up to 500 tokens in a cache of 1,600: most are computed more than once."""
    client: Client = await start(tiny)
    asked = [{**LONG, "prompt": [i + 5] * 150, "max_tokens": 150, "seed": i, "logprobs": 0} for i in range(8)]
    alone = [await client.ask(TEXT, **one) for one in asked]
    together = await asyncio.gather(*(client.ask(TEXT, **one) for one in asked))
    assert client.server.loop._schedule.preemptions > 0
    for one, two in zip(alone, together, strict=True):
        assert one["choices"][0]["text"] == two["choices"][0]["text"]
    await _becomes(lambda: _idle(client.server.loop))


async def test_more_requests_than_places(tiny: CausalModel, start: Start) -> None:
    client: Client = await start(tiny, max_batch=2)
    asked = {"max_tokens": 6, "logit_bias": NO_END}
    answers = await asyncio.gather(*(client.ask(TEXT, prompt=f"number {i}", seed=i, **asked) for i in range(40)))
    assert all(answer["usage"]["completion_tokens"] == 6 for answer in answers)
    assert answers[7]["choices"][0]["text"] == await client.text("number 7", seed=7, **asked)


@pytest.mark.parametrize("stream", [False, True])
async def test_who_leaves_frees_the_place(tiny: CausalModel, start: Start, stream: bool) -> None:
    client: Client = await start(tiny, max_batch=1)
    loop = client.server.loop
    body = {"model": "tiny", "stream": stream, **LONG}
    leaving = asyncio.create_task(client.session.post(f"http://engine/{TEXT}", json=body))
    await _becomes(lambda: bool(loop._schedule.running))
    if stream:
        response = await leaving
        await response.content.readany()
        response.close()
    else:
        leaving.cancel()
        with suppress(asyncio.CancelledError):
            await leaving
    await _becomes(lambda: _idle(loop))


async def test_who_leaves_the_queue_is_forgotten(tiny: CausalModel, start: Start) -> None:
    client: Client = await start(tiny, max_batch=1)
    loop = client.server.loop
    first = asyncio.create_task(client.ask(TEXT, **LONG, seed=1))
    await _becomes(lambda: bool(loop._schedule.running))
    second = asyncio.create_task(client.ask(TEXT, **LONG, seed=2))
    await _becomes(lambda: bool(loop._schedule.waiting))
    second.cancel()
    await _becomes(lambda: not loop._schedule.waiting)
    assert (await first)["usage"]["completion_tokens"] > 400


async def test_what_is_not_a_number_fails_one_request(broken_tiny: CausalModel, start: Start) -> None:
    client: Client = await start(broken_tiny)
    asked = {"prompt": "fine", "max_tokens": 60, "logit_bias": NO_END | {str(NAN_TOKEN): -100}, "seed": 3}
    alone = await client.text(**asked)
    bad = {"model": "tiny", "prompt": [5] * 30 + [NAN_TOKEN] * 30, "max_tokens": 5}
    fine, *failed = await asyncio.gather(client.text(**asked), *(client.post(TEXT, bad) for _ in range(3)))
    assert fine == alone
    for status, answer, _ in failed:
        assert (status, answer["error"]["code"]) == (500, "engine_nan")
    await _becomes(lambda: _idle(client.server.loop))
    again = await asyncio.gather(*(client.text(**asked) for _ in range(8)))  # in the blocks that the bad ones had
    assert set(again) == {alone}


async def test_a_bad_number_late_ends_the_stream_with_an_error(broken_tiny: CausalModel, start: Start) -> None:
    client: Client = await start(broken_tiny)
    grammar = {"structured_outputs": {"choice": ["aaaa" + broken_tiny.vocabulary.decode([NAN_TOKEN]) + "bbbb"]}}
    asked = {"prompt": "x", "logit_bias": {str(NAN_TOKEN): 50}, "max_tokens": 20, "seed": 1, **grammar}
    events = await client.events(TEXT, **asked)
    assert "choices" in events[0]
    error = ErrorBody.model_validate(events[-1]).error
    assert error.code == "engine_nan"
    assert "[DONE]" not in events


class Failing(PackedModel):
    """A model whose computer has too little memory for some tokens, and a broken one for others."""

    def run(self, step: Step, between: Callable[[float], None] | None = None) -> torch.Tensor:
        if 77 in step.tokens:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            )
        if 78 in step.tokens:
            raise IndexError("a mistake")
        return super().run(step, between)


@pytest.mark.parametrize(("token", "status", "code"), [(77, 503, "engine_out_of_memory"), (78, 500, "internal_error")])
async def test_a_step_that_fails_fails_its_requests_and_no_more(
    tiny: CausalModel, start: Start, token: int, status: int, code: str
) -> None:
    packed = Failing(tiny.packed.module, 1600)
    client: Client = await start(CausalModel(packed, tiny.vocabulary, tiny.context_length, tiny.dtype))
    found, answer, _ = await client.post(TEXT, {"model": "tiny", "prompt": [5, token], "n": 2})
    assert (found, answer["error"]["code"]) == (status, code)
    assert "mistake" not in answer["error"]["message"]
    assert (await client.ask(TEXT, prompt=[5, 6], max_tokens=1))["usage"]["completion_tokens"] == 1
    await _becomes(lambda: _idle(client.server.loop))


async def test_stopping_ends_answers_with_an_error(tiny: CausalModel, start: Start) -> None:
    client: Client = await start(tiny, max_batch=1)
    loop = client.server.loop
    running = asyncio.create_task(client.events(TEXT, **LONG))
    await _becomes(lambda: bool(loop._schedule.running) and loop._schedule.running[0].made > 2)
    waiting = asyncio.create_task(client.post(TEXT, {"model": "tiny", **LONG}))
    await _becomes(lambda: bool(loop._schedule.waiting))
    loop.stop()
    events = await running
    assert events[-1]["error"]["code"] == "overloaded"
    assert "[DONE]" not in events
    status, answer, _ = await waiting
    assert (status, answer["error"]["code"]) == (503, "overloaded")


async def test_one_choice_of_many_may_end_long_before_the_others(client: Client) -> None:
    found = await client.ask(TEXT, prompt="x", n=6, max_tokens=80, seed=11, temperature=1.5)
    made = [choice["finish_reason"] for choice in found["choices"]]
    assert len(made) == 6
    assert set(made) <= {"stop", "length"}
    assert found["usage"]["completion_tokens"] < 6 * 80 or set(made) == {"length"}


async def test_loading_and_secrets(tiny: CausalModel, start: Start) -> None:
    client: Client = await start(tiny, secret="open sesame")
    shell = client.server.shell
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "open sesame"}):
        for path in ("health", "metrics", "terascope/info"):
            async with client.session.get(f"http://engine/{path}", headers=headers) as response:
                assert response.status == 401
        assert (await client.post(TEXT, {"model": "tiny", **LONG}, headers=headers))[0] == 401
    right = {"Authorization": "Bearer open sesame"}
    served, shell.served, shell.stage = shell.served, None, "reading weights"
    async with client.session.get("http://engine/health", headers=right) as response:
        assert response.status == 503
        assert await response.json() == {"status": "loading", "message": "reading weights"}
    status, answer, headers = await client.post(TEXT, {"model": "tiny", **LONG}, headers=right)
    assert (status, answer["error"]["code"], headers["retry-after"]) == (503, "model_unavailable", "1")
    shell.served = served
    async with client.session.get("http://engine/health", headers=right) as response:
        assert response.status == 200


async def test_a_body_that_does_not_come(client: Client) -> None:
    """A client that leaves in the middle of its request is no error of ours."""
    connector = client.session.connector
    assert isinstance(connector, aiohttp.UnixConnector)
    reader, writer = await asyncio.open_unix_connection(connector.path)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert reader is not None
    assert (await client.ask(TEXT, prompt="x", max_tokens=1))["usage"]["completion_tokens"] == 1
