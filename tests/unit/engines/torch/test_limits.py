"""Input that is too long, too much, too early gone, or a lie."""

import asyncio
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedModel

from terascope.core.errors import ConfigError
from terascope.engines.torch.cache import BLOCK
from terascope.engines.torch.checkpoint import explained
from terascope.engines.torch.loop import BatchLoop
from terascope.engines.torch.model import CausalModel, load_causal
from terascope.engines.torch.settings import WorkerSettings

from .conftest import Client

CHAT, TEXT = "v1/chat/completions", "v1/completions"
Start = Callable[..., Any]
SCOPE = {"X-Terascope-Scope": "us"}


def _idle(loop: BatchLoop) -> bool:
    held = loop._schedule
    held._pool.check()
    left = (held.running, held.waiting, loop._rows, loop._job_of, loop._followers)
    return not any(left) and held._pool.free == held._pool.blocks


async def _becomes(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the loop's thread knows no events of ours
            await asyncio.sleep(0.002)


async def _message(client: Client, tokens: int) -> list[dict[str, str]]:
    """A chat that is so many tokens long."""
    bare = (await client.ask("tokenize", messages=[{"role": "user", "content": ""}]))["count"]
    messages = [{"role": "user", "content": "q" * (tokens - bare)}]
    assert (await client.ask("tokenize", messages=messages))["count"] == tokens
    return messages


@pytest.mark.parametrize("asked", [{}, {"max_tokens": 1}, {"max_completion_tokens": 1}], ids=str)
async def test_chats_around_the_limit(client: Client, tiny: CausalModel, asked: dict[str, int]) -> None:
    limit = tiny.context_length
    under = await client.ask(CHAT, messages=await _message(client, limit - 1), **asked)
    assert (under["usage"]["prompt_tokens"], under["usage"]["total_tokens"]) == (limit - 1, limit)
    assert under["choices"][0]["finish_reason"] in ("length", "stop")
    for length in (limit, limit + 1):
        error = await client.refused(CHAT, messages=await _message(client, length), **asked)
        assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
        assert f"maximum context length is {limit}" in error["message"]
        assert f"{length} tokens" in error["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_completions_around_the_limit(client: Client, tiny: CausalModel, stream: bool) -> None:
    limit = tiny.context_length
    for length in (limit - 1, limit, limit + 1):
        body = {"model": "tiny", "prompt": [5] * length, "stream": stream, "ignore_eos": True}
        async with client.session.post(f"http://engine/{TEXT}", json=body) as response:
            found = (await response.read()).decode()
            assert response.status == (200 if length < limit else 400)
        if length >= limit:
            assert json.loads(found)["error"]["code"] == "context_length_exceeded"


async def test_the_longest_prompt_is_found_again(client: Client, tiny: CausalModel) -> None:
    prompt = [(3 * i) % 290 for i in range(tiny.context_length - 1)]
    body = {"model": "tiny", "prompt": prompt, "cache_salt": "longest", "temperature": 0}
    first, second = [(await client.post(TEXT, body, headers=SCOPE))[1] for _ in range(2)]
    assert first["choices"] == second["choices"]
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == (len(prompt) - 1) // BLOCK * BLOCK


@pytest.mark.slow
async def test_a_thousand_at_once(tiny: CausalModel, start: Start) -> None:
    client: Client = await start(tiny, max_batch=32, step_tokens=512)

    async def ask(number: int) -> None:
        prompt = [(number + i) % 290 for i in range(1 + number % 40)]
        asked: dict[str, Any] = {"prompt": prompt, "max_tokens": 3, "ignore_eos": True, "seed": number}
        if number % 3:
            answer = await client.ask(TEXT, **asked)
            assert answer["usage"]["completion_tokens"] == 3
            assert answer["choices"][0]["finish_reason"] == "length"
        else:
            events = await client.events(TEXT, **asked)
            assert events[-1] == "[DONE]"
            assert [e["choices"][0]["finish_reason"] for e in events[:-1]][-1] == "length"

    await asyncio.gather(*(ask(number) for number in range(1000)))
    await _becomes(lambda: _idle(client.server.loop))


async def test_two_hundred_that_leave_after_their_first_token(tiny: CausalModel, start: Start) -> None:
    client: Client = await start(tiny, max_batch=32)
    asked = {"prompt": "x", "max_tokens": 20, "seed": 1, "ignore_eos": True}
    expected = await client.text(**asked)

    async def leave(number: int) -> None:
        body: dict[str, Any] = {"model": "tiny", "prompt": f"{number} is a number", "stream": True, "ignore_eos": True}
        body |= {"n": 1 + number % 3} | ({"reproducible": True} if number % 5 == 0 else {})
        response = await client.session.post(f"http://engine/{TEXT}", json=body, headers=SCOPE)
        assert response.status == 200
        assert (await response.content.readline()).startswith(b"data: {")
        response.close()

    await asyncio.gather(*(leave(number) for number in range(200)))
    await _becomes(lambda: _idle(client.server.loop))
    assert await client.text(**asked) == expected


def _changed(source: Path, target: Path, name: str, change: Callable[[str], str | None]) -> Path:
    """A copy of the checkpoint with one file changed, or without it."""
    directory = shutil.copytree(source, target / "changed")
    text = change((directory / name).read_bytes().decode(errors="replace"))
    if text is None:
        (directory / name).unlink()
    else:
        (directory / name).write_text(text)
    return directory


def _load(directory: Path) -> CausalModel:
    return load_causal(WorkerSettings(directory, "tiny", max_batch=2), lambda _: None)


def _with(**lies: Any) -> Callable[[str], str]:
    return lambda text: json.dumps(json.loads(text) | lies)


LIES: list[tuple[dict[str, Any], str]] = [
    ({"vocab_size": 400}, r"lm_head.weight is \[418, 64\] but should be \[400, 64\]"),
    ({"vocab_size": 500}, r"embed_tokens.weight is \[418, 64\] but should be \[500, 64\]"),
    ({"num_hidden_layers": 1}, r"model.layers.1.\S+ is one too many.* and 6 more"),
    ({"num_hidden_layers": 3}, r"model.layers.2.\S+ is missing"),
    ({"num_hidden_layers": 0}, "torch engine"),
    ({"hidden_size": 128}, r"\[64\] but should be \[128\]"),
    ({"hidden_size": 32}, r"\[64\] but should be \[32\]"),
    ({"hidden_size": -1}, "-1"),
    ({"hidden_size": None}, "hidden_size"),
    ({"intermediate_size": 100}, r"down_proj.weight is \[64, 128\] but should be \[64, 100\]"),
    ({"num_attention_heads": 3}, r"heads \(3\)"),
    ({"num_attention_heads": 8}, "q_proj"),
    ({"num_key_value_heads": 1}, "k_proj"),
    ({"attention_bias": True}, "bias is missing"),
    ({"model_type": "gpt2"}, "is missing"),
    ({"model_type": "nonsense"}, "nonsense"),
    ({"hidden_act": "nonsense"}, "nonsense"),
    ({"vocab_size": "many"}, "many"),
    ({"max_position_embeddings": "512"}, "max_position_embeddings"),
]


@pytest.mark.parametrize(("lie", "words"), LIES, ids=[str(lie) for lie, _ in LIES])
def test_configs_that_lie(tiny_dir: Path, tmp_path: Path, lie: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        _load(_changed(tiny_dir, tmp_path, "config.json", _with(**lie)))


@pytest.mark.parametrize(
    ("lie", "context"),
    [
        ({"max_position_embeddings": 64}, 64),
        ({"max_position_embeddings": 4096}, 4096),  # positions are computed, so nothing contradicts it
        ({"max_position_embeddings": 0}, 2048),
        ({"max_position_embeddings": -5}, 2048),
        ({"eos_token_id": 9999}, 512),
        ({"tie_word_embeddings": True}, 512),  # the weights say otherwise, and transformers believes them
    ],
    ids=str,
)
def test_configs_that_lie_and_can_be_served(
    tiny_dir: Path, tmp_path: Path, tiny: CausalModel, lie: dict[str, Any], context: int
) -> None:
    found = _load(_changed(tiny_dir, tmp_path, "config.json", _with(**lie)))
    assert found.context_length == context
    assert found.vocabulary.ends == tiny.vocabulary.ends
    assert torch.equal(found.packed.module.lm_head.weight, tiny.packed.module.lm_head.weight)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("content", [None, "", "{", "[]"])
def test_files_that_are_damaged_or_gone(tiny_dir: Path, tmp_path: Path, name: str, content: str | None) -> None:
    with pytest.raises(ConfigError, match=r"the checkpoint in \S+ cannot be loaded: \w+: \S"):
        _load(_changed(tiny_dir, tmp_path, name, lambda _: content))


def test_want_of_memory_is_no_lie(tmp_path: Path) -> None:
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")):
        with pytest.raises(type(error)), explained(tmp_path):
            raise error
    with pytest.raises(ConfigError, match="the first"), explained(tmp_path):
        raise ConfigError("the first words stay")


def _saved(module: PreTrainedModel, words: Path, directory: Path) -> Path:
    """A checkpoint of `module` with the tokenizer in `words`."""
    module.save_pretrained(directory)
    for file in words.glob("tok*"):
        shutil.copy(file, directory)
    return directory


def test_weights_that_nobody_asked_for_are_told(
    tiny_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module = LlamaForCausalLM.from_pretrained(tiny_dir)
    module.register_parameter("something_else", torch.nn.Parameter(torch.ones(3)))
    assert _load(_saved(module, tiny_dir, tmp_path / "more")).context_length == 512
    (record,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert vars(record)["weights"] == ["something_else"]


async def test_a_tokenizer_that_knows_more_than_the_model(
    tiny: CausalModel, tiny_dir: Path, tmp_path: Path, start: Start
) -> None:
    """Its words are refused in the requests that use them; else a whole step would fail."""
    module = LlamaForCausalLM.from_pretrained(tiny_dir)
    module.resize_token_embeddings(len(tiny.vocabulary.table) - 1)
    small = _load(_saved(module, tiny_dir, tmp_path / "less"))
    client: Client = await start(small)
    last = tiny.vocabulary.decode([small.vocabulary.size])
    error = await client.refused(TEXT, prompt=last)
    assert (error["code"], error["param"]) == ("invalid_request", "prompt")
    assert f"has no token {small.vocabulary.size}" in error["message"]
    assert (await client.refused(CHAT, messages=[{"role": "user", "content": last}]))["param"] == "messages"
    assert await client.text("ok", max_tokens=2, ignore_eos=True) is not None


@pytest.mark.parametrize(("tokens", "fits"), [(527, False), (528, True), (529, True)])
def test_a_cache_for_exactly_one_request(tiny_dir: Path, tokens: int, fits: bool) -> None:
    settings = WorkerSettings(tiny_dir, "tiny", cache_tokens=tokens)
    if fits:
        assert load_causal(settings, lambda _: None).packed.cache_tokens >= 528
    else:
        with pytest.raises(ConfigError, match=r"512 tokens needs 528 tokens.* 0 MiB at 512 bytes each.* room for 527"):
            load_causal(settings, lambda _: None)


async def test_the_smallest_cache_serves_the_longest_requests(tiny_dir: Path, start: Start) -> None:
    model = load_causal(WorkerSettings(tiny_dir, "tiny", cache_tokens=528), lambda _: None)
    client: Client = await start(model, max_batch=4)
    asked = [{"prompt": [5 + i] * 200, "seed": i, "ignore_eos": True} for i in range(4)]
    answers = await asyncio.gather(*(client.ask(TEXT, **one) for one in asked))
    assert [answer["usage"]["total_tokens"] for answer in answers] == [512] * 4
    await _becomes(lambda: _idle(client.server.loop))
