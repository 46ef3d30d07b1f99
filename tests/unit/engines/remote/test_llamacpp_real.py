"""The remote engine at real servers of llama.cpp: the conformance suite, what the server would pass over, a gateway."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
import torch
from harness import llamacpp
from openai.types.chat import ChatCompletionMessageParam
from transformers import AutoModel, AutoTokenizer

from terascope.core.errors import EngineUnreachable
from terascope.core.models import Feature
from terascope.engines.contract import Endpoint, EngineCall
from terascope.engines.remote.adapter import RemoteEngine
from terascope.engines.remote.retries import Retries
from terascope.testing.engine_subject import Subject, content, user
from terascope.testing.engines import ENGINE_CHECKS, EngineCheck
from terascope.testing.gateway import Served

from .conftest import KEY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
_LACKS = {Feature.ECHO, Feature.DIMENSIONS, Feature.ENFORCED_TOOLS, Feature.REPRODUCIBLE}  # tools: see `plain`
_BESIDE = ("answers_side_by_side", "priorities")  # its numbers depend on what is computed beside a request
_SAY: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Count from one to ten."}]
_GREEDY = {"temperature": 0, "max_tokens": 6}


@asynccontextmanager
async def subject_at(url: str, name: str = "smol", key: str = "") -> AsyncIterator[Subject]:
    engine = RemoteEngine(Endpoint(url, key), served_name=name)
    try:
        yield Subject(engine, name, await engine.probe())
    finally:
        await engine.aclose()


@pytest.mark.parametrize("check", [one for one in ENGINE_CHECKS if one.name not in _BESIDE], ids=lambda one: one.name)
async def test_conformance(check: EngineCheck, smol: str) -> None:
    async with subject_at(smol) as subject:
        if not check.applies(subject):
            assert check.features & _LACKS
            return
        await check.run(subject)
    assert len(asyncio.all_tasks()) == 1


async def test_conformance_of_an_embedding_model(mini: str) -> None:
    ran = []
    for check in ENGINE_CHECKS:
        async with subject_at(mini, "mini") as subject:
            if check.applies(subject, generates=False):
                await check.run(subject)
                ran.append(check.name)
    assert ran == ["says_what_it_is", "embeddings", "bad_inputs", "closing"]


async def test_what_it_says_of_itself(smol: str, plain: str, mini: str) -> None:
    async with subject_at(smol) as subject:
        info = subject.info
        assert (info.engine, info.slots, info.context_length) == ("remote", 4, 2048)
        assert info.version
        assert dict(info.details) == {"kind": "llamacpp", "upstream_model": "smol"}
        assert info.capabilities.endpoints == {
            "chat/completions", "completions", "embeddings", "tokenize", "detokenize",
        }  # fmt: skip
        assert Feature.TOOLS not in info.capabilities.features  # this model's template has no place for them
        assert "llamacpp:" in await subject.engine.metrics()
    async with subject_at(plain, key=KEY) as subject:
        assert (subject.info.slots, subject.info.context_length) == (2, 512)
        assert "embeddings" not in subject.info.capabilities.endpoints
    async with subject_at(mini, "mini") as subject:
        assert not {"chat/completions", "completions"} & subject.info.capabilities.endpoints


async def test_a_wrong_key_and_a_wrong_name_are_unreachable(plain: str) -> None:
    for name, key, words in (
        ("smol", "no such key", "key|Key"),
        ("large", KEY, "does not list 'large'; it lists smol"),
    ):
        with pytest.raises(EngineUnreachable, match=words):
            async with subject_at(plain, name, key):
                pass


async def test_tools_reach_a_model_whose_template_has_a_place_for_them(plain: str) -> None:
    """A call that is demanded comes, as often as it is asked for and with arguments that fit."""
    string = {"type": "string", "maxLength": 8}
    kinds = {"type": "object", "properties": {"q": string}, "required": ["q"], "additionalProperties": False}
    fitting = {"type": "function", "function": {"name": "find", "parameters": kinds}}
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
    async with subject_at(plain, key=KEY) as subject:
        assert Feature.TOOLS in subject.info.capabilities.features
        [check] = [one for one in ENGINE_CHECKS if one.name == "required_tool"]
        assert check.applies(subject)
        await check.run(subject)
        named = {"type": "function", "function": {"name": "find"}}
        asked = {"tools": [tool, fitting], "tool_choice": named, "n": 2, "max_tokens": 60}
        for choice in (await subject.chat("Find x.", **asked))["choices"]:
            assert choice["finish_reason"] == "tool_calls"
            [call] = choice["message"]["tool_calls"]
            assert json.loads(call["function"]["arguments"]).keys() == {"q"}
        unknown = await subject.ask("chat/completions", messages=user("x"), **asked | {"tools": [tool]})
        assert (unknown.status, unknown.error["param"]) == (400, "tool_choice")
        cut = (await subject.chat("Find x.", **asked | {"max_tokens": 2}))["choices"][0]
        assert (cut["finish_reason"], cut["message"].get("tool_calls")) == ("length", None)
        bare, shown = [
            (await subject.chat("Look.", max_tokens=2, **fields))["usage"]["prompt_tokens"]
            for fields in ({}, {"tools": [tool], "tool_choice": "auto"})
        ]
        wrong = await subject.ask("chat/completions", messages=user("x"), tools=[{"type": "function"}])
    assert shown > bare + 10
    assert (wrong.status, wrong.error["param"]) == (400, "tools[0].function")


async def test_while_it_loads_it_is_unreachable(smol_file: Path, tmp_path: Path) -> None:
    """It listens from its beginning on, and says that it loads; once it answers it can be used."""
    said = set()
    with llamacpp.starting(smol_file, "smol", tmp_path / "log") as (url, process):
        engine = RemoteEngine(Endpoint(url), served_name="smol", retries=Retries(0))
        for _ in range(3000):
            assert process.running(), process.tail()
            try:
                assert (await engine.probe()).slots == 4
                break
            except EngineUnreachable as error:
                said.add(error.message)
                await asyncio.sleep(0.01)
        assert (await Subject(engine, "smol", await engine.probe()).chat("Hi", max_tokens=2))["choices"]
    with pytest.raises(EngineUnreachable):
        await engine.probe()
    await engine.aclose()
    assert "Loading model" in said


@pytest.mark.parametrize(
    ("endpoint", "fields", "param"),
    [
        ("chat/completions", {"tool_choice": "required"}, "tool_choice"),
        ("chat/completions", {"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ("chat/completions", {"repetition_penalty": 1.2}, "repetition_penalty"),
        ("chat/completions", {"min_tokens": 3}, "min_tokens"),
        ("chat/completions", {"stop_token_ids": [1]}, "stop_token_ids"),
        ("chat/completions", {"structured_outputs": {"choice": ["a"]}}, "structured_outputs"),
        ("chat/completions", {"cache_salt": "mine"}, "cache_salt"),
        ("chat/completions", {"max_tokens": 0}, "max_tokens"),
        ("chat/completions", {"top_logprobs": 2}, "top_logprobs"),
        ("chat/completions", {"logit_bias": {"5": "x"}}, "logit_bias.5"),
        ("chat/completions", {"response_format": {"type": "json_schema"}}, "response_format"),
        ("completions", {"suffix": "x"}, "suffix"),
        ("completions", {"echo": True}, "echo"),
        ("completions", {"best_of": 3}, "best_of"),
        ("completions", {"add_special_tokens": False}, "add_special_tokens"),
        ("embeddings", {"dimensions": 8}, "dimensions"),
        ("embeddings", {"pooling": "cls"}, "pooling"),
        ("detokenize", {"tokens": [10**6]}, "tokens"),
        ("detokenize", {"tokens": [5], "return_pieces": True}, "return_pieces"),
        ("tokenize", {"prompt": None}, "prompt"),
    ],
)
async def test_what_it_would_pass_over_is_refused(
    endpoint: str, fields: dict[str, object], param: str, smol: str
) -> None:
    given: dict[str, dict[str, object]] = {
        "chat/completions": {"messages": user("x")}, "completions": {"prompt": "x"}, "embeddings": {"input": "x"},
    }  # fmt: skip
    async with subject_at(smol) as subject:
        said = await subject.ask(endpoint, **{"max_tokens": 1, **given.get(endpoint, {}), **fields})
    assert (said.status, said.error["param"]) == (400, param)


async def test_what_is_wrong_is_not_called_its_own_failure(smol: str) -> None:
    """It says 500 of these, which would be tried again, or has words of its own."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    asked: list[tuple[str, dict[str, object], str]] = [
        ("chat/completions", {"messages": [{"role": "user", "content": [image]}]}, "unsupported_feature"),
        ("completions", {"prompt": " a" * 2100}, "context_length_exceeded"),
        ("embeddings", {"input": " a" * 600}, "context_length_exceeded"),
    ]
    async with subject_at(smol) as subject:
        for endpoint, fields, code in asked:
            said = await subject.ask(endpoint, **fields)
            assert (said.status, said.error["code"]) == (400, code), said.body


async def test_schemas_hold_in_chats_and_completions(smol: str) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 3, "maximum": 7}, "b": {"enum": ["x", "y"]}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    async with subject_at(smol) as subject:
        chat = content(await subject.chat("Make one.", response_format=wanted, max_tokens=60, temperature=0))
        asked = {"prompt": "Make one: ", "response_format": wanted, "max_tokens": 60, "temperature": 0}
        text = (await subject.ask("completions", **asked)).good["choices"][0]["text"]
        for said in map(json.loads, (chat, text)):
            assert said.keys() == {"a", "b"}
            assert 3 <= said["a"] <= 7
            assert said["b"] in ("x", "y")
        schema["properties"] = {"a": {"type": "integer", "multipleOf": 7}}
        refused = await subject.ask("chat/completions", messages=user("x"), response_format=wanted)
        assert "multipleOf" in refused.error["message"]


async def test_usage_counts_all_choices_and_each_prompt_once(smol: str) -> None:
    """More of them than it works on at once, too."""
    prompts = ["one two three", "red green"]
    fields = {"prompt": prompts, "n": 3, "max_tokens": 4, "ignore_eos": True, "seed": 5, "logprobs": 1}
    async with subject_at(smol) as subject:
        alone = [(await subject.ask("completions", prompt=one, max_tokens=1)).good["usage"] for one in prompts]
        whole = (await subject.ask("completions", **fields)).good
        streamed = await subject.stream("completions", stream_options={"include_usage": True}, **fields)
    for usage in (whole["usage"], streamed.usage or {}):
        assert usage["prompt_tokens"] == sum(one["prompt_tokens"] for one in alone)
        assert usage["completion_tokens"] == 6 * 4
    texts = [choice["text"] for choice in whole["choices"]]
    assert len({*texts[:3]}) > 1  # one seed, and not one answer
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3, 4, 5] == sorted(streamed.texts)
    assert len({one["id"] for one in streamed.events}) == 1
    for choice in whole["choices"]:
        assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
        for at, token in zip(choice["logprobs"]["text_offset"], choice["logprobs"]["tokens"], strict=True):
            assert choice["text"][at:].startswith(token)


async def test_log_probabilities_are_as_many_as_were_asked_for(smol: str) -> None:
    async with subject_at(smol) as subject:
        alone = await subject.chat("Hi", logprobs=True, **_GREEDY)
        some = await subject.chat("Hi", logprobs=True, top_logprobs=2, **_GREEDY)
        none = await subject.ask("completions", prompt="one two", logprobs=0, **_GREEDY)
    bare = alone["choices"][0]["logprobs"]["content"]
    assert {len(one["top_logprobs"]) for one in bare} == {0}
    assert [one["token"] for one in bare] == [one["token"] for one in some["choices"][0]["logprobs"]["content"]]
    said = none.good["choices"][0]["logprobs"]
    assert [list(one.values()) for one in said["top_logprobs"]] == [[one] for one in said["token_logprobs"]]


async def test_seeds_of_any_size_repeat(smol: str) -> None:
    """The server takes 32 bits, and the last of them for no seed at all."""
    async with subject_at(smol) as subject:
        for seed in (2**32 - 1, 2**63 - 1, -1):
            fields = {"prompt": "Once upon", "seed": seed, "temperature": 1, "max_tokens": 8}
            said = [(await subject.ask("completions", **fields)).good["choices"][0]["text"] for _ in range(2)]
            assert said[0] == said[1]


async def test_who_leaves_stops_all_choices(smol: str) -> None:
    """Its slots are free again at once: what is left would take a minute."""
    asked = {"messages": user("Count."), "n": 6, "max_tokens": 1500, "ignore_eos": True}
    async with subject_at(smol) as subject, httpx.AsyncClient(base_url=smol) as client:
        call = EngineCall("req_1", "chat/completions", json.dumps({"model": "smol", "stream": True, **asked}).encode())
        answer = await subject.engine.generate(call)
        async for _ in answer.chunks():
            break
        await answer.aclose()
        whole = asyncio.create_task(subject.ask("chat/completions", **asked))
        async with asyncio.timeout(30):
            await _slots(client, busy=True)
            whole.cancel()
            with suppress(asyncio.CancelledError):
                await whole
            await _slots(client, busy=False)
    assert len(asyncio.all_tasks()) == 1


async def _slots(client: httpx.AsyncClient, *, busy: bool) -> None:
    """Return once one of the server's slots works, or none does."""
    for _ in range(10_000):
        if any(one["is_processing"] for one in (await client.get("/slots")).json()) is busy:
            return
        await asyncio.sleep(0.01)


async def test_more_than_it_works_on_at_once_waits_its_turn(smol: str) -> None:
    async with subject_at(smol) as subject:
        said = await asyncio.gather(*(subject.chat(f"Say {number}.", **_GREEDY) for number in range(9)))
        assert (await subject.engine.probe()).slots == 4
    assert all(one["choices"][0]["finish_reason"] for one in said)


async def test_vectors_are_the_model_s(mini: str, mini_checkpoint: Path) -> None:
    texts = ["a galaxy far away", "Unaffable na\u00efve words, running!"]
    tokens = AutoTokenizer.from_pretrained(mini_checkpoint)(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        states = AutoModel.from_pretrained(mini_checkpoint)(**tokens).last_hidden_state
    mask = tokens["attention_mask"][..., None]
    means = ((states * mask).sum(1) / mask.sum(1)).numpy()
    async with subject_at(mini, "mini") as subject:
        scaled = (await subject.ask("embeddings", input=texts)).good["data"]
        as_they_are = (await subject.ask("embeddings", input=texts, normalize=False)).good["data"]
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    assert np.allclose([one["embedding"] for one in scaled], means / lengths, atol=3e-3)
    assert np.allclose([one["embedding"] for one in as_they_are] / lengths, means / lengths, atol=3e-3)


async def test_offsets_and_names_of_tokens(smol: str) -> None:
    text = "na\u00efve \u65e5\u672c"
    async with subject_at(smol) as subject:
        said = (await subject.ask("tokenize", prompt=text, return_token_strs=True, return_offsets=True)).good
        chat = (await subject.ask("tokenize", messages=user("a"))).good
        used = (await subject.chat("a", max_tokens=1))["usage"]
    assert said["token_strs"][0] == text[slice(*said["offsets"][0])]
    assert said["offsets"][-1][1] == len(text)
    assert said["max_model_len"] == 2048
    assert chat["count"] == used["prompt_tokens"]


def test_through_a_gateway(gateway: Served) -> None:
    """Names are the gateway's own; what is counted is recorded; what cannot be done is refused in OpenAI's shape."""
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as client:
        answer = client.chat.completions.create(model="house-chat", messages=_SAY, n=2, max_tokens=5, seed=1)
        assert answer.model.startswith("house-chat@")
        assert answer.usage is not None
        assert answer.usage.completion_tokens > 5
        asked = client.chat.completions.create(
            model="house-chat", messages=_SAY, max_tokens=5, n=2, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(asked)
        assert {chunk.model for chunk in chunks} == {answer.model}
        assert chunks[-1].usage is not None
        assert sorted(one.finish_reason for chunk in chunks for one in chunk.choices if one.finish_reason) != []
        scored = client.completions.create(model="house-chat", prompt="one two three", logprobs=2, max_tokens=3)
        assert scored.choices[0].logprobs is not None
        assert len(scored.choices[0].logprobs.tokens or ()) == 3
        vectors = client.embeddings.create(model="house-vectors", input=["a", "b"])
        assert np.isclose(np.linalg.norm(vectors.data[1].embedding), 1, atol=1e-3)
        for code, fields in (
            ("unsupported_feature", {"model": "house-vectors", "messages": _SAY}),
            ("unsupported_feature", {"model": "house-chat", "messages": _SAY, "extra_body": {"min_tokens": 3}}),
            (
                "context_length_exceeded",
                {"model": "house-chat", "messages": [{"role": "user", "content": " a" * 2100}]},
            ),
        ):
            with pytest.raises(openai.BadRequestError) as refused:
                client.chat.completions.create(**fields)
            assert refused.value.code == code
    runs = httpx.get(f"{gateway.url}/admin/v1/runs", headers=gateway.headers).json()["data"]
    assert answer.usage.completion_tokens in {one["completion_tokens"] for one in runs}
