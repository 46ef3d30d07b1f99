"""What requests cost: held before, settled after, never more than there is."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from terascope.access.principal import Principal
from terascope.cli.assemble import deploy, opened
from terascope.core.config import AccountingConfig, Config, DeploymentConfig
from terascope.core.errors import AllocationExhausted, DeadlineExceeded, EngineLost
from terascope.core.models import Mode
from terascope.core.prices import Price, micro, units
from terascope.core.runs import RunRecord
from terascope.gateway.services import Services
from terascope.inference.inference import Asked
from terascope.store.allocations import AllocationRow
from terascope.testing.databases import new_sqlite
from terascope.testing.faults import Served, faulty
from terascope.testing.replies import KeptReply

ECHO = DeploymentConfig(model="echo", engine="echo", launcher="inprocess")
ROOT = Principal("key_o", "root", frozenset({"operator"}), "root")
PRICE = Price(250, 1000)  # of a model that does not say how large it is
WORDS = "one two three four five six seven eight nine ten eleven twelve"


@pytest.fixture
async def engine() -> AsyncIterator[Served]:
    async with faulty() as served:
        yield served


@pytest.fixture
async def services(tmp_path: Path, engine: Served) -> AsyncIterator[Services]:
    other = DeploymentConfig(model="other", engine="remote", url=engine.url)
    config = Config(deployments=[ECHO, other], accounting=AccountingConfig(slice_tokens=4))
    new_sqlite(tmp_path / "terascope.db")
    async with opened(config, tmp_path, tmp_path / "cache") as one:
        await deploy(one, lambda _name, _message: None)
        await one.fleet.settled()
        await one.access.projects.create("climate", pi="ada")
        await one.access.projects.put_policy("climate", "*", ["query", "embed"], ["interactive"])
        yield one


@pytest.fixture
async def key(services: Services) -> str:
    made, _ = await services.access.keys.create("ada", ["query", "embed"], project="climate")
    return made


def asked(key: str, *, endpoint: str = "chat/completions", text: str = WORDS, **fields: Any) -> Asked:
    message = {"messages": [{"role": "user", "content": text}]}
    body = {"model": "echo", **({"input": text} if endpoint == "embeddings" else message), **fields}

    async def read() -> bytes:
        return orjson.dumps(body)

    mode = Mode.EMBED if endpoint == "embeddings" else Mode.QUERY
    return Asked("req_1", f"Bearer {key}", endpoint, mode, read)


async def granted(services: Services, amount: float) -> None:
    await services.access.allocations.grant(ROOT, "climate", amount)


async def only(services: Services, project: str = "climate") -> AllocationRow:
    [row] = await services.access.allocations.of(project)
    return row


async def record(services: Services) -> RunRecord:
    return await services.recorder.get("req_1")


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"max_tokens": 5}, {"n": 2}, {"stream": True, "n": 2}])
async def test_what_was_used_is_charged_and_nothing_stays_held(
    services: Services, key: str, fields: dict[str, Any]
) -> None:
    await granted(services, 10)
    held: list[int] = []

    async def look() -> None:
        held.append((await only(services)).held)

    await services.inference.answer(asked(key, **fields), KeptReply(before_end=look))
    run, row = await record(services), await only(services)
    assert run.completion_tokens > 0
    assert run.cost == PRICE.cost(run.prompt_tokens, run.completion_tokens)
    assert (row.balance, row.held) == (micro(10) - run.cost, 0)
    assert held == [0]  # settled before the last part went out
    assert (run.project, run.user_id) == ("climate", "ada")


async def test_while_it_runs_an_upper_estimate_is_held(services: Services, engine: Served, key: str) -> None:
    await granted(services, 10)
    task = asyncio.create_task(
        services.inference.answer(asked(key, model="other", fault="silent", max_tokens=100), KeptReply())
    )
    await engine.engine.until(lambda one: one.running == 1)
    row = await only(services)
    assert row.held >= PRICE.cost(len(WORDS), 100)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ((await only(services)).held, (await record(services)).attempts) == (0, 1)


async def test_who_cannot_pay_is_told_what_is_left_and_whom_to_ask(services: Services, key: str) -> None:
    reply = KeptReply()
    with pytest.raises(AllocationExhausted, match="has 0 service units left") as nothing:
        await services.inference.answer(asked(key, max_tokens=5), reply)
    assert "ask its PI (ada) or an operator" in nothing.value.message
    await granted(services, 0.1)
    again = asked(key, max_tokens=1000)
    with pytest.raises(AllocationExhausted, match=r"has 0\.1 service units left, and this request may need 1\.\d+"):
        await services.inference.answer(replace(again, id="req_2"), reply)
    run = await record(services)
    assert (run.outcome, run.status, run.error, run.attempts) == ("refused", 402, "allocation_exhausted", 0)
    row = await only(services)
    assert (row.balance, row.held, reply.begun) == (micro(0.1), 0, False)


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_without_a_limit_ends_where_the_means_end(services: Services, key: str, stream: bool) -> None:
    """The first slice fits and is extended, until there is nothing to extend it with; what was answered is paid."""
    fields: dict[str, Any] = {"model": "other", "fault": "slow", "gap": 0.002, "count": 200, "stream": stream}
    body = await asked(key, **fields).body()
    await granted(services, units(PRICE.cost(len(body) + 528, 40)))
    reply = KeptReply()
    with pytest.raises(AllocationExhausted):
        await services.inference.answer(asked(key, **fields), reply)
    run, row = await record(services), await only(services)
    assert (reply.begun, reply.ended, run.error, row.held) == (stream, False, "allocation_exhausted", 0)
    assert b"w9" in reply.body or not stream
    assert b"w60" not in reply.body
    assert 0 <= row.balance < PRICE.cost(len(body) + 528, 0)
    assert await services.access.allocations._entries.total(row.id) == row.balance


async def test_an_answer_that_failed_costs_nothing(services: Services, engine: Served, key: str) -> None:
    await granted(services, 10)
    with pytest.raises(EngineLost):
        await services.inference.answer(asked(key, model="other", fault="truncated", stream=True), KeptReply())
    run, row = await record(services), await only(services)
    assert (run.cost, row.balance, row.held) == (0, micro(10), 0)


async def test_who_leaves_pays_for_what_was_computed(services: Services, engine: Served, key: str) -> None:
    await granted(services, 10)
    reply = KeptReply()
    task = asyncio.create_task(services.inference.answer(asked(key, model="other", fault="silent"), reply))
    await engine.engine.until(lambda one: one.running == 1)
    reply.gone = True
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    run, row = await record(services), await only(services)
    assert run.outcome == "cancelled"
    assert run.cost == PRICE.cost(len(await asked(key, model="other", fault="silent").body()) // 4, 0)
    assert (row.balance, row.held) == (micro(10) - run.cost, 0)


async def test_a_deadline_is_the_clients_own(services: Services, key: str) -> None:
    await granted(services, 10)
    one = asked(key, model="other", fault="silent")
    with pytest.raises(DeadlineExceeded):
        await services.inference.answer(replace(one, deadline_s=lambda: 0.05), KeptReply())
    assert (await record(services)).cost > 0
    assert (await only(services)).held == 0


async def test_embeddings_pay_for_their_input_and_tokenizing_is_free(services: Services, key: str) -> None:
    with pytest.raises(AllocationExhausted):
        await services.inference.answer(asked(key, endpoint="embeddings"), KeptReply())
    await granted(services, 10)
    await services.inference.answer(replace(asked(key, endpoint="embeddings"), id="req_2"), KeptReply())
    run = await services.recorder.get("req_2")
    assert run.cost == PRICE.cost(run.prompt_tokens, 0) > 0
    free = asked(key, endpoint="tokenize")
    await services.inference.answer(replace(free, id="req_3"), KeptReply())
    assert (await services.recorder.get("req_3")).cost == 0
    assert (await only(services)).balance == micro(10) - run.cost


async def test_the_local_project_holds_nothing_and_counts_all_the_same(services: Services) -> None:
    key, _ = await services.access.keys.create("me", ["query"])
    await services.inference.answer(asked(key), KeptReply())
    run, row = await record(services), await only(services, "local")
    assert (row.balance, row.unlimited) == (-run.cost, True)
    [used] = await services.access.allocations.usage(ROOT)
    assert (used.project, used.user_id, used.requests, used.amount) == ("local", "me", 1, run.cost)
    assert (used.prompt_tokens, used.output_tokens) == (run.prompt_tokens, run.completion_tokens)


async def test_what_an_operator_set_is_the_price(services: Services, key: str) -> None:
    await granted(services, 10)
    version = services.catalog.resolve("echo")
    await services.catalog.set_price(version.name, version.version, Price(3, 7))
    await services.inference.answer(asked(key), KeptReply())
    run = await record(services)
    assert run.cost == 3 * run.prompt_tokens + 7 * run.completion_tokens
    await services.catalog.set_price(version.name, version.version, None)
    assert services.catalog.resolve("echo").price == PRICE
