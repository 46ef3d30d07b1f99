"""Prefixes that are computed once: for whom, told how, and never where it would be wrong or tell something."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from terascope.engines.torch.cache import BLOCK
from terascope.engines.torch.model import CausalModel
from terascope.engines.torch.packed import PackedModel

from .conftest import NAN_TOKEN, Client

CHAT, TEXT = "v1/chat/completions", "v1/completions"
Start = Callable[..., Any]
PROMPT = [(i * 13 + 7) % 290 for i in range(100)]
US = {"X-Terascope-Scope": "project:us"}
THEM = {"X-Terascope-Scope": "project:them"}


def _fresh(model: CausalModel) -> CausalModel:
    """The same model with a cache that knows nothing."""
    packed = PackedModel(model.packed.module, 1600)
    packed.fixed_rows = model.packed.fixed_rows
    return replace(model, packed=packed)


@pytest.fixture
async def client(tiny: CausalModel, start: Start) -> Client:
    found: Client = await start(_fresh(tiny))
    return found


async def _ask(client: Client, scope: dict[str, str], path: str = TEXT, **body: Any) -> Any:
    asked = {"model": "tiny", "max_tokens": 3, "temperature": 0, "ignore_eos": True, **body}
    status, answer, _ = await client.post(path, asked, headers=scope)
    assert status == 200, answer
    return answer


def _cached(answer: Any) -> int:
    return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])


async def _computed(client: Client) -> float:
    """Tokens of prompts that have been computed."""
    async with client.session.get("http://engine/metrics") as response:
        text = await response.text()
    found = re.search(r'^terascope_engine_tokens_total\{kind="prompt"\} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


@pytest.mark.parametrize(("length", "cached"), [(10, 0), (16, 0), (17, 16), (32, 16), (33, 32), (100, 96)])
async def test_the_second_request_computes_what_is_new(client: Client, length: int, cached: int) -> None:
    first = await _ask(client, US, prompt=PROMPT[:length])
    before = await _computed(client)
    second = await _ask(client, US, prompt=PROMPT[:length])
    assert (_cached(first), _cached(second)) == (0, cached)
    assert await _computed(client) - before == length - cached
    assert second["choices"] == first["choices"]


@pytest.mark.parametrize(
    ("first", "second", "fields"),
    [
        (US, THEM, {}),
        (US, {}, {}),
        ({}, {}, {}),
        ({}, US, {}),
        (US, US, {"cache_salt": "pepper"}),
        (US, US, {"reproducible": True}),
        (US, US, {"echo": True, "logprobs": 1}),
    ],
    ids=["another", "nobody after us", "nobody", "us after nobody", "another salt", "reproducible", "scored"],
)
async def test_who_gets_nothing(client: Client, first: Any, second: Any, fields: dict[str, Any]) -> None:
    await _ask(client, first, prompt=PROMPT)
    before = await _computed(client)
    assert _cached(await _ask(client, second, prompt=PROMPT, **fields)) == 0
    assert await _computed(client) - before == len(PROMPT)


async def test_salts(client: Client) -> None:
    found = [_cached(await _ask(client, US, prompt=PROMPT, cache_salt=salt)) for salt in ("a", "b", "a", "b", None)]
    assert found == [0, 0, 96, 96, 0]
    assert _cached(await _ask(client, US, prompt=PROMPT)) == 96
    assert _cached(await _ask(client, THEM, prompt=PROMPT, cache_salt="a")) == 0


async def test_reproducible_requests_leave_nothing_behind(client: Client) -> None:
    await _ask(client, US, prompt=PROMPT, reproducible=True)
    assert _cached(await _ask(client, US, prompt=PROMPT)) == 0


async def test_scored_prompts_are_computed_whole_every_time(client: Client) -> None:
    asked: dict[str, Any] = {"prompt": PROMPT, "echo": True, "logprobs": 2}
    first, second = await _ask(client, US, **asked), await _ask(client, US, **asked)
    assert (_cached(first), _cached(second)) == (0, 0)
    assert len(second["choices"][0]["logprobs"]["token_logprobs"]) == len(PROMPT) + 3
    assert second["choices"] == first["choices"]
    assert _cached(await _ask(client, US, prompt=PROMPT)) == 96  # but they can be found


@pytest.mark.parametrize("changed", [0, 15, 16, 50, 95])
async def test_a_prompt_that_differs_somewhere(client: Client, changed: int) -> None:
    await _ask(client, US, prompt=PROMPT)
    other = [*PROMPT[:changed], 299, *PROMPT[changed + 1 :]]
    assert _cached(await _ask(client, US, prompt=other)) == changed // BLOCK * BLOCK


async def test_a_stream_tells_it_too(client: Client) -> None:
    await _ask(client, US, prompt=PROMPT)
    body = {"model": "tiny", "prompt": PROMPT, "stream": True, "stream_options": {"include_usage": True}}
    async with client.session.post(f"http://engine/{TEXT}", json=body | {"max_tokens": 2}, headers=US) as response:
        text = await response.text()
    assert '"cached_tokens":96' in text


@pytest.mark.parametrize("scored", [False, True])
async def test_several_choices_compute_the_prompt_once(client: Client, scored: bool) -> None:
    asked: dict[str, Any] = {"prompt": PROMPT, "n": 4, "seed": 3, "temperature": 1.5}
    if scored:
        asked |= {"echo": True, "logprobs": 0}
    apart = await _ask(client, {}, **asked)
    before = await _computed(client)
    together = await _ask(client, US, **asked)
    assert await _computed(client) - before == 100 + 3 * 4
    texts = [choice["text"] for choice in together["choices"]]
    assert texts == [choice["text"] for choice in apart["choices"]]
    assert len(set(texts)) == 4
    assert together["usage"] == apart["usage"] | {"prompt_tokens_details": {"cached_tokens": 0}}


async def test_many_at_once_with_one_beginning(client: Client) -> None:
    """All that find it find it whole; none waits for another request."""
    await _ask(client, US, prompt=PROMPT[:64])
    answers = await asyncio.gather(*(_ask(client, US, prompt=[*PROMPT[:64], i, i + 1]) for i in range(20)))
    assert [_cached(answer) for answer in answers] == [64] * 20


async def test_a_conversation(client: Client) -> None:
    messages = [
        {"role": "system", "content": "You are a lighthouse keeper who answers in one sentence."},
        {"role": "user", "content": "Who are you?"},
    ]
    lengths = []
    for turn in range(4):
        answer = await _ask(client, US, CHAT, messages=messages, max_tokens=20)
        lengths.append(answer["usage"]["prompt_tokens"])
        if turn:
            least = lengths[-2] - 1
            assert _cached(answer) >= least // BLOCK * BLOCK - BLOCK  # the end of the last prompt may be read otherwise
        messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})
        messages.append({"role": "user", "content": f"Go on, {turn}."})
    assert lengths == sorted(lengths)


async def test_who_wants_no_answer_is_told_too(client: Client) -> None:
    await _ask(client, US, prompt=PROMPT)
    found = await _ask(client, US, prompt=PROMPT, echo=True, max_tokens=0)
    assert (_cached(found), found["usage"]["completion_tokens"]) == (96, 0)


async def test_what_did_not_fit_any_more_is_forgotten(tiny: CausalModel, start: Start) -> None:
    """The cache holds 1,600 tokens: four other prompts of 450 push the first one out, whole and without harm."""
    client: Client = await start(_fresh(tiny))
    first = await _ask(client, US, prompt=PROMPT)
    for other in range(4):
        await _ask(client, US, prompt=[(other * 37 + i) % 290 for i in range(450)])
    again = await _ask(client, US, prompt=PROMPT)
    assert _cached(again) < 96
    assert again["choices"] == first["choices"]
    pool = client.server.loop._schedule._pool
    pool.check()
    assert pool.free == pool.blocks


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"max_tokens": 0, "echo": True},
        {"max_tokens": 0, "echo": True, "logprobs": 0, "n": 2},
        {"echo": True, "logprobs": 0},
        {"n": 3},
    ],
    ids=str,
)
async def test_what_is_not_a_number_is_never_shared(broken_tiny: CausalModel, start: Start, fields: Any) -> None:
    client: Client = await start(_fresh(broken_tiny))
    fine = [*PROMPT[:40], 5, 6]
    expected = await _ask(client, THEM, prompt=fine)
    bad = {"model": "tiny", "prompt": [*PROMPT[:40], NAN_TOKEN, *PROMPT[40:80]], "max_tokens": 3, **fields}
    for _ in range(2):
        status, answer, _ = await client.post(TEXT, bad, headers=US)
        assert (status, answer.get("error", {}).get("code")) == (500, "engine_nan")
    found = await _ask(client, US, prompt=fine)
    assert _cached(found) == 0
    assert found["choices"] == expected["choices"]
    others = await asyncio.gather(*(_ask(client, {}, prompt=fine) for _ in range(8)))  # in the bad ones' blocks
    assert all(other["choices"] == expected["choices"] for other in others)


async def test_the_beginning_of_an_answer_that_broke_off_can_be_used(broken_tiny: CausalModel, start: Start) -> None:
    client: Client = await start(_fresh(broken_tiny))
    word = broken_tiny.vocabulary.decode([NAN_TOKEN])
    bad = {"model": "tiny", "prompt": PROMPT[:40], "max_tokens": 30, "logit_bias": {str(NAN_TOKEN): 50}}
    status, answer, _ = await client.post(TEXT, bad | {"guided_choice": [f"aaaa{word}bbbb"]}, headers=US)
    assert (status, answer["error"]["code"]) == (500, "engine_nan")
    again, expected = await _ask(client, US, prompt=PROMPT[:41]), await _ask(client, {}, prompt=PROMPT[:41])
    assert (_cached(again), _cached(expected)) == (32, 0)
    assert again["choices"] == expected["choices"]
