"""The operator's view: of a real gateway, and how two looks become rates."""

import io
import re

import httpx
import pytest
from rich.console import Console

from terascope.cli.status import drawn, pairs, tokens_per_second
from terascope.client import Client
from terascope.protocol.status import QueueStanding, ReplicaStanding, Status
from terascope.testing.gateway import Served

from .conftest import Cli


def test_it_is_drawn_once(cli: Cli) -> None:
    shown = cli("status", "--once", "--interval", "0.2").out
    assert re.search(r"^deployment +model +where +state +ready", shown, re.MULTILINE)
    assert re.search(r"^echo +echo\S* +this machine +ready +1/1 +0 +0\.0", shown, re.MULTILINE)
    assert re.search(r"^replica_\w+ +echo +ready", shown, re.MULTILINE)
    assert "nobody waits" in shown


def test_as_json_it_counts(cli: Cli, gateway: Served) -> None:
    before = cli("status", "--json").json["replicas"]
    body = {"model": "echo", "messages": [{"role": "user", "content": "one two three"}]}
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=gateway.headers)
    assert answer.status_code == 200
    after = cli("status", "--json").json["replicas"]
    [was] = [one for one in before if one["deployment"] == "echo"]
    [is_now] = [one for one in after if one["deployment"] == "echo"]
    assert is_now["requests"] == was["requests"] + 1
    assert is_now["completion_tokens"] - was["completion_tokens"] == answer.json()["usage"]["completion_tokens"]


def test_only_operators_see_it(gateway: Served) -> None:
    made = httpx.post(f"{gateway.url}/admin/v1/keys", json={"name": "a"}, headers=gateway.headers).json()
    with Client(gateway.url, made["key"]) as client, pytest.raises(Exception, match="operator"):
        client.status()


def standing(tokens: int, **fields: object) -> ReplicaStanding:
    values: dict[str, object] = {
        "id": "r1", "deployment": "d", "model": "m@1", "status": "ready", "message": "", "job": "17", "changed": 0.0,
        "in_flight": 1, "requests": 2, "failed": 0, "prompt_tokens": 0, "completion_tokens": tokens,
    }  # fmt: skip
    return ReplicaStanding(**values | fields)


def look(time: float, *replicas: ReplicaStanding) -> Status:
    queues = [QueueStanding(model="m@1", qos="batch", waiting=3)]
    return Status(time=time, deployments=[], replicas=list(replicas), queues=queues)


def test_rates_are_between_two_looks() -> None:
    before, now = look(10.0, standing(100)), look(12.0, standing(150), standing(7, id="new"))
    assert tokens_per_second(before, now) == {"r1": 25.0}
    assert tokens_per_second(now, now) == {}


def test_each_look_is_seen_with_the_one_before() -> None:
    looks = iter([look(1.0), look(2.0), look(3.0)])
    found = pairs(lambda: next(looks), lambda: None)
    assert [(a.time, b.time) for a, b in (next(found), next(found))] == [(1.0, 2.0), (2.0, 3.0)]


def test_what_others_wrote_does_not_steer_the_terminal() -> None:
    now = look(1.0, standing(0, message="\x1b[2Jboo"))
    (console := Console(file=io.StringIO(), width=200)).print(drawn(now, now))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b" not in text
    assert "boo" in text
    assert re.search(r"m@1 +batch +3", text)
