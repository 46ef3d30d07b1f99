"""Reproducible answers of a model whose vocabulary is so large that PyTorch splits a sum over it among threads."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from terascope.engines.torch.model import CausalModel, load_causal
from terascope.engines.torch.settings import WorkerSettings

from .conftest import Client, make_tokenizer

VOCABULARY = 49152


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> CausalModel:
    directory = tmp_path_factory.mktemp("wide")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    return load_causal(WorkerSettings(directory, "tiny", dtype="float32", cache_tokens=2048), lambda _: None)


@pytest.mark.usefixtures("two_threads")
async def test_log_probabilities_are_the_same_among_neighbours(wide: CausalModel, start: Callable[..., Any]) -> None:
    client: Client = await start(wide)

    async def ask(number: int) -> Any:
        fields = {"reproducible": True, "temperature": 1, "seed": number, "logprobs": 2, "max_tokens": 12}
        answer = await client.ask("v1/completions", prompt=[number + 5] * 6, ignore_eos=True, **fields)
        return answer["choices"]

    alone = [await ask(number) for number in range(4)]
    assert await asyncio.gather(*map(ask, range(4))) == alone
