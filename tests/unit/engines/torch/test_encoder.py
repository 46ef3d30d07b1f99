"""Embedding models, by themselves and over HTTP."""

import asyncio
import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModel,
    AutoTokenizer,
    ModernBertConfig,
    MPNetConfig,
    PretrainedConfig,
    Qwen3Config,
    RobertaConfig,
)

from terascope.core.errors import ConfigError
from terascope.core.models import Task
from terascope.engines.torch.encoder import Encoder, load_encoder
from terascope.engines.torch.model import task_of
from terascope.engines.torch.settings import WorkerSettings
from terascope.protocol.openai import EmbeddingList

from .conftest import Client

PATH = "v1/embeddings"
SMALL: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
MODERN: dict[str, Any] = {"local_attention": 12, "global_attn_every_n_layers": 2, "initializer_cutoff_factor": 2.0}
SPECIAL: dict[str, Any] = {"eos_token_id": 3, "bos_token_id": 2, "cls_token_id": 2, "sep_token_id": 3}
# kind: settings, pooling, how its texts are computed, and its longest text
KINDS: dict[str, tuple[PretrainedConfig, str, str, int]] = {
    "roberta": (RobertaConfig(**SMALL | {"pad_token_id": 1}), "mean", "packed", 62),
    "modernbert": (ModernBertConfig(**SMALL, **MODERN, **SPECIAL), "cls", "packed", 64),
    "qwen3": (Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=8), "lasttoken", "packed", 64),
    "mpnet": (MPNetConfig(**SMALL | {"pad_token_id": 1}), "mean", "padded", 62),
}
POOLED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean": lambda states: states.mean(0),
    "cls": lambda states: states[0],
    "lasttoken": lambda states: states[-1],
}
TEXTS = ["the cat", "the dogs", "a", "the cat the dog the cats the dogs " * 3]


def _load(directory: Path, **settings: Any) -> Encoder:
    return load_encoder(WorkerSettings(directory, "tiny", **settings), lambda _: None)


@pytest.fixture(scope="module")
def encoder(encoder_dir: Path) -> Encoder:
    return _load(encoder_dir)


@pytest.fixture
async def client(encoder: Encoder, start: Callable[..., Any]) -> Client:
    found: Client = await start(encoder)
    return found


def _plain(directory: Path, text: str) -> list[float]:
    """Mean pooling by plain transformers, one text alone."""
    inputs = AutoTokenizer.from_pretrained(directory)(text, return_tensors="pt")
    with torch.inference_mode():
        states = AutoModel.from_pretrained(directory)(**inputs).last_hidden_state[0]
    found: list[float] = torch.nn.functional.normalize(states.mean(0), dim=-1).tolist()
    return found


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        ({"num_hidden_layers": 3}, "is missing"),
        ({"num_hidden_layers": 1}, "is one too many"),
        ({"intermediate_size": 100}, "should be"),
    ],
    ids=str,
)
def test_configs_that_lie(encoder_dir: Path, tmp_path: Path, lie: dict[str, Any], words: str) -> None:
    directory = tmp_path / "lies"
    shutil.copytree(encoder_dir, directory)
    config = directory / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | lie))
    with pytest.raises(ConfigError, match=words):
        _load(directory)


async def test_vectors_are_those_of_plain_transformers(client: Client, encoder_dir: Path) -> None:
    answer = await client.ask(PATH, input=TEXTS)
    found = EmbeddingList.model_validate(answer)
    assert [one.index for one in found.data] == [0, 1, 2, 3]
    for text, one in zip(TEXTS, found.data, strict=True):
        assert one.embedding == pytest.approx(_plain(encoder_dir, text), abs=1e-5)
    assert (
        found.usage.prompt_tokens == found.usage.total_tokens == sum(len(t.split()) + 2 + t.count("s") for t in TEXTS)
    )


async def test_base64_is_the_same_numbers(client: Client) -> None:
    floats = (await client.ask(PATH, input="the cat"))["data"][0]["embedding"]
    packed = (await client.ask(PATH, input="the cat", encoding_format="base64"))["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(packed), "<f4").tolist() == floats


async def test_dimensions_are_cut_and_scaled(client: Client) -> None:
    whole = (await client.ask(PATH, input="the cat"))["data"][0]["embedding"]
    cut = (await client.ask(PATH, input="the cat", dimensions=8))["data"][0]["embedding"]
    assert cut == pytest.approx((np.array(whole[:8]) / np.linalg.norm(whole[:8])).tolist(), abs=1e-6)
    assert (await client.ask(PATH, input="the cat", dimensions=32))["data"][0]["embedding"] == whole
    error = await client.refused(PATH, input="the cat", dimensions=33)
    assert (error["param"], "32" in error["message"]) == ("dimensions", True)


async def test_tokens_as_inputs(client: Client) -> None:
    text = await client.ask(PATH, input="the cat")
    tokens = (await client.ask("tokenize", prompt="the cat"))["tokens"]
    assert (await client.ask(PATH, input=tokens))["data"] == text["data"]
    assert len((await client.ask(PATH, input=[tokens, tokens]))["data"]) == 2


@pytest.mark.parametrize(
    "given", ["", [], [""], [[]], ["a", ""], [-1], [10_000], ["x"] * 2049, None, [1, "a"], "a " * 31, [5] * 33]
)
async def test_impossible_inputs(client: Client, given: Any) -> None:
    error = await client.refused(PATH, input=given)
    assert error["param"].startswith("input")


async def test_the_longest_text(client: Client) -> None:
    assert (await client.ask(PATH, input="a " * 30))["usage"]["prompt_tokens"] == 32
    error = await client.refused(PATH, input="a " * 31)
    assert (error["code"], "33" in error["message"]) == ("context_length_exceeded", True)


async def test_chats_are_not_for_this_model(client: Client) -> None:
    for path, body in (
        ("v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
        ("v1/completions", {}),
    ):
        assert (await client.refused(path, **body))["code"] == "unsupported_feature"


async def test_many_requests_at_once_do_not_mix(client: Client) -> None:
    texts = [f"{'the ' * (i % 7)}cat{'s' if i % 2 else ''}" for i in range(60)]
    alone = {text: (await client.ask(PATH, input=text))["data"][0]["embedding"] for text in set(texts)}
    answers = await asyncio.gather(*(client.ask(PATH, input=[text, "dog", text]) for text in texts))
    for text, answer in zip(texts, answers, strict=True):
        assert answer["data"][0]["embedding"] == pytest.approx(alone[text], abs=1e-5)
        assert answer["data"][2]["embedding"] == pytest.approx(alone[text], abs=1e-5)


async def test_what_is_not_a_number_fails_one_request(encoder_dir: Path, start: Callable[..., Any]) -> None:
    broken = _load(encoder_dir)
    dog = broken.vocabulary.encode("dog", special=False)[0]
    broken.module.get_input_embeddings().weight[dog] = torch.nan
    client: Client = await start(broken)
    fine, bad = await asyncio.gather(
        client.ask(PATH, input=["the cat"] * 20), client.post(PATH, {"model": "tiny", "input": ["a", "dog"]})
    )
    assert all(np.isfinite(one["embedding"]).all() for one in fine["data"])
    assert (bad[0], bad[1]["error"]["code"]) == (500, "engine_nan")


async def test_a_batch_that_fails_fails_its_requests(encoder_dir: Path, start: Callable[..., Any]) -> None:
    def fail(_: torch.nn.Module, given: tuple[torch.Tensor]) -> None:
        if 7 in given[0]:
            raise MemoryError

    broken = _load(encoder_dir)
    broken.module.get_input_embeddings().register_forward_pre_hook(fail)
    client: Client = await start(broken)
    status, answer, _ = await client.post(PATH, {"model": "tiny", "input": [[7]]})
    assert (status, answer["error"]["code"]) == (503, "engine_out_of_memory")
    assert (await client.ask(PATH, input=[[8]]))["usage"]["prompt_tokens"] == 1


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, lambda s: s[0]),
        ({"pooling_mode": "mean"}, lambda s: s.mean(0)),
        ({"pooling_mode": "max"}, lambda s: s.amax(0)),
        ({"pooling_mode_lasttoken": True}, lambda s: s[-1]),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, lambda s: s.sum(0) / len(s) ** 0.5),
        (
            {"pooling_mode": "weightedmean"},
            lambda s: (s * torch.arange(1, len(s) + 1)[:, None]).sum(0) / sum(range(len(s) + 1)),
        ),
    ],
)
def test_poolings(encoder_dir: Path, tmp_path: Path, said: dict[str, Any], expected: Callable[..., Any]) -> None:
    directory = shutil.copytree(encoder_dir, tmp_path / "model")
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(said))
    modules = json.loads((directory / "modules.json").read_text())[:2]
    (directory / "modules.json").write_text(json.dumps(modules))
    encoder = _load(directory)
    assert not encoder.normalize
    plain = AutoModel.from_pretrained(directory)
    rows = [encoder.vocabulary.encode(text, special=True) for text in TEXTS]
    for row, found in zip(rows, encoder.embed(rows), strict=True):
        with torch.inference_mode():
            states = plain(input_ids=torch.tensor([row])).last_hidden_state[0]
        torch.testing.assert_close(found, expected(states), atol=1e-5, rtol=1e-4)


def test_a_plain_checkpoint_is_pooled_by_mean(encoder_dir: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(encoder_dir, tmp_path / "model")
    for name in ("modules.json", "sentence_bert_config.json"):
        (directory / name).unlink()
    encoder = _load(directory)
    assert (encoder.pooling, encoder.normalize, encoder.context_length) == ("mean", True, 64)
    assert task_of(WorkerSettings(directory, "x")) is Task.EMBED


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("modules.json", '[{"type": "sentence_transformers.models.Dense", "path": ""}]', "Dense"),
        ("1_Pooling/config.json", '{"pooling_mode": "magic"}', "magic"),
        ("1_Pooling/config.json", '{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true}', "cls and mean"),
    ],
)
def test_what_is_not_known_is_refused(encoder_dir: Path, tmp_path: Path, name: str, text: str, words: str) -> None:
    directory = shutil.copytree(encoder_dir, tmp_path / "model")
    (directory / name).write_text(text)
    with pytest.raises(ConfigError, match=words):
        _load(directory)


def test_a_length_that_the_model_does_not_have(encoder_dir: Path) -> None:
    assert _load(encoder_dir, context_length=64).context_length == 64
    with pytest.raises(ConfigError, match="64"):
        _load(encoder_dir, context_length=65)


@pytest.fixture(scope="module", params=list(KINDS))
def of_kind(request: pytest.FixtureRequest, encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of another kind of model with the tokenizer of the BERT one."""
    config, pooling, _, _ = KINDS[request.param]
    directory: Path = tmp_path_factory.mktemp("kind") / request.param
    shutil.copytree(encoder_dir, directory)
    for name in ("model.safetensors", "sentence_bert_config.json"):
        (directory / name).unlink()
    torch.manual_seed(4)
    AutoModel.from_config(config).save_pretrained(directory)
    (directory / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling}))
    return directory


@pytest.fixture(scope="module")
def kind(of_kind: Path) -> tuple[Encoder, Any]:
    """The engine's encoder, and the same model as plain transformers runs it."""
    return _load(of_kind), AutoModel.from_pretrained(of_kind).eval()


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.lists(st.integers(0, 35), min_size=1, max_size=62), min_size=1, max_size=8))
def test_kinds_of_models(kind: tuple[Encoder, Any], of_kind: Path, rows: list[list[int]]) -> None:
    encoder, plain = kind
    _, pooling, batching, longest = KINDS[of_kind.name]
    assert (encoder.pooling, encoder.batching.name, encoder.context_length) == (pooling, batching, longest)
    together = encoder.embed(rows)
    for row, found in zip(rows, together, strict=True):
        torch.testing.assert_close(found, encoder.embed([row])[0], atol=1e-5, rtol=0)
        with torch.inference_mode():
            states = plain(input_ids=torch.tensor([row])).last_hidden_state[0]
        expected = torch.nn.functional.normalize(POOLED[pooling](states), dim=-1)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_decoder_keeps_nothing(encoder_dir: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(encoder_dir, tmp_path / "model")
    AutoModel.from_config(KINDS["qwen3"][0]).save_pretrained(directory)
    encoder = _load(directory)
    encoder.module.set_attn_implementation("sdpa")
    assert encoder.module(input_ids=torch.tensor([[5, 6]])).past_key_values is None


def test_half_precision(encoder_dir: Path, encoder: Encoder) -> None:
    half = _load(encoder_dir, dtype="bfloat16")
    rows = [encoder.vocabulary.encode(text, special=True) for text in TEXTS]
    assert (half.dtype, half.batching.name) == ("bfloat16", "packed")
    found = half.embed(rows)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, encoder.embed(rows), atol=0.03, rtol=0)
