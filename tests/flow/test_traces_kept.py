"""Traces by reference, of a real model through the whole gateway."""

import hashlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import orjson
import pytest
import safetensors.torch
import torch

from terascope.cli import settings
from terascope.client import Client
from terascope.core.config import DEFAULT_MODELS, Config, DeploymentConfig, FilesConfig
from terascope.core.errors import BadRequest, QuotaExceeded
from terascope.testing.gateway import Served, running_gateway

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
MODEL = "smollm2-135m-instruct"
PROMPTS = ["The Eiffel Tower is in", "The Colosseum is in"]
EVERYWHERE = [{"capture": "blocks.*.residual.post"}]
ROOM = 400_000_000


@pytest.fixture(scope="module")
def gateway() -> Iterator[Served]:
    config = Config(
        models={MODEL: DEFAULT_MODELS[MODEL]},
        deployments=[DeploymentConfig(model=MODEL)],
        files=FilesConfig(max_project_bytes=ROOM, projects={"poor": 1000}),
    )
    with running_gateway(config, cache_dir=settings.cache_dir()) as served:
        yield served


@pytest.fixture
def client(gateway: Served) -> Iterator[Client]:
    with Client(gateway.url, gateway.key) as one:
        yield one


def there(gateway: Served) -> list[str]:
    return [path.name for path in (gateway.data_dir / "files").iterdir()]


def until(condition: Callable[[], bool]) -> None:
    """Another thread decides when: look again and again."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def units(client: Client) -> float:
    """What the newest run has cost."""
    return client.runs.list(limit=1).data[0].service_units


def test_a_result_is_kept_and_fetched_by_parts(gateway: Served, client: Client) -> None:
    plan = {"model": MODEL, "prompts": PROMPTS, "operations": EVERYWHERE}
    with httpx.Client(base_url=gateway.url, headers=gateway.headers, timeout=60) as http:
        sent = http.post("/v1/traces", json=plan | {"format": "safetensors"})
        paid = units(client)
        told = http.post("/v1/traces", json=plan | {"format": "file"})
    assert told.headers["content-type"] == "application/json"
    answer = told.json()
    assert units(client) == paid > 0
    about = answer["file"]
    arrays = {name: one["shape"] for name, one in about["arrays"].items()}
    assert arrays == {name: list(one.shape) for name, one in safetensors.torch.load(sent.content).items()}
    assert about["arrays"]["0/blocks.3.residual.post"]["axes"] == ["token", "channel"]
    with client.content(about["id"]) as pieces:
        content = b"".join(pieces)
    assert (len(content), hashlib.sha256(content).hexdigest()) == (about["bytes"], about["sha256"])
    ours, theirs = safetensors.torch.load(content), safetensors.torch.load(sent.content)
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-4) for name in theirs)
    size = sum(one.nbytes for one in ours.values())
    assert len(content) <= 1.02 * size
    header = int.from_bytes(content[:8], "little")
    start, end = orjson.loads(content[8 : 8 + header])["1/blocks.7.residual.post"]["data_offsets"]
    with client.content(about["id"], 8 + header + start, 8 + header + end) as pieces:
        one = torch.frombuffer(bytearray(b"".join(pieces)), dtype=torch.float32)
    assert torch.equal(one.reshape(-1, 576), ours["1/blocks.7.residual.post"])
    assert [row["tokens"] for row in answer["rows"]] == [row["tokens"] for row in told.json()["rows"]]
    client.files.remove(about["id"])


def test_the_sdk_tells_of_it(gateway: Served, client: Client) -> None:
    found = client.traces.run(MODEL, PROMPTS, EVERYWHERE, format="file")
    assert found.file is not None
    assert [len(row.tokens) for row in found.rows] == [6, 6]
    assert client.files.get(found.file.id).purpose == "trace_output"
    assert client.files.list(purpose="trace_output").data[0].id == found.file.id
    client.files.remove(found.file.id)


def test_what_is_larger_than_the_worker_keeps_flows_into_the_store(gateway: Served, client: Client) -> None:
    """Over 64 MiB the worker sends arrays while it makes others."""
    long = [{"tokens": [index % 1000 for index in range(1000)]}] * 2
    found = client.traces.run(MODEL, long, EVERYWHERE, format="file")
    assert found.file is not None
    assert found.file.bytes > 2 * 30 * 1000 * 576 * 4
    assert "errors" not in found.file.arrays
    client.files.remove(found.file.id)


def test_an_estimate_keeps_nothing(gateway: Served, client: Client) -> None:
    found = client.traces.run(MODEL, PROMPTS, EVERYWHERE, format="file", dry_run=True)
    assert found.estimate is not None
    assert (found.file, there(gateway)) == (None, [])


def test_a_row_that_fails_leaves_nothing(gateway: Served, client: Client) -> None:
    infinite = {"scale": "blocks.3.residual.post", "by": 3e38}
    with pytest.raises(Exception, match=r"infinit|not a number|NaN"):
        client.traces.run(
            MODEL, PROMPTS[:1], [infinite, {"scale": "blocks.3.residual.post", "by": 3e38}, *EVERYWHERE], format="file"
        )
    assert there(gateway) == []
    assert units(client) == 0


def test_what_cannot_be_kept(gateway: Served, client: Client) -> None:
    with pytest.raises(BadRequest, match="not streamed"):
        client.traces.run(MODEL, PROMPTS, EVERYWHERE, format="file", stream=True)
    client.projects.create("poor")
    client.projects.allow("poor", "*", ["internals"])
    client.allocations.grant("poor", 10)
    asked: dict[str, Any] = {"model": MODEL, "prompts": PROMPTS, "operations": EVERYWHERE, "format": "file"}
    headers = gateway.headers | {"X-Terascope-Project": "poor"}
    refused = httpx.post(f"{gateway.url}/v1/traces", json=asked, headers=headers, timeout=60).json()["error"]
    assert refused["code"] == QuotaExceeded.code
    assert there(gateway) == []
    assert units(client) == 0


def test_a_client_that_leaves_in_the_middle(gateway: Served, client: Client) -> None:
    tokens = [{"tokens": [index % 1000 for index in range(1000)]}] * 4
    body = orjson.dumps({"model": MODEL, "prompts": tokens, "operations": EVERYWHERE, "format": "file"})
    head = f"POST /v1/traces HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}\r\ncontent-length: {len(body)}"
    with socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2])), timeout=60) as connection:
        connection.sendall(f"{head}\r\n\r\n".encode() + body)
        until(lambda: any(name.endswith(".part") for name in there(gateway)))
    until(lambda: there(gateway) == [])
    until(lambda: client.runs.list(limit=1).data[0].outcome == "cancelled")
