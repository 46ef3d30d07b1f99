"""The worker as a process: how it starts, what it demands, how it ends."""

import asyncio
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from terascope.core import environment
from terascope.core.config import DeploymentConfig
from terascope.core.errors import EngineUnreachable
from terascope.core.models import ModelVersion, Task
from terascope.engines.contract import Endpoint, EngineCall, Launch
from terascope.engines.registry import engine_kind
from terascope.engines.torch import worker

pytestmark = pytest.mark.slow
SECRET = "a secret of this replica"
CANARY = "canary-in-the-prompt"
Run = Callable[..., Any]


class Process:
    """A worker and what it said."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path, socket: Path) -> None:
        self.process = process
        self.socket = socket
        self._log = log

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    async def said(self, event: str) -> dict[str, Any]:
        """Wait for an event of the log."""
        async with asyncio.timeout(60):
            while not (found := [line for line in self.lines if line["event"] == event]):
                assert self.process.returncode is None, self._log.read_text()
                await asyncio.sleep(0.02)
        return found[0]

    async def ended(self) -> int:
        async with asyncio.timeout(20):
            return await self.process.wait()

    def session(self) -> aiohttp.ClientSession:
        headers = {"Authorization": f"Bearer {SECRET}"}
        return aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self.socket)), headers=headers)


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Run]:
    started: list[Process] = []

    async def make(model: Path, *flags: str, secret: str = SECRET, place: tuple[str, ...] = ()) -> Process:
        socket, log = tmp_path / "worker.sock", tmp_path / "worker.log"
        words = ("--model-dir", str(model), "--served-name", "tiny", "--threads", "1", *flags)
        with log.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", worker.__name__, *(place or ("--socket", str(socket))), *words,
                stderr=stderr, env=os.environ | {environment.REPLICA_SECRET: secret},
            )  # fmt: skip
        started.append(Process(process, log, socket))
        return started[-1]

    yield make
    for one in started:
        if one.process.returncode is None:
            one.process.kill()
            await one.process.wait()


async def test_a_life(run: Run, tiny_dir: Path) -> None:
    started: Process = await run(tiny_dir)
    await started.said("listening")
    assert stat.S_IMODE(started.socket.stat().st_mode) == 0o600
    async with started.session() as session:
        async with session.get("http://x/health") as response:
            assert response.status == 503
            assert (await response.json())["status"] == "loading"
        ready = await started.said("ready")
        assert ready["served_name"] == "tiny"
        body = {"model": "tiny", "prompt": CANARY, "max_tokens": 3, "logprobs": 0, "seed": 1, "logit_bias": {"2": -100}}
        async with session.post("http://x/v1/completions", json=body, headers={"X-Request-Id": "run_7"}) as response:
            assert response.status == 200
            assert (await response.json())["usage"]["completion_tokens"] == 3
        async with session.post("http://x/v1/completions", json=body | {"guided_regex": f"({CANARY}"}) as response:
            assert response.status == 400
        assert (await started.said("request"))["request_id"] == "run_7"
        long = {"model": "tiny", "prompt": CANARY, "stream": True, "logit_bias": {"2": -100}}
        async with session.post("http://x/v1/completions", json=long) as response:
            await response.content.readany()
            started.process.send_signal(signal.SIGTERM)
            rest = await response.content.read()
    assert b'"code":"overloaded"' in rest or rest.endswith(b"[DONE]\n\n")
    assert await started.ended() == 0
    assert started.lines[-1]["event"] == "ended"
    assert CANARY not in started._log.read_text()


async def test_a_thousand_connections_while_it_is_busy(run: Run, tiny_dir: Path) -> None:
    """They wait to be accepted: a Unix socket refuses what it does not let wait."""
    started: Process = await run(tiny_dir)
    await started.said("ready")
    started.process.send_signal(signal.SIGSTOP)
    request = f"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {SECRET}\r\n\r\n"

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(started.socket)
        writer.write(request.encode())
        return reader, writer

    connections = await asyncio.gather(*(connect() for _ in range(1000)))
    started.process.send_signal(signal.SIGCONT)
    answers = await asyncio.gather(*(reader.read() for reader, _ in connections))
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
    for _, writer in connections:
        writer.close()


async def test_the_gateways_adapter_speaks_to_it(run: Run, tiny_dir: Path) -> None:
    started: Process = await run(tiny_dir, "--max-batch", "6", "--extra-rows", "2")
    version = ModelVersion("tiny", "1", "", "path:x", str(tiny_dir), Task.GENERATE, 512)
    launch = Launch(DeploymentConfig(model="tiny", served_name="tiny"), version)
    engine = engine_kind("torch").connect(launch, Endpoint(f"unix:{started.socket}", SECRET))
    await started.said("listening")
    with pytest.raises(EngineUnreachable):
        await engine.probe()
    await started.said("ready")
    info = await engine.probe()
    assert (info.engine, info.context_length, info.dtype, info.device) == ("torch", 512, "float32", "cpu")
    assert (info.slots, info.extra) == (6, 2)
    words = {"chat/completions", "completions", "embeddings", "tokenize", "detokenize"}
    assert words | {"traces", "traces/sites"} == info.capabilities.endpoints
    assert {"logprobs", "seed", "tools", "json_schema", "echo", "token_prompts"} <= info.capabilities.features
    plan = b'{"model":"tiny","prompts":["x"],"operations":[{"capture":"norm"}]}'
    for endpoint, body in (("traces", plan), ("completions", b'{"model":"tiny","prompt":"x","max_tokens":2}')):
        answer = await engine.generate(EngineCall("r", endpoint, body))
        assert answer.status == 200
    assert json.loads(b"".join([chunk async for chunk in answer.chunks()]))["object"] == "text_completion"
    assert "terascope_engine_tokens_total" in await engine.metrics()
    await engine.aclose()


async def test_an_embedding_model(run: Run, encoder_dir: Path) -> None:
    started: Process = await run(encoder_dir)
    await started.said("ready")
    async with started.session() as session:
        async with session.get("http://x/terascope/info") as response:
            info = await response.json()
        assert info["capabilities"]["endpoints"] == [
            "detokenize",
            "embeddings",
            "tokenize",
            "traces",
            "traces/sites",
        ]
        assert (info["details"]["pooling"], info["details"]["batching"]) == ("mean", "packed")
        async with session.post("http://x/v1/embeddings", json={"model": "tiny", "input": "the cat"}) as response:
            assert len((await response.json())["data"][0]["embedding"]) == 32
    started.process.send_signal(signal.SIGINT)
    assert await started.ended() == 0


async def test_it_ends_in_the_middle_of_loading(run: Run, tiny_dir: Path) -> None:
    started: Process = await run(tiny_dir)
    await started.said("loading")
    started.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        assert await started.ended() == 0


async def test_a_port_demands_the_secret(run: Run, tiny_dir: Path) -> None:
    started: Process = await run(tiny_dir, place=("--port", "0"))
    listening = await started.said("listening")
    host, port = listening["at"][0].strip("()").replace("'", "").split(", ")
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://{host}:{port}/health") as response:
            assert response.status == 401
        headers = {"Authorization": f"Bearer {SECRET}"}
        async with session.get(f"http://{host}:{port}/health", headers=headers) as response:
            assert response.status in (200, 503)


async def test_a_port_without_a_secret_is_not_opened(run: Run, tiny_dir: Path) -> None:
    started: Process = await run(tiny_dir, place=("--port", "0"), secret="")
    assert await started.ended() == 2
    assert "TERASCOPE_REPLICA_SECRET" in started.lines[-1]["event"]


@pytest.mark.parametrize(
    ("flags", "reason"), [(("--cache-tokens", "10"), "room for 10"), (("--context-length", "9999"), "9999")]
)
async def test_it_says_why_it_cannot_serve(run: Run, tiny_dir: Path, flags: tuple[str, ...], reason: str) -> None:
    started: Process = await run(tiny_dir, *flags)
    assert await started.ended() == 2
    assert reason in next(line["reason"] for line in started.lines if "reason" in line)


async def test_a_directory_without_a_model(run: Run, tmp_path: Path) -> None:
    started: Process = await run(tmp_path)
    assert await started.ended() == 2
    assert any(line["event"] == "the model cannot be loaded" for line in started.lines)
