"""The two default models, against plain transformers."""

import asyncio
import json
from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from terascope.core.models import Task
from terascope.engines.contract import Endpoint
from terascope.engines.torch.encoder import load_encoder
from terascope.engines.torch.model import CausalModel, load_causal, task_of
from terascope.engines.torch.settings import WorkerSettings
from terascope.engines.upstream import HttpEngine
from terascope.testing.engine_subject import Subject
from terascope.testing.engines import ENGINE_CHECKS, check_engine

from .conftest import CACHE, Client
from .driver import Driver, computed, generated, plan
from .sent import as_npy, as_safetensors, rows_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
CHAT, TEXT = "v1/chat/completions", "v1/completions"
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
TALE = "Once upon a time, in a village by the sea, there lived"


@pytest.fixture(scope="module")
def plain(smol: CausalModel) -> PreTrainedModel:
    """SmolLM2 as transformers itself runs it."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(CACHE / "converted" / "smollm2" / "float32")
    return model.eval()


@pytest.fixture
async def client(smol: CausalModel, start: Callable[..., Any]) -> Client:
    found: Client = await start(smol, max_batch=32, step_tokens=512)
    return found


def _logprobs(model: PreTrainedModel, tokens: Sequence[int]) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=torch.tensor([list(tokens)])).logits[0]
    return logits.log_softmax(-1)


async def test_it_knows_the_capital_of_france(client: Client) -> None:
    found = await client.ask(CHAT, messages=FRANCE, temperature=0)
    assert found["choices"][0]["message"]["content"] == "The capital of France is Paris."
    assert found["choices"][0]["finish_reason"] == "stop"
    assert found["usage"]["prompt_tokens"] == 37


async def test_greedy_is_that_of_transformers(client: Client, smol: CausalModel, plain: PreTrainedModel) -> None:
    tokens = smol.vocabulary.encode(TALE, special=True)
    with torch.inference_mode():
        expected = plain.generate(torch.tensor([tokens]), max_new_tokens=48, do_sample=False, min_new_tokens=48)[0]
    found = await client.ask(TEXT, prompt=TALE, temperature=0, max_tokens=48, logprobs=5, ignore_eos=True)
    choice = found["choices"][0]
    assert choice["text"] == smol.vocabulary.decode(expected[len(tokens) :].tolist())
    right = _logprobs(plain, expected.tolist())[len(tokens) - 1 : -1]
    own = right.gather(-1, expected[len(tokens) :, None])[:, 0]
    assert choice["logprobs"]["token_logprobs"] == pytest.approx(own.tolist(), abs=1e-4)
    best = [sorted(rivals.values(), reverse=True)[:5] for rivals in choice["logprobs"]["top_logprobs"]]
    assert torch.tensor(best).flatten().tolist() == pytest.approx(right.topk(5).values.flatten().tolist(), abs=1e-4)


async def test_prompts_are_scored_as_by_transformers(client: Client, smol: CausalModel, plain: PreTrainedModel) -> None:
    text = (TALE + " a fisherman who spoke to the waves. ") * 40  # over one step
    found = (await client.ask(TEXT, prompt=text, max_tokens=0, echo=True, logprobs=0))["choices"][0]
    tokens = smol.vocabulary.encode(text, special=True)
    assert len(tokens) > 600
    expected = _logprobs(plain, tokens)[:-1].gather(-1, torch.tensor(tokens[1:])[:, None])[:, 0]
    assert found["logprobs"]["token_logprobs"][1:] == pytest.approx(expected.tolist(), abs=2e-4)
    assert found["text"] == text
    assert [text[at:].startswith(t) for at, t in zip(*_offsets(found), strict=True)] == [True] * len(tokens)


def _offsets(choice: Any) -> tuple[list[int], list[str]]:
    return choice["logprobs"]["text_offset"], choice["logprobs"]["tokens"]


@pytest.mark.parametrize("seed", [None, 77])
def test_nothing_around_a_row_changes_it(smol: CausalModel, plain: PreTrainedModel, seed: int | None) -> None:
    """Not neighbours, prefix hits, nor into what parts its prompt is cut."""
    prompt = smol.vocabulary.encode(TALE + " a fisherman who spoke to the waves, and they answered.", special=True)
    expected, logprobs = computed(plain, prompt, 8, seed=seed)
    if seed is None:
        assert generated(plain, prompt, 8) == expected
    around = ((0, 512, False), (0, 512, True), (1, 16, True), (7, 48, False), (31, 64, True))
    for neighbours, step_tokens, warm in around:
        driver = Driver(smol, step_tokens=step_tokens)
        if warm:
            driver.alone(plan(prompt[:20], 1, scope="us"))
        for number in range(neighbours):
            driver.ask(plan([100 + number, *prompt[: number % 20]], 3 + number % 5, seed=number, scope="us"))
        found = driver.ask(plan(prompt, 8, seed=seed, scope="us"))
        driver.finish()
        assert found.cached == [16 if warm else 0]
        assert found.tokens() == expected
        assert found.logprobs() == pytest.approx(logprobs, abs=1e-4)


@pytest.mark.parametrize("neighbours", [1, 7, 31])
async def test_seeds_hold_among_neighbours(client: Client, neighbours: int) -> None:
    asked = {"messages": FRANCE, "seed": 1234, "max_tokens": 24, "temperature": 1.0, "logprobs": True}
    alone = await client.ask(CHAT, **asked)
    others = [client.ask(TEXT, prompt=f"{i} {TALE}", seed=i, max_tokens=6 + i % 20) for i in range(neighbours)]
    together = (await asyncio.gather(client.ask(CHAT, **asked), *others))[0]
    one, two = alone["choices"][0], together["choices"][0]
    assert one["message"] == two["message"]
    mine, theirs = ([t["logprob"] for t in choice["logprobs"]["content"]] for choice in (one, two))
    assert mine == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("text", ["😀🎉👩‍👩‍👧 mixed", "日本語のテキスト", "Ünïcödé ≠ ASCII", "नमस्ते"])
async def test_characters_of_several_tokens_are_never_broken(client: Client, text: str) -> None:
    """The grammar makes the model say it, token by token of its own choice."""
    events = await client.events(TEXT, prompt="Say:", guided_choice=[text], temperature=0)
    pieces = [event["choices"][0]["text"] for event in events[:-1]]
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)
    assert len(pieces) > 2
    raw = (await client.ask("tokenize", prompt=text, add_special_tokens=False))["tokens"]
    assert (await client.ask("detokenize", tokens=raw))["prompt"] == text


async def test_stops_cut_across_tokens(client: Client) -> None:
    asked = {"prompt": TALE, "temperature": 0, "max_tokens": 40}
    free = await client.text(**asked)
    for start in (5, 17, 30, 44):
        stop = free[start : start + 7]
        cut = await client.text(**asked, stop=stop)
        assert cut == free[: free.index(stop)]
        events = await client.events(TEXT, **asked, stop=[stop])
        assert "".join(event["choices"][0]["text"] for event in events[:-1]) == cut


async def test_leading_spaces_stay(client: Client) -> None:
    assert (await client.text("The capital of France is", temperature=0, max_tokens=3)).startswith(" ")


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["kind", "tall", "old"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("seed", range(3))
async def test_answers_by_schema(client: Client, seed: int) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    messages = [{"role": "user", "content": "Describe Ann, who is 30, as JSON."}]
    found = await client.ask(CHAT, messages=messages, response_format=wanted, seed=seed, max_tokens=300)
    jsonschema.validate(json.loads(found["choices"][0]["message"]["content"]), PERSON)


async def test_enforced_tool_calls(client: Client) -> None:
    tool = {"type": "function", "function": {"name": "describe", "parameters": PERSON}}
    asked = {"messages": FRANCE, "tools": [tool], "tool_choice": "required", "seed": 1, "max_tokens": 400}
    found = (await client.ask(CHAT, **asked, parallel_tool_calls=False))["choices"][0]
    assert found["finish_reason"] == "tool_calls"
    jsonschema.validate(json.loads(found["message"]["tool_calls"][0]["function"]["arguments"]), PERSON)
    error = await client.refused(CHAT, messages=FRANCE, tools=[tool])
    assert error["code"] == "unsupported_feature"


def test_gguf_is_unpacked_once_and_rightly(smol_dir: Path, tmp_path: Path, plain: PreTrainedModel) -> None:
    settings = WorkerSettings(smol_dir, "x", converted_dir=tmp_path / "kept", dtype="float32", cache_tokens=9000)
    stages: list[str] = []
    first = load_causal(settings, stages.append)
    assert stages == ["converting GGUF", "warming up"]
    stages.clear()
    second = load_causal(settings, stages.append)
    assert stages == ["reading weights", "warming up"]
    for name, weight in plain.state_dict().items():
        assert torch.equal(attrgetter(name)(first.packed.module), weight)
        assert torch.equal(attrgetter(name)(second.packed.module), weight)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["float32"]
    for model in (first, second):
        assert (model.context_length, model.vocabulary.ends) == (8192, (2,))
        # SmolLM2 splits digits before anything else, so spaces before a number stay together
        tokens = model.vocabulary.encode("a  12  b", special=True)
        assert model.vocabulary.names(tokens) == ["a", "ĠĠ", "1", "2", "Ġ", "Ġb"]


@pytest.mark.parametrize("check", ENGINE_CHECKS, ids=lambda one: one.name)
async def test_conformance_of_the_language_model(smol: CausalModel, start: Callable[..., Any], check: Any) -> None:
    client: Client = await start(smol, secret="s")
    engine = HttpEngine(Endpoint(f"unix:{client.server.socket}", "s"), served_name="tiny")
    subject = Subject(engine, "tiny", await engine.probe())
    assert check.applies(subject) or check.endpoint == "embeddings"
    if check.applies(subject):
        await check.run(subject)
    await engine.aclose()


async def test_conformance_of_the_embedding_model(minilm_dir: Path, start: Callable[..., Any]) -> None:
    client: Client = await start(load_encoder(WorkerSettings(minilm_dir, "tiny"), lambda _: None), secret="s")
    engine = HttpEngine(Endpoint(f"unix:{client.server.socket}", "s"), served_name="tiny")
    ran = await check_engine(engine, model="tiny", generates=False)
    assert {"embeddings", "dimensions", "bad_inputs", "closing"} <= set(ran)


async def test_embeddings(minilm_dir: Path, start: Callable[..., Any]) -> None:
    settings = WorkerSettings(minilm_dir, "tiny")
    assert task_of(settings) is Task.EMBED
    encoder = load_encoder(settings, lambda _: None)
    assert (encoder.context_length, encoder.width, encoder.pooling, encoder.normalize) == (256, 384, "mean", True)
    client: Client = await start(encoder)
    texts = ["A cat sits on the mat.", "Ein Kätzchen.", "Quantum chromodynamics " * 20, "x"]
    found = [np.array(one["embedding"]) for one in (await client.ask("v1/embeddings", input=texts))["data"]]
    tokenizer, model = AutoTokenizer.from_pretrained(minilm_dir), AutoModel.from_pretrained(minilm_dir)
    for text, vector in zip(texts, found, strict=True):
        with torch.inference_mode():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        assert vector == pytest.approx((states / states.norm()).numpy(), abs=1e-5)
    assert (await client.refused("v1/embeddings", input="word " * 300))["code"] == "context_length_exceeded"


def test_embeddings_of_many_lengths_at_once(minilm_dir: Path) -> None:
    encoder = load_encoder(WorkerSettings(minilm_dir, "tiny"), lambda _: None)
    assert encoder.batching.name == "packed"
    plain = AutoModel.from_pretrained(minilm_dir)
    rows = [[101, *((i * 37 + j * 11) % 20000 + 1000 for j in range(i * 6 % 250)), 102] for i in range(48)]
    for row, vector in zip(rows, encoder.embed(rows), strict=True):
        with torch.inference_mode():
            states = plain(input_ids=torch.tensor([row])).last_hidden_state[0].mean(0)
        torch.testing.assert_close(vector, states / states.norm(), atol=1e-5, rtol=0)


async def test_rows_of_the_table_are_the_text(client: Client, smol: CausalModel) -> None:
    """Given as vectors, whole or in part, alone and beside others, on both endpoints."""
    tokens = smol.vocabulary.encode(TALE, special=True)
    options: dict[str, Any] = {"max_tokens": 32, "temperature": 0, "logprobs": 2, "ignore_eos": True}
    plain = (await client.ask(TEXT, prompt=TALE, **options))["choices"][0]
    vectors = [{"type": "prompt_embeds", "prompt_embeds": as_npy(rows_of(smol, tokens))}]
    mixed = [
        {"type": "tokens", "tokens": tokens[:5]},
        {"type": "prompt_embeds", "prompt_embeds": as_safetensors(rows_of(smol, tokens[5:11]))},
        {"type": "tokens", "tokens": tokens[11:]},
    ]
    other = {"prompt": "It was the best of times", "max_tokens": 32}
    asked = [client.ask(TEXT, prompt_embeds=one, **options) for one in (vectors, mixed)]
    *found, _ = await asyncio.gather(*asked, client.ask(TEXT, **other))
    for one in found:
        choice = one["choices"][0]
        assert choice["text"] == plain["text"]
        assert choice["logprobs"]["token_logprobs"] == pytest.approx(plain["logprobs"]["token_logprobs"], abs=1e-4)
        assert one["usage"]["prompt_tokens"] == len(tokens)


async def test_a_chat_with_vectors_knows_the_capital(client: Client, smol: CausalModel) -> None:
    country = smol.vocabulary.encode(" France", special=False)
    parts = [
        {"type": "text", "text": "What is the capital of"},
        {"type": "prompt_embeds", "prompt_embeds": as_npy(rows_of(smol, country))},
        {"type": "text", "text": "?"},
    ]
    found = await client.ask(CHAT, messages=[{"role": "user", "content": parts}], temperature=0)
    assert found["choices"][0]["message"]["content"] == "The capital of France is Paris."
    assert found["usage"]["prompt_tokens"] == 37
