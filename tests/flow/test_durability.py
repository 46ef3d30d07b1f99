"""`kill -9` of the gateway at any moment loses no record of an answer that was completed."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml

KILLS = 20
CLIENTS = 12


class Process:
    """A real `terascope serve` in a process of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        config = {
            "server": {"port": 0},
            "deployments": [{"model": "echo", "engine": "echo", "launcher": "inprocess"}],
        }
        (directory / "terascope.yaml").write_text(yaml.safe_dump(config))
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def start(self) -> None:
        """Start it and learn its address from what it prints."""
        command = [sys.executable, "-m", "terascope", "serve", "--config", str(self._directory / "terascope.yaml")]
        command += ["--data-dir", str(self._directory / "data"), "--key-file", str(self._directory / "key")]
        with (self._directory / "log").open("a") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("Terascope listens on "):
                self.url = line.split()[-1]
            if line.startswith("Ready: echo"):
                return
        raise AssertionError((self._directory / "log").read_text())

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Send `number` and wait for the end."""
        assert self._process is not None
        os.kill(self._process.pid, number)
        status = self._process.wait(timeout=30)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return status

    @property
    def headers(self) -> dict[str, str]:
        """What a request with the first key carries."""
        return {"Authorization": "Bearer " + (self._directory / "key").read_text().strip()}


async def client(http: httpx.AsyncClient, completed: list[str], *, stream: bool) -> None:
    """Ask until the gateway is gone; note the id of every answer that was complete."""
    body = {"model": "echo", "messages": [{"role": "user", "content": "one two three"}], "stream": stream}
    while True:
        try:
            async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
                data = await answer.aread()
        except httpx.TransportError:
            return
        whole = data.endswith(b"data: [DONE]\n\n") if stream else json.loads(data)["object"] == "chat.completion"
        assert whole, data
        completed.append(answer.headers["x-request-id"])


async def load_until_killed(process: Process, seconds: float) -> list[str]:
    completed: list[str] = []
    async with httpx.AsyncClient(base_url=process.url, headers=process.headers, timeout=30) as http:
        clients = [asyncio.create_task(client(http, completed, stream=bool(number % 2))) for number in range(CLIENTS)]
        await asyncio.sleep(seconds)  # the moment of the kill is what varies; nothing waits for anything here
        await asyncio.to_thread(process.kill)
        await asyncio.gather(*clients)
    return completed


async def recorded(process: Process) -> dict[str, str]:
    """Every run record by id, with its outcome."""
    found: dict[str, str] = {}
    async with httpx.AsyncClient(base_url=process.url, headers=process.headers, timeout=30) as http:
        before, more = "", True
        while more:
            page = (await http.get("/admin/v1/runs", params={"limit": 1000, "before": before})).json()
            found |= {run["id"]: run["outcome"] for run in page["data"]}
            more, before = page["has_more"], page["data"][-1]["id"] if page["data"] else ""
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_no_completed_answer_is_without_its_record(tmp_path: Path) -> None:
    chance = random.Random(7)
    process = Process(tmp_path)
    completed: list[str] = []
    process.start()
    for _ in range(KILLS):
        completed += await load_until_killed(process, chance.uniform(0.05, 0.6))
        await asyncio.to_thread(process.start)
    records = await recorded(process)
    assert process.kill(signal.SIGINT) == 0
    assert len(completed) > KILLS * CLIENTS
    assert [run for run in completed if records.get(run) != "completed"] == []
