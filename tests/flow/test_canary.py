"""Prompts are nobody's business: a text that is sent in every place there is turns up nowhere on this machine.

Not in the logs at their most talkative, not in the database and its write-ahead log, in no file of the data directory.
"""

import asyncio
import base64
import json
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from terascope.testing.fault_scripts import FAULTS
from terascope.testing.faults import FaultEngine, faulty
from terascope.testing.serve import ECHO, LOCAL_ECHO, ServeProcess

pytestmark = pytest.mark.slow

CANARY = "Kanarienvogel7391"
SAID = {"role": "user", "content": f"my patient {CANARY} has"}
_STUCK = ("hold", "stall", "silent", "pause", "late", "slow")  # these need a test that waits for them
ENDING = [name for name in FAULTS if name not in _STUCK]


@dataclass(frozen=True)
class Bird:
    """A gateway that logs all it can, what serves it, and where it leaves traces."""

    process: ServeProcess
    http: httpx.AsyncClient
    engine: FaultEngine
    directory: Path
    key: str

    async def ask(self, path: str = "/v1/chat/completions", **fields: Any) -> httpx.Response:
        known = {"model": "echo"} | ({"messages": [SAID]} if "chat" in path else {})
        return await self.http.post(path, json=known | fields)

    def traces(self, text: str) -> list[str]:
        """Every file below the directory that holds `text`, as it is or in base64."""
        coded = [base64.b64encode(b" " * shift + text.encode())[4:-4] for shift in range(3)]
        files = {str(path.relative_to(self.directory)): path for path in self.directory.rglob("*") if path.is_file()}
        return sorted(name for name, path in files.items() if _holds(path.read_bytes(), text.encode(), *coded))


def _holds(data: bytes, *forms: bytes) -> bool:
    return any(form in data for form in forms)


@asynccontextmanager
async def aviary(directory: Path) -> AsyncIterator[Bird]:
    async with faulty() as engine:
        far = {"model": "far", "engine": "remote", "url": engine.url}
        local = LOCAL_ECHO | {"model": "local"}
        config: Mapping[str, Any] = {"deployments": [ECHO, local, far]}
        process = ServeProcess(directory, "--log-level", "debug", config=config)
        await asyncio.to_thread(process.start)
        with process:
            await asyncio.to_thread(process.ready)
            async with httpx.AsyncClient(base_url=process.url, headers=process.headers, timeout=60) as http:
                made = await http.post("/admin/v1/keys", json={"name": "birds", "scopes": ["operator"]})
                key = made.json()["key"]
                http.headers["Authorization"] = f"Bearer {key}"
                yield Bird(process, http, engine.engine, directory, key)


async def test_what_was_sent_is_found_nowhere(tmp_path: Path) -> None:
    async with aviary(tmp_path) as bird:
        await right_requests(bird)
        await wrong_requests(bird)
        await engines_that_fail(bird)
        await clients_that_leave(bird)
        last = await bird.ask()
        request_id = last.headers["x-request-id"]
        assert bird.traces(CANARY) == bird.traces(bird.key) == []
        assert any("terascope.db" in path for path in bird.traces(request_id))  # it does look where things are kept
        await asyncio.to_thread(bird.process.stop, signal.SIGKILL)  # the write-ahead log stays as it is
        assert (tmp_path / "data" / "terascope.db-wal").exists()
        assert bird.traces(CANARY) == bird.traces(bird.key) == []
        assert CANARY not in bird.process.printed()
        logged = [json.loads(line) for line in bird.process.log.read_text().splitlines()]
        assert {line["level"] for line in logged} >= {"info", "warning"}
        assert request_id not in [line.get("request_id") for line in logged]  # nothing was wrong with that one


async def right_requests(bird: Bird) -> None:
    """The text in every place of a request that an engine honours or lets through."""
    tool = {"type": "function", "function": {"name": CANARY, "description": CANARY, "parameters": {"title": CANARY}}}
    called = {"id": CANARY, "type": "function", "function": {"name": CANARY, "arguments": f'{{"x": "{CANARY}"}}'}}
    conversation = [
        {"role": "system", "content": CANARY, "name": CANARY},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": CANARY, "content": CANARY},
        {"role": "user", "content": [{"type": "text", "text": CANARY}]},
    ]
    asked: list[dict[str, Any]] = [
        {}, {"stream": True}, {"messages": conversation}, {"stop": [CANARY]}, {"user": CANARY, "metadata": [CANARY]},
        {"tools": [tool], "tool_choice": "required"}, {CANARY: CANARY}, {"logprobs": True, "top_logprobs": 3},
        {"reasoning_effort": CANARY}, {"model": "local"}, {"model": "local", "stream": True, "stop": CANARY},
        {"cache_salt": CANARY, "reproducible": True}, {"model": "far", "cache_salt": CANARY},
        {"model": "far"}, {"model": "far", "stream": True, "fault": "reflect"},
    ]  # fmt: skip
    for fields in asked:
        answer = await bird.ask(**fields)
        assert answer.status_code == 200, (fields, answer.text)
    assert CANARY in (await bird.ask()).text
    for path, fields in (
        ("/v1/completions", {"prompt": CANARY, "echo": True}),
        ("/v1/embeddings", {"input": [CANARY, CANARY]}),
        ("/tokenize", {"prompt": CANARY, "return_token_strs": True}),
    ):
        assert (await bird.ask(path, **fields)).status_code == 200
        assert (await bird.ask(path, **fields | {"model": "local"})).status_code == 200


async def wrong_requests(bird: Bird) -> None:
    """The text in requests that are refused: by the gateway, by an engine, by the server below both."""
    chat, text = "/v1/chat/completions", CANARY.encode()
    choice = {"type": "function", "function": {"name": CANARY}}
    wrong: list[dict[str, Any]] = [
        {"messages": [{"role": CANARY, "content": {CANARY: 1}}]}, {"messages": CANARY}, {"temperature": CANARY},
        {"stream": CANARY}, {"stop": [CANARY] * 99}, {"tool_choice": choice},
        {"encoding_format": CANARY, "n": 0}, {"response_format": {"type": CANARY}}, {"logit_bias": {CANARY: CANARY}},
    ]  # fmt: skip
    for fields in wrong:
        for model in ("echo", "local"):
            answer = await bird.ask(**fields | {"model": model})
            assert answer.status_code == 400, (fields, answer.text)
    for model in (CANARY, f"my patient {CANARY}", f"echo@{CANARY}", CANARY * 1000):
        assert (await bird.ask(model=model)).status_code in (400, 404)
    bodies = [b"{" + text, b'["' + text + b'"]', b'{"model": "echo", "messages": [{"content": "' + text, b"\xff" + text]
    for body in bodies:
        assert (await bird.http.post(chat, content=body)).status_code == 400
        for path in ("/admin/v1/keys", "/admin/v1/models"):
            assert (await bird.http.post(path, content=body)).status_code == 400
    assert (await bird.ask("/v1/embeddings", input=CANARY, encoding_format=CANARY)).status_code == 400
    headers = {"Authorization": f"Bearer {CANARY}", "X-Terascope-Deadline": CANARY}
    assert (await bird.http.post(chat, content=text, headers=headers)).status_code == 401
    assert (await bird.http.post(chat, content=text, headers={"X-Terascope-Deadline": CANARY})).status_code == 400
    sharing = {"X-Terascope-Prefix-Sharing": CANARY}
    assert (await bird.http.post(chat, content=text, headers=sharing)).status_code == 400
    assert (await bird.http.get(f"/{CANARY}?prompt={CANARY}")).status_code == 404
    assert (await bird.http.get(f"/admin/v1/runs/{CANARY}")).status_code == 404


async def engines_that_fail(bird: Bird) -> None:
    """The text in requests whose engine does every wrong thing it knows."""
    before = len(bird.engine.received)
    asked = [bird.ask(model="far", stream=stream, fault=name) for name in ENDING for stream in (False, True)]
    answers = await asyncio.gather(*asked)
    assert {answer.status_code for answer in answers} >= {200, 400, 429, 502, 503}
    assert len(bird.engine.received) >= before + len(answers)
    assert all(CANARY in str(one.fields) for one in bird.engine.received[before:])


async def clients_that_leave(bird: Bird) -> None:
    """The text in requests whose client leaves, before and in mid-answer, and whose deadline passes."""
    body: dict[str, Any] = {"model": "far", "messages": [SAID], "stream": True}
    left = bird.engine.left
    for fault in ("hold", "silent"):
        begun = asyncio.create_task(bird.ask(**body | {"fault": fault}))
        await asyncio.wait_for(bird.engine.until(lambda engine: engine.running > 0), 30)
        begun.cancel()
        await asyncio.wait_for(bird.engine.until(lambda engine: engine.running == 0), 30)
    assert bird.engine.left == left + 2
    headers = {"X-Terascope-Deadline": "0.1"}
    answer = await bird.http.post("/v1/chat/completions", json=body | {"fault": "silent"}, headers=headers)
    assert answer.status_code == 504
