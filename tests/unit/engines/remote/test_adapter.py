"""The remote engine against servers that say little, much, or the wrong thing."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from terascope.core.config import DeploymentConfig
from terascope.core.errors import ConfigError, EngineUnreachable
from terascope.core.models import Feature, ModelVersion, Task
from terascope.engines.contract import Endpoint, EngineInfo, Launch
from terascope.engines.echo.httpd import Exchange, HttpServer
from terascope.engines.registry import engine_kind
from terascope.engines.remote.adapter import KIND
from terascope.testing.faults import refusing

_VERSION = ModelVersion("big-model", "1", "digest", "remote:http://a", "", Task.GENERATE, 0)
_ANYWHERE = Endpoint("unix:/ignored")


def launch(url: str, **deployment: object) -> Launch:
    config = DeploymentConfig(model="big-model", engine="remote", url=url, **deployment)  # type: ignore[arg-type]
    return Launch(config, _VERSION)


@asynccontextmanager
async def server(answers: dict[str, tuple[int, Any]], seen: list[Exchange] | None = None) -> AsyncIterator[str]:
    """A server that answers each path with its status and JSON (bytes as they are), and 404 elsewhere."""

    async def handle(exchange: Exchange) -> None:
        if seen is not None:
            seen.append(exchange)
        status, said = answers.get(exchange.request.path, (404, {"error": {"message": "not here", "type": "x"}}))
        await exchange.reply(status, said if isinstance(said, bytes) else orjson.dumps(said))

    one = HttpServer(handle)
    await one.listen()
    try:
        yield one.url
    finally:
        await one.aclose()


async def probe(one: Launch) -> EngineInfo:
    engine = KIND.connect(one, _ANYWHERE)
    try:
        return await engine.probe()
    finally:
        await engine.aclose()


def models(*names: str, **more: object) -> dict[str, tuple[int, Any]]:
    return {"/v1/models": (200, {"object": "list", "data": [{"id": name, **more} for name in names]})}


def test_it_is_registered_and_starts_nothing() -> None:
    assert engine_kind("remote") is KIND
    assert KIND.command(launch("https://a/v1"), _ANYWHERE) == ()


async def test_what_a_probe_learns() -> None:
    answers = {**models("other", "big-model", max_model_len=8192), "/version": (200, {"version": "0.32.1"})}
    async with server(answers) as url:
        for base in (url, f"{url}/", f"{url}/v1", f"{url}/v1/"):
            info = await probe(launch(base))
            assert (info.engine, info.version, info.context_length) == ("remote", "0.32.1", 8192)
            ours = {Feature.REPRODUCIBLE, Feature.PROMPT_EMBEDS, Feature.MIXED_PROMPTS, Feature.ADAPTERS}
            ours |= {Feature.MIXED_COMPLETIONS, Feature.EMBEDDING_LAYERS, Feature.EMBEDDING_OPTIONS}
            assert info.capabilities.features == frozenset(Feature) - ours
            assert "chat/completions" in info.capabilities.endpoints


async def test_a_server_that_says_little_is_good_enough() -> None:
    little: tuple[Any, ...] = ({}, {"data": []}, {"data": "?"}, [], b"not JSON", {"data": [{"name": "no id"}]})
    for said in little:
        async with server({"/v1/models": (200, said)}) as url:
            info = await probe(launch(url))
            assert (info.version, info.context_length) == ("", 0)
    for length in (None, "long", -1, True, 1.5):
        async with server(models("big-model", max_model_len=length)) as url:
            assert (await probe(launch(url))).context_length == 0


async def test_a_server_without_our_model_is_not_reachable() -> None:
    async with server(models("a", "b")) as url:
        with pytest.raises(EngineUnreachable, match=r"does not list 'big-model'; it lists a, b$"):
            await probe(launch(url))
        await probe(launch(url, served_name="b"))
    async with server(models(*(f"m{i}" for i in range(30)))) as url:
        with pytest.raises(EngineUnreachable, match=r"m9, \.\.\.$"):
            await probe(launch(url))


async def test_a_server_that_refuses_says_why() -> None:
    said = {"error": {"message": "no such key", "type": "authentication_error"}}
    for status, body, words in ((401, said, "no such key"), (500, b"?", "status 500")):
        async with server({"/v1/models": (status, body)}) as url:
            with pytest.raises(EngineUnreachable, match=words):
                await probe(launch(url))
    async with refusing() as endpoint:
        with pytest.raises(EngineUnreachable, match="refused"):
            await probe(launch(endpoint.url))


async def test_the_key_comes_from_the_environment(set_environment: Callable[[str, str], None]) -> None:
    seen: list[Exchange] = []
    async with server(models("big-model"), seen) as url:
        with pytest.raises(ConfigError, match="CENTRE_KEY"):
            KIND.command(launch(url, api_key_env="CENTRE_KEY"), _ANYWHERE)
        set_environment("CENTRE_KEY", "k-1")
        await probe(launch(url, api_key_env="CENTRE_KEY"))
        await probe(launch(url))
    authorizations = [exchange.request.headers.get("authorization") for exchange in seen]
    assert authorizations == ["Bearer k-1", "Bearer k-1", None, None]


@pytest.mark.parametrize(
    ("url", "deployment", "words"),
    [("", {}, "no url"), ("ftp://a", {}, "not the URL"), ("http://a", {"options": {"x": "1"}}, "no option 'x'")],
)
def test_impossible_settings(url: str, deployment: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        KIND.command(launch(url, **deployment), _ANYWHERE)
