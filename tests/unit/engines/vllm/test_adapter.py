"""The adapter against servers that say what vLLM says when things go wrong."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from terascope.core.config import DeploymentConfig
from terascope.core.errors import EngineUnreachable
from terascope.core.models import ModelVersion, Task
from terascope.engines.contract import Endpoint, Engine, EngineCall, Launch
from terascope.engines.echo.httpd import Exchange, HttpServer
from terascope.engines.vllm.adapter import KIND

_LAUNCH = Launch(
    DeploymentConfig(model="big", engine="vllm", max_batch=7),
    ModelVersion("big", "1", "digest", "path:/m", "/m", Task.GENERATE, 0),
)
_CHAT = "/v1/chat/completions"
_WELL: dict[str, tuple[int, Any]] = {
    "/health": (200, b""),
    "/v1/models": (200, {"data": [{"id": "big@1", "max_model_len": 100}]}),
    "/version": (200, {"version": "0.32.0"}),
}


@asynccontextmanager
async def vllm(answers: dict[str, tuple[int, Any]], seen: list[Exchange] | None = None) -> AsyncIterator[Engine]:
    async def handle(exchange: Exchange) -> None:
        if seen is not None:
            seen.append(exchange)
        status, said = {**_WELL, **answers}.get(exchange.request.path, (404, {"detail": "Not Found"}))
        await exchange.reply(status, said if isinstance(said, bytes) else orjson.dumps(said))

    server = HttpServer(handle)
    await server.listen()
    engine = KIND.connect(_LAUNCH, Endpoint(server.url, "secret"))
    try:
        yield engine
    finally:
        await engine.aclose()
        await server.aclose()


async def test_what_a_probe_learns() -> None:
    async with vllm({}) as engine:
        info = await engine.probe()
    assert (info.engine, info.version, info.context_length, info.slots) == ("vllm", "0.32.0", 100, 7)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"/health": (503, b"")}, "status 503"),
        ({"/v1/models": (401, {"error": "Unauthorized"})}, "Unauthorized"),
        ({"/v1/models": (200, {"data": [{"id": "other"}]})}, "serves other, not 'big@1'"),
        ({"/v1/models": (200, b"?")}, "serves nothing"),
    ],
)
async def test_a_server_that_cannot_be_used(answers: dict[str, tuple[int, Any]], words: str) -> None:
    async with vllm(answers) as engine:
        with pytest.raises(EngineUnreachable, match=words):
            await engine.probe()


@pytest.mark.parametrize("words", ["EngineCore encountered an issue. See stack trace", "EngineDeadError()"])
async def test_a_dead_engine_is_unreachable(words: str) -> None:
    """So that the request goes to another replica."""
    async with vllm({_CHAT: (500, {"error": {"message": words, "type": "InternalServerError"}})}) as engine:
        with pytest.raises(EngineUnreachable, match="died"):
            await engine.generate(EngineCall("req_1", "chat/completions", b"{}"))


@pytest.mark.parametrize(
    ("status", "said", "message"),
    [
        (400, {"error": {"message": "too long", "type": "BadRequestError", "code": 400}}, "too long"),
        (400, {"detail": "There was an error parsing the body"}, "There was an error parsing the body"),
        (500, {"error": {"message": "a bug", "type": "x"}}, "a bug"),
        (401, {"error": "Unauthorized"}, "Unauthorized"),
        (502, b"<html><title>Bad gateway</title></html>", "Bad gateway"),
    ],
)
async def test_errors_have_one_shape(status: int, said: object, message: str) -> None:
    async with vllm({_CHAT: (status, said)}) as engine:
        answer = await engine.generate(EngineCall("req_1", "chat/completions", b"{}"))
        body = orjson.loads(b"".join([chunk async for chunk in answer.chunks()]))
        await answer.aclose()
    assert answer.status == status
    assert body["error"]["message"] == message
    assert isinstance(body["error"]["type"], str)


async def test_what_is_refused_here_is_not_sent() -> None:
    seen: list[Exchange] = []
    async with vllm({}, seen) as engine:
        call = EngineCall("req_1", "chat/completions", b'{"prompt_embeds":"AAAA"}')
        answer = await engine.generate(call)
        body = orjson.loads(b"".join([chunk async for chunk in answer.chunks()]))
    assert (answer.status, body["error"]["param"]) == (400, "prompt_embeds")
    assert seen == []


async def test_the_scope_s_name_does_not_leave_the_gateway() -> None:
    seen: list[Exchange] = []
    async with vllm({_CHAT: (200, {})}, seen) as engine:
        answer = await engine.generate(EngineCall("req_1", "chat/completions", b"{}", scope="project-of-ada"))
        assert [chunk async for chunk in answer.chunks()]
    [exchange] = seen
    assert b"ada" not in exchange.request.body
    assert not [name for name in exchange.request.headers if "scope" in name.lower()]
    assert exchange.request.headers["authorization"] == "Bearer secret"
