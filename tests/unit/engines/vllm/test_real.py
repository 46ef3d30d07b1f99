"""The conformance suite on real servers of vLLM, and what a user of the gateway in front of one sees."""

import asyncio
from itertools import pairwise
from pathlib import Path

import httpx
import openai
import orjson
import pytest
import torch
from transformers import DeepseekV3ForCausalLM, LlamaForCausalLM, PreTrainedModel

from terascope.core.config import LayoutConfig
from terascope.core.models import Feature
from terascope.engines.contract import Engine, EngineCall
from terascope.engines.vllm.adapter import KIND
from terascope.fleet.replica import Replica
from terascope.testing.engine_subject import Subject
from terascope.testing.engines import ENGINE_CHECKS, EngineCheck, check_engine
from terascope.testing.gateway import Served
from terascope.testing.slurm import SlurmCluster

from .conftest import Gateways

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
_LACKS = {Feature.ENFORCED_TOOLS, Feature.TOOLS, Feature.SEVERAL_GREEDY, Feature.REPRODUCIBLE, Feature.DIMENSIONS}


def _replica(served: Served) -> Replica:
    [replica] = served.services.fleet.ready()
    return replica


def _engine(served: Served) -> Engine:
    """An adapter of this event loop to the engine that the gateway has started."""
    replica = _replica(served)
    return KIND.connect(replica.launch, replica.endpoint)


@pytest.mark.parametrize("check", ENGINE_CHECKS, ids=lambda one: one.name)
async def test_conformance(check: EngineCheck, smol_gateway: Served) -> None:
    engine = _engine(smol_gateway)
    try:
        subject = Subject(engine, "smol@1", await engine.probe())
        if not check.applies(subject):
            assert check.endpoint == "embeddings" or check.features & _LACKS
            return
        await check.run(subject)
    finally:
        await engine.aclose()


async def test_what_it_says_of_itself(smol_gateway: Served) -> None:
    info = _replica(smol_gateway).info
    assert info is not None
    assert (info.engine, info.context_length, info.dtype) == ("vllm", 4096, "float32")
    assert info.version.startswith("0.")
    assert dict(info.details)["layout"] == "tp1 pp1 dp1"
    engine = _engine(smol_gateway)
    assert "vllm:num_requests_running" in await engine.metrics()
    await engine.aclose()
    assert _replica(smol_gateway).row.url.startswith("unix:")


def test_a_stranger_s_client_through_the_gateway(smol_gateway: Served) -> None:
    with openai.OpenAI(base_url=f"{smol_gateway.url}/v1", api_key=smol_gateway.key) as client:
        messages = [{"role": "user", "content": "What is the capital of France?"}]
        answer = client.chat.completions.create(model="smol", messages=messages, temperature=0)  # type: ignore[arg-type]
        assert "Paris" in (answer.choices[0].message.content or "")
        assert answer.model == "smol@1"
        asked = {"model": "smol", "messages": messages, "temperature": 0, "stream": True}
        events = client.chat.completions.create(**asked)  # type: ignore[call-overload]
        text = "".join(event.choices[0].delta.content or "" for event in events)
        assert text == answer.choices[0].message.content


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt_embeds": "AAAA"},
        {"reproducible": True},
        {"n": 2, "temperature": 0},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"},
    ],
)
def test_what_it_cannot_do_is_refused_by_name(smol_gateway: Served, fields: dict[str, object]) -> None:
    body = {"model": "smol", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2, **fields}
    said = httpx.post(f"{smol_gateway.url}/v1/chat/completions", json=body, headers=smol_gateway.headers)
    assert said.status_code == 400, said.text
    assert said.json()["error"]["code"] == "unsupported_feature"


async def test_a_client_that_leaves_stops_the_work(smol_gateway: Served) -> None:
    """Its running requests are counted by vLLM itself."""
    body = {"model": "smol", "messages": [{"role": "user", "content": "x"}], "stream": True, "ignore_eos": True}
    engine = _engine(smol_gateway)
    async with (
        httpx.AsyncClient(headers=smol_gateway.headers) as client,
        client.stream("POST", f"{smol_gateway.url}/v1/chat/completions", json=body) as answer,
    ):
        await anext(answer.aiter_bytes())
        assert await _running(engine) == 1
    async with asyncio.timeout(10):
        while await _running(engine):
            continue
    await engine.aclose()


async def _running(engine: Engine) -> float:
    metrics = (await engine.metrics()).splitlines()
    return sum(float(line.split()[-1]) for line in metrics if line.startswith("vllm:num_requests_running{"))


async def test_prefixes_are_shared_within_a_scope_only(smol_gateway: Served) -> None:
    """vLLM counts what it did not have to compute: a prompt of another scope is computed anew."""
    engine = _engine(smol_gateway)
    prompt = "The library stood at the end of a long road. " * 60
    subject = Subject(engine, "smol@1", await engine.probe())
    hits = [await _hits(engine)]
    for scope in ("one", "one", "another", "", ""):
        await Scoped(subject, scope).ask(prompt)
        hits.append(await _hits(engine))
    await engine.aclose()
    more = [after > before for before, after in pairwise(hits)]
    assert more == [False, True, False, False, True]


class Scoped:
    """Asks in the name of a scope."""

    def __init__(self, subject: Subject, scope: str) -> None:
        self._subject = subject
        self._scope = scope

    async def ask(self, prompt: str) -> None:
        body = orjson.dumps({"model": self._subject.model, "prompt": prompt, "max_tokens": 1})
        answer = await self._subject.engine.generate(EngineCall("req_scope", "completions", body, self._scope))
        assert answer.status == 200
        assert [chunk async for chunk in answer.chunks()]


async def _hits(engine: Engine) -> float:
    metrics = (await engine.metrics()).splitlines()
    return sum(float(line.split()[-1]) for line in metrics if line.startswith("vllm:prefix_cache_hits_total{"))


async def test_embeddings_of_a_job(vllm_gateway: Gateways, minilm_checkpoint: Path, slurm: SlurmCluster) -> None:
    """A pooling model in vLLM, as a job of Slurm, reached through the door of its node."""
    with vllm_gateway("mini", minilm_checkpoint, site="cluster") as served:
        assert _replica(served).row.url.startswith("at:/")
        ran = await check_engine(_engine(served), model="mini@1", generates=False)
        assert {"embeddings", "bad_inputs"} <= set(ran)
        assert served.services.fleet.modes("mini@1") == {"embed"}


def test_a_pipeline_over_two_nodes(vllm_gateway: Gateways, short_checkpoint: Path, slurm: SlurmCluster) -> None:
    """Half of the layers on each of two nodes of a job, without Ray. Compiled for nothing: it starts sooner so."""
    layout = LayoutConfig(pipeline=2, nodes=2)
    fields = {"site": "cluster", "layout": layout, "context_length": 512, "max_batch": 4,
              "options": {"compilation-config": '{"backend": "eager"}'}}  # fmt: skip
    with vllm_gateway("wide", short_checkpoint, **fields) as served:
        _scores_as(LlamaForCausalLM.from_pretrained(short_checkpoint), served, within=1e-3)
        assert dict(_replica(served).info.details)["layout"] == "tp1 pp2 dp1 on 2 nodes"  # type: ignore[union-attr]
        log = httpx.get(f"{served.url}/admin/v1/deployments/wide/log?rank=1", headers=served.headers, timeout=30)
        assert "vllm" in log.json()["text"].lower()


def test_latent_attention_and_experts(vllm_gateway: Gateways, deepseek_checkpoint: Path) -> None:
    """The numbers are those of transformers. On one rank: two on two cores wait for each other for minutes at times."""
    with vllm_gateway("deepseek", deepseek_checkpoint) as served:
        model = DeepseekV3ForCausalLM.from_pretrained(deepseek_checkpoint)
        _scores_as(model, served, within=2e-2)  # vLLM keeps latent vectors in fewer bits


def _scores_as(model: PreTrainedModel, served: Served, *, within: float) -> None:
    """The gateway's only model gives the tokens of a prompt the probabilities that `model` of transformers gives."""
    ids = [1, 100, 200, 300, 400, 500]
    with torch.no_grad():
        expected = torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), -1)
    name = _replica(served).served_name
    body = {"model": name, "prompt": ids, "echo": True, "logprobs": 1, "max_tokens": 0}
    said = httpx.post(f"{served.url}/v1/completions", json=body, headers=served.headers, timeout=90)
    assert said.status_code == 200, said.text
    found = said.json()["choices"][0]["logprobs"]["token_logprobs"]
    wanted = [expected[at, token].item() for at, token in enumerate(ids[1:])]
    assert max(wanted) - min(wanted) > 0.1
    assert found[1:] == pytest.approx(wanted, abs=within)
