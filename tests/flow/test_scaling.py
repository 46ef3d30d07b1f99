"""A deployment that follows the load, over HTTP: from none to two replicas, to none, and a cold start that waits."""

import asyncio
import re
from pathlib import Path

import httpx
import pytest

from terascope.core.config import Config, DeploymentConfig, ServerConfig
from terascope.testing.fleet import until
from terascope.testing.gateway import Served, serving

pytestmark = pytest.mark.slow

ELASTIC = DeploymentConfig(
    model="echo", engine="echo", launcher="local", min=0, max=2, idle_s=2.0, max_in_flight=1,
    options={"delay_ms": "40"},
)  # fmt: skip
WORDS = "one two three four five six seven eight nine ten"


async def _ask(http: httpx.AsyncClient) -> tuple[httpx.Headers, bytes]:
    body = {"model": "echo", "stream": True, "messages": [{"role": "user", "content": WORDS}]}
    async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        return answer.headers, await answer.aread()


async def _until_cold(served: Served) -> None:
    await until(served.services.fleet, lambda: served.services.fleet.states()["echo"] == "cold")


async def test_up_down_and_up_again(tmp_path: Path) -> None:
    server = ServerConfig(heartbeat_s=0.05)
    async with (
        serving(Config(server=server, deployments=[ELASTIC]), data_dir=tmp_path) as served,
        httpx.AsyncClient(base_url=served.url, headers=served.headers, timeout=60) as http,
    ):
        assert (await http.get("/ready")).json() == {"status": "ready", "deployments": {"echo": "cold"}}
        headers, first = await _ask(http)
        assert first.startswith(b": waiting\n\n"), "no start has told yet how long one takes"
        assert first.endswith(b"data: [DONE]\n\n")
        assert "x-terascope-estimated-wait" not in headers

        answers = await asyncio.gather(*(_ask(http) for _ in range(8)))
        assert all(body.endswith(b"data: [DONE]\n\n") for _, body in answers)
        fleet = served.services.fleet
        assert fleet.count("echo").kept == 2
        await _until_cold(served)

        headers, again = await _ask(http)
        assert again.endswith(b"data: [DONE]\n\n")
        assert int(headers["x-terascope-estimated-wait"]) > 0
        assert re.match(rb": waiting, about \d+ s\n\n", again)
        shown = (await http.get("/admin/v1/deployments/echo")).json()
        assert (shown["min"], shown["max"], shown["replicas"]) == (0, 2, 1)
