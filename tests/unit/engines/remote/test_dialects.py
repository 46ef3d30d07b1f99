"""What servers of each kind are told, and what is asked of them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import orjson
import pytest

from terascope.core.errors import EngineUnreachable
from terascope.core.models import Feature
from terascope.engines.contract import Endpoint, EngineCall
from terascope.engines.echo.httpd import Exchange, HttpServer, Request
from terascope.engines.remote.adapter import RemoteEngine
from terascope.engines.remote.bodies import salted
from terascope.engines.remote.dialects import NAMES, UNKNOWN, Dialect, dialect, found

_CALL = EngineCall("req_1", "chat/completions", b'{"model":"m"}', scope="key_1", priority=2)
_CARD = {"id": "m", "owned_by": "physics", "version": "3", "digest": "d" * 64, "modes": ["query"]}


@asynccontextmanager
async def at(server: HttpServer, kind: Dialect = UNKNOWN) -> AsyncIterator[RemoteEngine]:
    await server.listen()
    engine = RemoteEngine(Endpoint(server.url, "s"), served_name="m", dialect=kind)
    try:
        yield engine
    finally:
        await engine.aclose()
        await server.aclose()


def lister(card: dict[str, Any], seen: list[Request], health: int = 200) -> HttpServer:
    async def handle(exchange: Exchange) -> None:
        seen.append(exchange.request)
        status = health if exchange.request.path == "/health" else 200
        await exchange.reply(status, orjson.dumps({"data": [card]}))

    return HttpServer(handle)


@pytest.mark.parametrize(
    ("card", "kind"),
    [
        ({"owned_by": "vllm", "max_model_len": 5}, "vllm"),
        ({"owned_by": "sglang"}, "sglang"),
        ({"owned_by": "llamacpp"}, "llamacpp"),
        (_CARD, "terascope"),
        ({"owned_by": "system"}, ""),
        ({}, ""),
        ({"owned_by": None}, ""),
    ],
)
def test_a_server_is_known_by_its_list(card: dict[str, Any], kind: str) -> None:
    assert found(card).name == kind


async def test_the_kind_that_is_found_is_asked_for_its_health() -> None:
    seen: list[Request] = []
    async with at(lister({"id": "m", "owned_by": "vllm"}, seen)) as engine:
        info = await engine.probe()
    assert [one.path for one in seen] == ["/v1/models", "/health", "/version"]
    assert Feature.ENFORCED_TOOLS not in info.capabilities.features
    async with at(lister({"id": "m", "owned_by": "sglang"}, seen, health=503)) as engine:
        with pytest.raises(EngineUnreachable, match="status 503"):
            await engine.probe()


@pytest.mark.parametrize("kind", NAMES)
async def test_what_is_declared_counts(kind: str) -> None:
    seen: list[Request] = []
    async with at(lister(_CARD, seen), dialect(kind)) as engine:
        info = await engine.probe()
        assert info.capabilities == dialect(kind).capabilities
        assert Feature.ADAPTERS not in info.capabilities.features
        await (await engine.generate(_CALL)).aclose()
    told = {"X-Terascope-QOS": "batch"} if kind == "terascope" else {}
    sent = {name: value for name, value in seen[-1].headers.items() if name.startswith("x-terascope")}
    assert sent == {name.lower(): value for name, value in told.items()}
    assert (b"cache_salt" in seen[-1].body) == (kind in ("terascope", "vllm"))


async def test_a_version_of_another_centre_s_model_can_be_named() -> None:
    async with at(lister(_CARD | {"id": "big"}, [])) as engine:
        with pytest.raises(EngineUnreachable, match="lists big@3, big"):
            await engine.probe()
    async with at(lister(_CARD | {"id": "m"}, [])) as engine:
        assert dict((await engine.probe()).details)["upstream_digest"] == "d" * 64


def test_others_learn_a_number_and_not_who_asks() -> None:
    body = salted(_CALL, dialect("vllm"))
    said = orjson.loads(body)
    assert said["model"] == "m"
    assert "key_1" not in body.decode()
    assert body == salted(_CALL, dialect("terascope"))
    assert body != salted(replace(_CALL, scope="key_2"), dialect("vllm"))
    own = replace(_CALL, body=b'{"model":"m","cache_salt":"mine"}')
    assert orjson.loads(salted(own, dialect("vllm")))["cache_salt"] not in ("mine", said["cache_salt"])


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"cache_salt":7}'])
def test_what_cannot_be_salted_is_sent_as_it_is(body: bytes) -> None:
    assert salted(replace(_CALL, body=body), dialect("vllm")) == body if body != b"{" else True
    assert salted(replace(_CALL, scope=""), dialect("vllm")) == _CALL.body
