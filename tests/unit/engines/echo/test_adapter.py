"""The echo engine's two ways to run: in process, and as a program that `command` names."""

import asyncio
import signal
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from terascope.core import environment
from terascope.core.config import DeploymentConfig
from terascope.core.errors import ConfigError, EngineLost, EngineUnreachable
from terascope.core.models import ModelVersion, Task
from terascope.engines.contract import Endpoint, EngineCall, Launch
from terascope.engines.echo.adapter import KIND, EchoEngine
from terascope.engines.registry import engine_kind
from terascope.engines.upstream import HttpEngine
from terascope.testing.engine_subject import Subject, content, user
from terascope.testing.engines import check_engine

_VERSION = ModelVersion("echo", "1", "digest", "echo:", "", Task.GENERATE, 0)
_NOWHERE = Endpoint("unix:/nowhere")
_STREAM = orjson.dumps({"model": "echo@1", "messages": user("a b c d"), "stream": True})


def launch(**deployment: object) -> Launch:
    return Launch(DeploymentConfig(model="echo", engine="echo", **deployment), _VERSION)  # type: ignore[arg-type]


@asynccontextmanager
async def program(endpoint: Endpoint, **deployment: object) -> AsyncIterator[asyncio.subprocess.Process]:
    """The program that `command` names, once it listens."""
    process = await asyncio.create_subprocess_exec(
        *KIND.command(launch(**deployment), endpoint),
        stdout=asyncio.subprocess.PIPE,
        env=environment.for_child() | {environment.REPLICA_SECRET: endpoint.secret},
    )
    assert process.stdout is not None
    assert (await process.stdout.readline()).startswith(b"listening on ")
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def test_it_is_registered() -> None:
    assert engine_kind("echo") is KIND


async def test_in_process_nothing_is_started() -> None:
    one = launch(launcher="inprocess", context_length=7)
    assert KIND.command(one, _NOWHERE) == ()
    engine = KIND.connect(one, _NOWHERE)
    info = await engine.probe()
    assert (info.engine, info.context_length, dict(info.details)) == ("echo", 7, {"served_name": "echo@1"})
    await engine.aclose()


async def test_the_program_conforms(tmp_path: Path) -> None:
    endpoint = Endpoint(f"unix:{tmp_path}/echo.sock", "s3cret")
    async with program(endpoint) as process:
        assert stat.S_IMODE((tmp_path / "echo.sock").stat().st_mode) == 0o600
        await check_engine(KIND.connect(launch(), endpoint), model="echo@1")
        stranger = HttpEngine(Endpoint(endpoint.url, "guessed"))
        answer = await stranger.generate(EngineCall("req_1", "chat/completions", _STREAM))
        assert answer.status == 401
        with pytest.raises(EngineUnreachable):
            await stranger.probe()
        await stranger.aclose()
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    assert not (tmp_path / "echo.sock").exists()


def test_the_secret_is_not_on_the_command_line() -> None:
    command = " ".join(KIND.command(launch(options={"delay_ms": "2.5"}), Endpoint("http://[::1]:9000", "s3cret")))
    assert "s3cret" not in command
    assert "--host ::1 --port 9000" in command
    assert "--delay-ms 2.5" in command


@pytest.mark.parametrize("options", [{"delay_ms": "soon"}, {"delay_ms": "-1"}, {"delay_ms": "nan"}, {"delays": "1"}])
def test_impossible_settings(options: dict[str, str]) -> None:
    for launcher in ("inprocess", "local"):
        with pytest.raises(ConfigError, match="delay_ms"):
            KIND.command(launch(options=options, launcher=launcher), _NOWHERE)


async def test_tokens_take_their_time() -> None:
    loop = asyncio.get_running_loop()
    engine = EchoEngine(delay_s=0.01)
    subject = Subject(engine, "echo@1", await engine.probe())
    for stream in (False, True):
        begun = loop.time()
        said = await subject.ask("chat/completions", messages=user("a b c d"), stream=stream)
        assert said.status == 200
        assert loop.time() - begun >= 0.04


@pytest.mark.parametrize("close", ["answer", "engine"])
async def test_closing_ends_a_slow_answer_at_once(close: str) -> None:
    engine = EchoEngine(delay_s=3600)
    answer = await engine.generate(EngineCall("req_1", "chat/completions", _STREAM))

    async def read() -> None:
        async for _ in answer.chunks():
            pass

    reading = asyncio.create_task(read())
    await asyncio.sleep(0)
    await (answer.aclose() if close == "answer" else engine.aclose())
    with pytest.raises(EngineLost):
        await reading


async def test_a_client_that_leaves_frees_the_program(tmp_path: Path) -> None:
    endpoint = Endpoint(f"unix:{tmp_path}/echo.sock", "s3cret")
    async with program(endpoint, options={"delay_ms": "1"}):
        engine = KIND.connect(launch(), endpoint)
        body = orjson.loads(_STREAM) | {"ignore_eos": True, "max_tokens": 100_000}
        answer = await engine.generate(EngineCall("req_1", "chat/completions", orjson.dumps(body)))
        assert await anext(answer.chunks())
        await answer.aclose()
        subject = Subject(engine, "echo@1", await engine.probe())
        assert content(await subject.chat("still here")) == "still here"
        await engine.aclose()
