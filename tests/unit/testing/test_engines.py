"""The conformance suite finds what is wrong: each check against an engine that fails it."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from terascope.core.errors import EngineUnreachable
from terascope.core.models import Feature
from terascope.engines.contract import EngineCall, EngineInfo
from terascope.engines.echo.adapter import EchoAnswer, EchoEngine
from terascope.engines.echo.model import Settings
from terascope.engines.upstream import HttpEngine
from terascope.testing.engine_subject import Subject
from terascope.testing.engines import ENGINE_CHECKS, EngineCheck, check_engine
from terascope.testing.faults import faulty

_CHECKS = {check.name: check for check in ENGINE_CHECKS}


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        ("not_json", "chat"),
        ("html", "chat"),
        ("no_usage", "chat"),
        ("usage_everywhere", "chat_stream"),
        ("unfinished", "chat_stream"),
        ("no_done", "chat_stream"),
        ("no_usage", "stream_usage"),
        ("json_for_stream", "stream_usage"),
        ("reflect", "stop_strings"),
        ("bad_characters", "stream_and_whole_agree"),
        ("reflect", "length_limit"),
        ("old_error", "bad_chats"),
        ("limited", "bad_prompts"),
        ("none", "unknown_model"),
        ("failed", "embeddings"),
        ("bad_characters", "reproducible"),
    ],
)
async def test_a_fault_is_found(fault: str, name: str) -> None:
    async with faulty() as served:
        engine = HttpEngine(served.endpoint)
        subject = Subject(engine, f"fault:{fault}", await engine.probe())
        with pytest.raises((AssertionError, ValueError, KeyError, TypeError)):
            await _CHECKS[name].run(subject)
        await engine.aclose()


class _StaysOpen(EchoEngine):
    """Goes on answering after it was closed."""

    async def aclose(self) -> None:
        return


class _SaysNothing(EchoEngine):
    """Does not say what it can do."""

    async def probe(self) -> EngineInfo:
        return EngineInfo("", "", (await super().probe()).capabilities)


class _Forgets(EchoEngine):
    """Answers every other request for another model."""

    async def generate(self, call: EngineCall) -> EchoAnswer:
        return await super().generate(EngineCall(call.request_id, call.endpoint, call.body.replace(b"one two", b"two")))


class _Hurries(EchoEngine):
    """Gives the least urgent a shorter answer."""

    async def generate(self, call: EngineCall) -> EchoAnswer:
        body = call.body.replace(b'"max_tokens":12', b'"max_tokens":2') if call.priority == 2 else call.body
        return await super().generate(replace(call, body=body))


class _Crowded(EchoEngine):
    """Rounds its log-probabilities otherwise when it has much to do, and says the same text."""

    rounded = b"-1.5"
    crowd = 1

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.asked = 0

    async def generate(self, call: EngineCall) -> EchoAnswer:
        self.asked += 1
        try:
            await asyncio.sleep(0)
            crowded = self.asked > self.crowd
        finally:
            self.asked -= 1
        answer = await super().generate(call)
        return _Rounded(answer, self.rounded) if crowded and b"reproducible" in call.body else answer


class _Rounded(EchoAnswer):
    """Another answer with its first log-probability changed."""

    def __init__(self, answer: EchoAnswer, rounded: bytes) -> None:
        self.status, self.headers, self.aclose = answer.status, answer.headers, answer.aclose  # type: ignore[method-assign]
        self._answer = answer
        self._rounded = rounded

    async def chunks(self) -> AsyncIterator[bytes]:
        async for chunk in self._answer.chunks():
            yield re.sub(rb'"logprob":[-.\d]+', b'"logprob":' + self._rounded, chunk)


async def test_numbers_that_depend_on_the_neighbours_are_found() -> None:
    engine = _Crowded(Settings("m"))
    subject = Subject(engine, "m", await engine.probe())
    with pytest.raises(AssertionError):
        await _CHECKS["reproducible"].run(subject)
    engine.crowd = 100
    await _CHECKS["reproducible"].run(subject)
    await engine.aclose()


@pytest.mark.parametrize("kind", [_StaysOpen, _SaysNothing, _Forgets, _Hurries])
async def test_a_wrong_engine_does_not_pass(kind: type[EchoEngine]) -> None:
    with pytest.raises(AssertionError):
        await check_engine(kind(Settings("m")), model="m")


async def test_checks_apply_where_the_engine_can_do_what_they_need() -> None:
    engine = EchoEngine()
    subject = Subject(engine, "m", await engine.probe())
    check = EngineCheck(_CHECKS["seed"].run, "chat/completions", frozenset({Feature.SEED}), exact=True)
    assert check.applies(subject)
    assert not check.applies(subject, generates=False)
    assert not check.applies(Subject(engine, "m", subject.info, exact=False))
    assert not EngineCheck(check.run, "responses").applies(subject)
    assert not EngineCheck(check.run, features=frozenset({Feature.JSON_SCHEMA})).applies(subject)
    assert not _CHECKS["embeddings"].applies(subject, embeds=False)
    await engine.aclose()
    with pytest.raises(EngineUnreachable):
        await engine.metrics()


def test_every_check_is_listed_once_and_says_what_it_checks() -> None:
    assert len(_CHECKS) == len(ENGINE_CHECKS)
    assert all(check.run.__doc__ for check in ENGINE_CHECKS)
    assert ENGINE_CHECKS[-1].name == "closing"
