"""The engines that `terascope serve` starts: none outlives it, and one that dies is replaced under its requests."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from terascope.testing.serve import LOCAL_ECHO, ServeProcess, all_ended, command_line

pytestmark = pytest.mark.slow
WORKER = "terascope.engines.echo.server --socket"  # the guard's own command line has these words too
GUARD = "guard.py"
SLOW = LOCAL_ECHO | {"model": "slow", "options": {"delay_ms": "50"}}


def body(model: str = "echo", text: str = "one two three", **fields: object) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": text}]} | fields


@asynccontextmanager
async def running(directory: Path, *deployments: Mapping[str, object]) -> AsyncIterator[ServeProcess]:
    """A gateway with engines in processes of their own, ready."""
    process = ServeProcess(directory, config={"deployments": list(deployments)})
    await asyncio.to_thread(process.start)
    with process:
        await asyncio.to_thread(process.ready)
        yield process


def kill_workers(process: ServeProcess) -> int:
    """`kill -9` every engine but no guard; return how many there were."""
    guards = process.children(GUARD)
    workers = [child for child in process.children(WORKER) if child not in guards]
    for worker in workers:
        worker.send(signal.SIGKILL)
    return len(workers)


def client(process: ServeProcess) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=process.url, headers=process.headers, timeout=60)


@pytest.mark.parametrize("how", ["ctrl-c", "sigterm", "kill -9"])
def test_no_child_outlives_the_gateway(tmp_path: Path, how: str) -> None:
    process = ServeProcess(tmp_path, config={"deployments": [LOCAL_ECHO | {"replicas": 2}]})
    with process:
        process.ready()
        children = process.children()
        assert len(children) == 4  # two engines, each with its guard
        number = {"ctrl-c": signal.SIGINT, "sigterm": signal.SIGTERM, "kill -9": signal.SIGKILL}[how]
        process.send(number, group=how == "ctrl-c")
        assert process.ended() == (-signal.SIGKILL if how == "kill -9" else 0)
    all_ended(children)
    sockets = list((process.data_dir / "run").glob("*.sock"))
    if how != "kill -9":
        assert sockets == []


def test_ctrl_c_while_engines_still_start(tmp_path: Path) -> None:
    with ServeProcess(tmp_path, config={"deployments": [LOCAL_ECHO]}) as process:
        process.until("echo: is being started")
        process.send(signal.SIGINT, group=True)
        children = process.children()
        assert process.ended() == 0
    all_ended(children)
    assert "Traceback" not in process.log.read_text()


async def test_ctrl_c_lets_running_answers_end(tmp_path: Path) -> None:
    async with running(tmp_path, SLOW) as process, client(process) as http:
        request = http.stream("POST", "/v1/chat/completions", json=body("slow", "a b c d e f g h", stream=True))
        async with request as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            process.send(signal.SIGINT)
            rest = [line async for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert await asyncio.to_thread(process.ended) == 0


async def test_after_a_crash_of_the_gateway_the_next_one_serves(tmp_path: Path) -> None:
    async with running(tmp_path, LOCAL_ECHO) as process:
        children = process.children()
        process.send(signal.SIGKILL)
        await asyncio.to_thread(process.ended)
        await asyncio.to_thread(process.start)  # at once, while the old engine may still be ending
        await asyncio.to_thread(process.ready)
        async with client(process) as http:
            assert (await http.post("/v1/chat/completions", json=body())).status_code == 200
        await asyncio.to_thread(all_ended, children)


async def test_a_killed_worker_is_replaced_and_nobody_notices(tmp_path: Path) -> None:
    async with running(tmp_path, LOCAL_ECHO) as process, client(process) as http:
        for round_ in range(2):
            assert kill_workers(process) == 1
            answers = await asyncio.gather(*(http.post("/v1/chat/completions", json=body()) for _ in range(20)))
            assert [answer.status_code for answer in answers] == [200] * 20, round_
        assert (await http.get("/ready")).status_code == 200
        records = (await http.get("/admin/v1/runs", params={"limit": 100})).json()["data"]
        assert {record["outcome"] for record in records} == {"completed"}


async def test_requests_that_had_sent_nothing_are_retried_and_others_told(tmp_path: Path) -> None:
    """When the worker dies, an answer not yet begun is made anew; one that had begun ends in an explicit error."""
    async with running(tmp_path, SLOW) as process, client(process) as http:
        silent = asyncio.create_task(http.post("/v1/chat/completions", json=body("slow", "word " * 30)))
        request = http.stream("POST", "/v1/chat/completions", json=body("slow", "word " * 30, stream=True))
        async with request as begun:
            lines = begun.aiter_lines()
            events = [await anext(lines) for _ in range(12)]  # by now the other has long been with the engine
            assert kill_workers(process) == 1
            events = [line async for line in lines if line]
        assert "data: [DONE]" not in events
        error = json.loads(events[-1].removeprefix("data: "))["error"]
        assert (error["code"], error["request_id"]) == ("engine_lost", begun.headers["x-request-id"])

        answer = await silent
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["message"]["content"] == "word " * 30
        record = (await http.get(f"/admin/v1/runs/{answer.headers['x-request-id']}")).json()
        assert (record["outcome"], record["attempts"]) == ("completed", 2)
        record = (await http.get(f"/admin/v1/runs/{begun.headers['x-request-id']}")).json()
        assert (record["outcome"], record["error"]) == ("failed", "engine_lost")


async def test_a_killed_guard_takes_its_engine_with_it_and_both_are_replaced(tmp_path: Path) -> None:
    async with running(tmp_path, LOCAL_ECHO) as process, client(process) as http:
        before = process.children()
        process.children(GUARD)[0].send(signal.SIGKILL)
        await asyncio.to_thread(all_ended, before)
        assert (await http.post("/v1/chat/completions", json=body())).status_code == 200
        assert len(process.children()) == 2


async def test_engines_answer_nobody_but_the_gateway(tmp_path: Path) -> None:
    async with running(tmp_path, LOCAL_ECHO) as process:
        (path,) = (process.data_dir / "run").glob("*.sock")
        assert path.stat().st_mode & 0o777 == 0o600
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as stranger:
            answer = await stranger.post("/v1/chat/completions", json=body(), headers=process.headers)
            assert answer.status_code == 401
        secrets = [secret for child in process.children() if (secret := secret_of(child.pid))]
        assert secrets
        lines = [command_line(child.pid) for child in process.children()]
        assert not any(secret in line for secret in secrets for line in lines)


def secret_of(pid: int) -> str:
    """The secret in a child's environment."""
    pairs = (pair.partition(b"=") for pair in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    return next((os.fsdecode(value) for name, _, value in pairs if name == b"TERASCOPE_REPLICA_SECRET"), "")
