"""Hidden states from a real vLLM, through the gateway, against transformers."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from terascope.core.config import LayoutConfig
from terascope.engines.contract import Engine
from terascope.engines.vllm.adapter import KIND
from terascope.testing.gateway import Served

from .conftest import Gateways

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
LONG = "The library stood at the end of a long road, and the road went on. " * 20
TEXTS = ["The capital of France", "a star", LONG]
"""The last one is computed in several chunks, among the others."""


@pytest.fixture(scope="module")
def tokens(smol_checkpoint: Path) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(smol_checkpoint)
    return [tokenizer(text).input_ids for text in TEXTS]


@pytest.fixture(scope="module")
def states(smol_checkpoint: Path, tokens: list[list[int]]) -> list[tuple[Tensor, ...]]:
    """For each text the states [tokens, width] after every layer, as transformers has them."""
    model = AutoModelForCausalLM.from_pretrained(smol_checkpoint, dtype=torch.float32).eval()
    with torch.inference_mode():
        runs = [model(torch.tensor([one]), output_hidden_states=True).hidden_states for one in tokens]
    return [tuple(layer[0] for layer in run) for run in runs]


def ask(served: Served, given: Any, **fields: Any) -> httpx.Response:
    body = {"model": "smol", "input": given, "encoding_format": "base64", **fields}
    return httpx.post(f"{served.url}/v1/embeddings", json=body, headers=served.headers, timeout=120)


def vectors(answer: httpx.Response) -> list[Tensor]:
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert [one["index"] for one in data] == list(range(len(data)))
    found = [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in data]
    return [torch.tensor(one).reshape(item.get("shape", (-1,))) for item, one in zip(data, found, strict=True)]


def assert_near(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    assert float((found - wanted).norm()) <= 2e-4 * float(wanted.norm())


def pooled(states: Tensor, how: str) -> Tensor:
    ranks = torch.arange(1, len(states) + 1)[:, None]
    return {
        "last": states[-1], "cls": states[0], "mean": states.mean(0), "max": states.amax(0), "none": states,
        "weighted": (states * ranks).sum(0) / ranks.sum(),
    }[how]  # fmt: skip


@pytest.mark.parametrize(
    ("layer", "pooling"),
    [(0, "none"), (1, "mean"), (17, "none"), (-2, "weighted"), (29, "max"), (30, "cls"), (-1, "last")],
)
def test_every_layer_is_that_of_transformers(
    smol_gateway: Served, states: list[tuple[Tensor, ...]], layer: int, pooling: str
) -> None:
    found = vectors(ask(smol_gateway, TEXTS, layer=layer, pooling=pooling, normalize=False))
    for one, run in zip(found, states, strict=True):
        assert_near(one, pooled(run[layer], pooling))


def test_without_options_it_is_the_last_token_scaled(
    smol_gateway: Served, states: list[tuple[Tensor, ...]], tokens: list[list[int]]
) -> None:
    answer = ask(smol_gateway, tokens[:2], encoding_format="float")
    assert answer.status_code == 200, answer.text
    for item, run in zip(answer.json()["data"], states, strict=False):
        assert_near(torch.tensor(item["embedding"]), torch.nn.functional.normalize(run[-1][-1], dim=-1))
    assert answer.json()["model"] == "smol@1"
    assert answer.json()["usage"]["prompt_tokens"] == sum(map(len, tokens[:2]))
    cut = ask(smol_gateway, TEXTS[0], dimensions=8)
    assert_near(vectors(cut)[0], torch.nn.functional.normalize(states[0][-1][-1][:8], dim=-1))
    applied = orjson.loads(cut.headers["x-terascope-applied"])
    assert applied["dimensions_by"] == "truncation"
    assert (applied["layer"], applied["pooling"], applied["normalize"]) == ("last", "last", True)


def test_a_prefix_that_is_known_is_computed_again(smol_gateway: Served, states: list[tuple[Tensor, ...]]) -> None:
    """Of a prefix out of the cache there would be no states."""
    body = {"model": "smol", "prompt": LONG, "max_tokens": 1}
    for _ in range(2):
        assert httpx.post(f"{smol_gateway.url}/v1/completions", json=body, headers=smol_gateway.headers).is_success
        [found] = vectors(ask(smol_gateway, LONG, layer=3, pooling="none"))
        assert_near(found, states[2][3])


@pytest.mark.parametrize(
    ("given", "fields", "code", "words"),
    [
        ("a", {"layer": 31}, None, "the model has 30 layers"),
        ("a", {"dimensions": 577}, None, "have 576"),
        ([], {}, None, "not 0"),
        (["a", ""], {}, None, r"input[1] is empty"),
        ([1, 999_999], {}, None, "vocabulary"),
        ("word " * 5000, {}, None, "4096"),
        ("a", {"pooling": "median"}, None, "pooling"),
        ("a", {"truncate": "end"}, "unsupported_feature", "embedding_options"),
        ("a", {"windows": {"size": 8}}, "unsupported_feature", "embedding_options"),
        ("a", {"stream": True}, "unsupported_feature", "embedding_options"),
    ],
)
def test_what_cannot_be_is_refused(smol_gateway: Served, given: Any, fields: Any, code: Any, words: str) -> None:
    answer = ask(smol_gateway, given, **fields)
    assert answer.status_code == 400, answer.text
    assert words in answer.json()["error"]["message"]
    if code:
        assert answer.json()["error"]["code"] == code


async def test_a_client_that_leaves_stops_the_work(smol_gateway: Served) -> None:
    """vLLM counts what it has finished: not all of it."""
    [replica] = smol_gateway.services.fleet.ready()
    engine = KIND.connect(replica.launch, replica.endpoint)
    body = {"model": "smol", "input": [LONG] * 40, "encoding_format": "base64"}
    async with httpx.AsyncClient(headers=smol_gateway.headers, timeout=120) as client:
        before = await counted(engine, "request_success_total")
        asked = asyncio.create_task(client.post(f"{smol_gateway.url}/v1/embeddings", json=body))
        async with asyncio.timeout(60):
            while not await counted(engine, "num_requests_running"):
                continue
        asked.cancel()
        async with asyncio.timeout(30):
            while await counted(engine, "num_requests_running", "num_requests_waiting"):
                continue
        assert await counted(engine, "request_success_total") - before < 40
    await engine.aclose()
    assert len(vectors(ask(smol_gateway, "a star"))) == 1


async def counted(engine: Engine, *names: str) -> float:
    """The sum of what vLLM counts under `names`."""
    lines = (await engine.metrics()).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(tuple(f"vllm:{name}{{" for name in names)))


def test_the_route_is_behind_the_key(smol_gateway: Served) -> None:
    """And vLLM's own way to its workers, which has none, is not there."""
    [replica] = smol_gateway.services.fleet.ready()
    socket = replica.endpoint.url.removeprefix("unix:")
    with httpx.Client(transport=httpx.HTTPTransport(uds=socket), base_url="http://vllm") as client:
        assert client.get("/v1/terascope/states").status_code == 401
        assert client.post("/v1/terascope/states", json={}).status_code == 401
        assert client.post("/collective_rpc", json={"method": "terascope_open"}).status_code == 404
    gone = httpx.post(f"{smol_gateway.url}/v1/terascope/states", json={}, headers=smol_gateway.headers)
    assert gone.status_code == 404


def test_a_model_over_two_ranks(vllm_gateway: Gateways, llama_checkpoint: Path) -> None:
    """Tensor parallel: log-probabilities and states are those of transformers."""
    model = AutoModelForCausalLM.from_pretrained(llama_checkpoint, dtype=torch.float32).eval()
    given = [1, 100, 200, 300, 400, 500]
    with torch.inference_mode():
        run = model(torch.tensor([given]), output_hidden_states=True)
    logprobs = run.logits[0].log_softmax(-1)
    options = {"enforce-eager": "", "hidden-states": ""}
    with vllm_gateway("llama", llama_checkpoint, layout=LayoutConfig(tensor=2), options=options) as served:
        body = {"model": "llama", "prompt": given, "echo": True, "logprobs": 1, "max_tokens": 0}
        said = httpx.post(f"{served.url}/v1/completions", json=body, headers=served.headers, timeout=90)
        assert said.status_code == 200, said.text
        found = said.json()["choices"][0]["logprobs"]["token_logprobs"][1:]
        assert found == pytest.approx([float(logprobs[at, token]) for at, token in enumerate(given[1:])], abs=1e-4)
        for layer in (2, 4):
            [states] = vectors(ask(served, given, model="llama", layer=layer, pooling="none"))
            assert_near(states, run.hidden_states[layer][0])
