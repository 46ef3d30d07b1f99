"""The application as a whole: paths, methods, limits, and what happens when something here is wrong."""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from terascope.core.config import Config, DeploymentConfig, ServerConfig
from terascope.testing.gateway import Served, serving

SLOW = DeploymentConfig(model="slow", engine="echo", launcher="inprocess", options={"delay_ms": "20"})
CHAT = "/v1/chat/completions"


def stream(text: str) -> dict[str, object]:
    return {"model": "slow", "messages": [{"role": "user", "content": text}], "stream": True}


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[Served]:
    """A gateway that answers two requests at once and no more."""
    config = Config(server=ServerConfig(max_requests=2), deployments=[SLOW])
    async with serving(config, data_dir=tmp_path) as served:
        yield served


async def test_more_requests_than_it_takes_are_told_to_come_back(small: Served) -> None:
    """Whoever watches or tends the gateway is let in all the same."""
    async with httpx.AsyncClient(base_url=small.url, headers=small.headers) as http:
        asked = [http.stream("POST", CHAT, json=stream("word " * 500)) for _ in range(2)]
        async with asked[0] as first, asked[1] as second:
            running = first.aiter_bytes(), second.aiter_bytes()
            assert [await anext(one) for one in running]
            busy = await http.post(CHAT, json=stream("hi"))
            assert (busy.status_code, busy.json()["error"]["code"]) == (503, "overloaded")
            assert busy.headers["retry-after"] == "5"
            assert busy.headers["x-request-id"] == busy.json()["error"]["request_id"]
            for path in ("/health", "/ready", "/metrics", "/metrics/engines", "/v1/models", "/admin/v1/runs"):
                assert (await http.get(path)).status_code == 200
            assert "terascope_in_flight 2.0" in (await http.get("/metrics")).text


async def test_what_is_wrong_here_is_in_the_log_and_not_in_the_answer(
    small: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with sqlite3.connect(small.data_dir / "terascope.db") as database:
        database.execute("DROP TABLE runs")
    async with httpx.AsyncClient(base_url=small.url, headers=small.headers) as http:
        with caplog.at_level(logging.ERROR):
            answers = [await http.get("/admin/v1/runs"), await http.post(CHAT, json=stream("hi") | {"stream": False})]
    for answer in answers:
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["type"]) == (500, "internal_error", "server_error")
        assert error["request_id"] == answer.headers["x-request-id"]
        (logged,) = [one for one in caplog.records if getattr(one, "request_id", "") == error["request_id"]]
        assert logged.exc_info is not None
        assert "runs" not in error["message"]


async def test_every_answer_has_an_id_of_its_own(small: Served) -> None:
    async with httpx.AsyncClient(base_url=small.url, headers=small.headers) as http:
        paths = ["/health", "/ready", "/metrics", "/docs", "/openapi.json", "/v1/models", "/admin/v1/keys", "/none"]
        ids = [(await http.get(path)).headers["x-request-id"] for path in paths]
    assert len(set(ids)) == len(paths)
    assert all(one.startswith("req_") for one in ids)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", CHAT, "POST"),
        ("DELETE", "/tokenize", "POST"),
        ("POST", "/health", "GET"),
        ("PATCH", "/admin/v1/keys", "GET, POST"),
        ("PUT", "/admin/v1/models/echo", "DELETE, GET"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(small: Served, method: str, path: str, allow: str) -> None:
    async with httpx.AsyncClient(base_url=small.url, headers=small.headers) as http:
        answer = await http.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == allow
    assert allow in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/models/", "/V1/models", "/v1", "//v1/models", "/docs/", "/%00", "/v1/models\\x"])
async def test_paths_that_are_nearly_right_are_not_found(small: Served, path: str) -> None:
    async with httpx.AsyncClient(base_url=small.url, headers=small.headers) as http:
        answer = await http.get(path)
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_running_answers_are_told_when_the_gateway_stops(tmp_path: Path) -> None:
    """A stop waits for running answers `drain_s` long; those that run still end in an explicit error."""
    config = Config(server=ServerConfig(drain_s=0.1), deployments=[SLOW])
    begun = asyncio.Event()
    parts: list[bytes] = []

    async def read(served: Served) -> None:
        async with (
            httpx.AsyncClient(base_url=served.url, headers=served.headers, timeout=30) as http,
            http.stream("POST", CHAT, json=stream("word " * 5000)) as answer,
        ):
            async for part in answer.aiter_bytes():
                parts.append(part)
                begun.set()

    async with serving(config, data_dir=tmp_path) as served:
        reading = asyncio.create_task(read(served))
        await begun.wait()
    await reading
    whole = b"".join(parts)
    assert b"[DONE]" not in whole
    assert b'"error"' in whole.split(b"\n\n")[-2]
