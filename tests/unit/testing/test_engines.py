"""The conformance suite finds what is wrong: each check against an engine that fails it."""

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


@pytest.mark.parametrize("kind", [_StaysOpen, _SaysNothing, _Forgets])
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
