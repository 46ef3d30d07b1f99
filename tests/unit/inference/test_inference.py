"""The one page: six hops in order, and a record whatever happens on the way."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from terascope.cli.assemble import deploy, opened
from terascope.core.config import Config, DeploymentConfig
from terascope.core.errors import (
    BadRequest,
    BodyTooLarge,
    ModelNotFound,
    NotAllowed,
    NotAuthenticated,
    UnsupportedFeature,
)
from terascope.core.models import Mode
from terascope.core.runs import RunRecord
from terascope.gateway.services import Services
from terascope.inference.inference import Asked
from terascope.protocol.sse import DONE
from terascope.testing.databases import new_sqlite
from terascope.testing.faults import Served, faulty
from terascope.testing.replies import KeptReply

ECHO = DeploymentConfig(model="echo", engine="echo", launcher="inprocess")


@pytest.fixture
async def engine() -> AsyncIterator[Served]:
    async with faulty() as served:
        yield served


@pytest.fixture
async def services(tmp_path: Path, engine: Served) -> AsyncIterator[Services]:
    other = DeploymentConfig(model="other", engine="remote", url=engine.url)
    new_sqlite(tmp_path / "terascope.db")
    async with opened(Config(deployments=[ECHO, other]), tmp_path, tmp_path / "cache") as one:
        await deploy(one, lambda _name, _message: None)
        await one.fleet.settled()
        yield one


@pytest.fixture
async def key(services: Services) -> str:
    return (await services.access.keys.create("tests", ["query"]))[0]


def asked(key: str, *, mode: Mode = Mode.QUERY, request_id: str = "req_1", **fields: Any) -> Asked:
    endpoint = "chat/completions" if mode is Mode.QUERY else "embeddings"
    body = orjson.dumps({"model": "echo", "messages": [{"role": "user", "content": "hi"}], **fields})

    async def read() -> bytes:
        return body

    return Asked(request_id, f"Bearer {key}" if key else "", endpoint, mode, read)


async def records(services: Services) -> list[RunRecord]:
    return await services.recorder.newest(100)


@pytest.mark.parametrize("stream", [True, False])
async def test_the_record_is_there_before_the_last_part(services: Services, key: str, stream: bool) -> None:
    found: list[RunRecord] = []

    async def look() -> None:
        found.append(await services.recorder.get("req_1"))

    reply = KeptReply(before_end=look)
    await services.inference.answer(asked(key, stream=stream), reply)
    [record] = found
    assert (record.outcome, record.status, record.completion_tokens) == ("completed", 200, 1)
    assert reply.ended
    assert reply.parts[-1].endswith(DONE if stream else b"}")
    assert (reply.status, reply.headers["x-terascope-model"]) == (200, record.model)


async def test_who_is_not_known_leaves_no_record_and_sends_nothing(services: Services) -> None:
    async def read() -> bytes:
        raise AssertionError("the body of a stranger is not read")

    for key in ("", "Bearer tera-nobody"):
        with pytest.raises(NotAuthenticated):
            await services.inference.answer(Asked("req_1", key, "completions", Mode.QUERY, read), KeptReply())
    assert await records(services) == []


async def test_who_may_not_is_recorded(services: Services, key: str) -> None:
    with pytest.raises(NotAllowed):
        await services.inference.answer(asked(key, mode=Mode.EMBED, input="a"), KeptReply())
    [record] = await records(services)
    assert (record.outcome, record.status, record.error) == ("refused", 403, "not_allowed")
    assert (record.model, record.attempts) == (services.catalog.resolve("echo").public_name, 0)


async def test_what_cannot_be_read_is_recorded(services: Services, key: str) -> None:
    async def too_large() -> bytes:
        raise BodyTooLarge("too large")

    def bad() -> float:
        raise BadRequest("no number")

    async def fine() -> bytes:
        return b"{}"

    bearer = f"Bearer {key}"
    with pytest.raises(BodyTooLarge):
        await services.inference.answer(Asked("req_1", bearer, "completions", Mode.QUERY, too_large), KeptReply())
    with pytest.raises(BadRequest, match="no number"):
        await services.inference.answer(Asked("req_2", bearer, "completions", Mode.QUERY, fine, bad), KeptReply())
    with pytest.raises(ModelNotFound):
        await services.inference.answer(asked(key, request_id="req_3", model="nobody"), KeptReply())
    assert {one.id: one.error for one in await records(services)} == {
        "req_1": "body_too_large",
        "req_2": "invalid_request",
        "req_3": "model_not_found",
    }


@pytest.mark.parametrize("gone", [True, False])
async def test_who_cancelled_is_recorded(services: Services, engine: Served, key: str, gone: bool) -> None:
    reply = KeptReply()
    task = asyncio.create_task(services.inference.answer(asked(key, model="other", fault="silent"), reply))
    await engine.engine.until(lambda one: one.running == 1)
    reply.gone = gone
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    [replica] = services.fleet.replicas_for(services.catalog.resolve("other").public_name)
    assert (replica.in_flight, reply.begun) == (0, False)
    [record] = await records(services)
    expected = ("cancelled", 499, "client_left") if gone else ("failed", 503, "server_stopping")
    assert (record.outcome, record.status, record.error) == expected


async def test_a_failure_of_our_own_is_recorded_as_one(services: Services, key: str) -> None:
    class Broken(KeptReply):
        async def write(self, data: bytes) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await services.inference.answer(asked(key, stream=True), Broken())
    [record] = await records(services)
    assert (record.outcome, record.status, record.error) == ("failed", 500, "internal_error")


async def test_every_request_is_counted(services: Services, key: str) -> None:
    for number in range(3):
        await services.inference.answer(asked(key, request_id=f"req_{number}"), KeptReply())
    await asyncio.sleep(0)  # counting waits until the answer is out
    name = services.catalog.resolve("echo").public_name
    counted = f'terascope_requests_total{{endpoint="chat/completions",model="{name}",outcome="completed"}} 3.0'
    assert counted in services.metrics.text().decode()


VECTORS = [{"role": "user", "content": [{"type": "prompt_embeds", "prompt_embeds": "AAAA"}]}]


async def test_vectors_in_place_of_text_need_the_right_to_embed(services: Services, key: str) -> None:
    with pytest.raises(NotAllowed, match="embed"):
        await services.inference.answer(asked(key, messages=VECTORS), KeptReply())


@pytest.mark.parametrize("model", ["echo", "other"])
async def test_an_engine_that_takes_no_vectors_is_not_asked(services: Services, model: str) -> None:
    """A remote one may know them in another form only, which would be a pickle."""
    both, _ = await services.access.keys.create("tests", ["query", "embed"])
    with pytest.raises(UnsupportedFeature, match="prompt_embeds"):
        await services.inference.answer(asked(both, model=model, messages=VECTORS), KeptReply())
