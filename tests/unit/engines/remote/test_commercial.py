"""The remote engine at a service that sells answers: its key, its limits, its bad days."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from terascope.core.config import DeploymentConfig
from terascope.core.errors import ConfigError, EngineUnreachable
from terascope.core.models import Feature
from terascope.engines.contract import Endpoint
from terascope.engines.remote.adapter import KIND, RemoteEngine
from terascope.engines.remote.dialects import dialect
from terascope.engines.remote.retries import Retries
from terascope.testing.clock import ManualClock
from terascope.testing.commercial import CommercialApi, listening
from terascope.testing.engine_subject import Said, Subject, user

from .test_adapter import launch

_ANYWHERE = Endpoint("unix:/ignored")


@asynccontextmanager
async def sold(api: CommercialApi, clock: ManualClock, *, key: str = "k-1", most: int = 2) -> AsyncIterator[Subject]:
    async with listening(api) as url:
        engine = RemoteEngine(
            Endpoint(url, key),
            served_name="big",
            dialect=dialect("openai"),
            retries=Retries(most, 20.0, clock, random.Random(0)),
        )
        try:
            yield Subject(engine, "big", await engine.probe())
        finally:
            await engine.aclose()


def service(per_minute: int = 0) -> CommercialApi:
    return CommercialApi(keys=["k-1", "k-2"], model="big", per_minute=per_minute)


def chats(api: CommercialApi) -> int:
    return sum(one.path == "/v1/chat/completions" for one in api.received)


async def ask(subject: Subject, **fields: object) -> Said:
    return await subject.ask("chat/completions", messages=user("hello there"), **fields)


async def test_what_is_not_offered_there_is_not_offered_here() -> None:
    async with sold(service(), ManualClock()) as subject:
        able = subject.info.capabilities
    assert able.endpoints == {"chat/completions", "completions", "embeddings"}
    assert {Feature.LOGPROBS, Feature.SEED, Feature.TOOLS, Feature.JSON_SCHEMA} <= able.features
    assert not {Feature.ECHO, Feature.TOKEN_PROMPTS, Feature.REPRODUCIBLE} & able.features


async def test_nothing_is_added_to_a_request() -> None:
    api = service()
    async with sold(api, ManualClock()) as subject:
        await ask(subject, max_tokens=3)
    [chat] = [one for one in api.received if one.method == "POST"]
    assert orjson.loads(chat.body) == {"model": "big", "messages": user("hello there"), "max_tokens": 3}
    assert not [name for name in chat.headers if name.startswith("x-terascope")]


async def test_its_own_refusals_are_passed_on() -> None:
    api = service()
    async with sold(api, ManualClock()) as subject:
        said = await ask(subject, top_k=5)
    assert (said.status, said.error["param"]) == (400, "top_k")
    assert chats(api) == 1  # and not repeated


@pytest.mark.parametrize("stream", [False, True])
async def test_a_bad_moment_is_not_the_client_s(stream: bool) -> None:
    api, clock = service(), ManualClock()
    async with sold(api, clock) as subject:
        api.failures += [(500, {}), (503, {"Retry-After": "3"})]
        asking = asyncio.create_task(ask(subject, stream=stream))
        await clock.slept(Retries(chance=random.Random(0)).pause_s(1))
        clock.advance(1.0)
        await clock.slept(3.0)
        clock.advance(3.0)
        said = await asking
    assert said.status == 200
    assert chats(api) == 3
    assert len({one.headers["x-request-id"] for one in api.received if one.method == "POST"}) == 1


async def test_a_bad_hour_is_told() -> None:
    api = service()
    async with sold(api, ManualClock(real_below_s=9.0), most=1) as subject:
        api.failures += [(503, {"Retry-After": "0.01"}), (503, {"Retry-After": "11"})]
        said = await ask(subject)
    assert (said.status, said.headers["retry-after"], chats(api)) == (503, "11", 2)
    assert "overloaded" in said.error["message"]


async def test_a_limit_is_told_with_the_time_that_it_lasts() -> None:
    api = service(per_minute=1)
    async with sold(api, ManualClock()) as subject:
        assert (await ask(subject)).status == 200
        said = await ask(subject)
    assert (said.status, said.error["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(said.headers["retry-after"]) <= 60


async def test_an_empty_account_is_not_the_client_s_limit() -> None:
    api = service()
    async with sold(api, ManualClock()) as subject:
        api.spent = True
        said = await ask(subject)
    assert (said.status, said.error["code"]) == (502, "engine_error")
    assert "operator" in said.error["message"]
    assert chats(api) == 1


async def test_who_leaves_is_not_waited_for() -> None:
    api, clock = service(), ManualClock()
    async with sold(api, clock) as subject:
        api.failures.append((503, {"Retry-After": "5"}))
        asking = asyncio.create_task(ask(subject))
        await clock.slept(5.0)
        asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled()
        assert (await ask(subject)).status == 200


async def test_a_server_that_is_gone_is_tried_again_and_then_told() -> None:
    clock = ManualClock()
    retries = Retries(1, 20.0, clock, random.Random(0))
    engine = RemoteEngine(Endpoint("unix:/nowhere/at/all"), served_name="big", retries=retries)
    asking = asyncio.create_task(Subject(engine, "big", None).ask("chat/completions"))  # type: ignore[arg-type]
    await clock.slept(Retries(chance=random.Random(0)).pause_s(1))
    clock.advance(1.0)
    with pytest.raises(EngineUnreachable):
        await asking
    await engine.aclose()


async def test_a_wrong_key_is_unreachable() -> None:
    with pytest.raises(EngineUnreachable, match="Incorrect API key"):
        async with sold(service(), ManualClock(), key="k-3"):
            pass


async def test_the_key_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("k-2\n")
    file.chmod(0o600)
    async with listening(service()) as url:
        engine = KIND.connect(launch(url, served_name="big", kind="openai", api_key_file=str(file)), _ANYWHERE)
        assert dict((await engine.probe()).details)["kind"] == "openai"
        await engine.aclose()


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        (None, 0, "No such file"),
        (b"k-1\n", 0o644, "chmod 600"),
        (b"", 0o600, "must hold one key"),
        (b"one:x:0\ntwo:x:1\n", 0o600, "must hold one key"),
        (b"\xff\xfe", 0o600, "must hold one key"),
        (b"k" * 5000, 0o600, "must hold one key"),
    ],
)
def test_a_file_that_is_no_key(tmp_path: Path, text: bytes | None, mode: int, words: str) -> None:
    file = tmp_path / "key"
    if text is not None:
        file.write_bytes(text)
        file.chmod(mode)
    with pytest.raises(ConfigError, match=words) as caught:
        KIND.command(launch("http://a", api_key_file=str(file)), _ANYWHERE)
    assert "two:x" not in caught.value.message


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "azure"}, "one of openai, terascope"),
        ({"options": {"retries": "many"}}, "whole number up to 10"),
        ({"options": {"retries": "11"}}, "whole number up to 10"),
        ({"api_key_env": "A", "api_key_file": "/b"}, "not both"),
    ],
)
def test_impossible_settings(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        KIND.command(launch("http://a", **settings), _ANYWHERE)


def test_the_key_is_in_no_row_and_no_word(set_environment: Callable[[str, str], None]) -> None:
    set_environment("SHOP_KEY", "k-secret")
    one = launch("http://a", api_key_env="SHOP_KEY")
    assert "k-secret" not in repr((one, KIND.command(one, _ANYWHERE), KIND.environment(one, _ANYWHERE)))
    assert isinstance(one.deployment, DeploymentConfig)
