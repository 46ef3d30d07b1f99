"""Text and tokens beside vectors: what they become, and rows of a model's table against those that torch reads."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from safetensors.torch import save, save_file

from terascope.core.config import DeploymentConfig
from terascope.core.errors import BadRequest, ContextLengthExceeded, UnsupportedFeature
from terascope.core.models import Feature, ModelVersion, Task
from terascope.engines.contract import Launch
from terascope.engines.vllm.adapter import capabilities
from terascope.engines.vllm.mixing import in_parts
from terascope.engines.vllm.table import Table, table_of
from terascope.engines.vllm.vectors import Form, with_vectors

SIZE, WIDTH = 50, 3
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_TOKENS = some.lists(some.integers(0, SIZE - 1), min_size=1, max_size=8)


def checkpoint(into: Path, dtype: torch.dtype = torch.float32, kind: str = "llama", also: str = "") -> Path:
    """A checkpoint with nothing but an embedding table and what stands around it in its file."""
    into.mkdir(exist_ok=True)
    table = torch.randn(SIZE, WIDTH, generator=torch.Generator().manual_seed(0)).to(dtype)
    tensors = {"a.weight": torch.ones(5), "model.embed_tokens.weight": table, "z.weight": torch.ones(7)}
    tensors |= {also: table.clone()} if also else {}
    save_file(tensors, into / "model.safetensors")
    (into / "config.json").write_text(json.dumps({"model_type": kind, "hidden_size": WIDTH}))
    return into


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[torch.dtype, Form]:
    root = tmp_path_factory.mktemp("tables")
    return {dtype: Form.of(str(checkpoint(root / str(dtype), dtype)), "", 12) for dtype in DTYPES}


def expected(dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(SIZE, WIDTH, generator=torch.Generator().manual_seed(0)).to(dtype)


def vectors(rows: torch.Tensor) -> dict[str, str]:
    return {"type": "prompt_embeds", "prompt_embeds": base64.b64encode(save({"a": rows.contiguous()})).decode()}


def converted(parts: list[Any], form: Form) -> torch.Tensor:
    [text] = with_vectors("completions", {"prompt_embeds": parts}, form)["prompt_embeds"]
    found: torch.Tensor = torch.load(io.BytesIO(base64.b64decode(text)), weights_only=True)
    return found


@given(some.sampled_from(DTYPES), some.sampled_from([*DTYPES, torch.float64]), _TOKENS, some.integers(1, 4))
def test_tokens_are_rows_of_the_table(
    forms: dict[torch.dtype, Form], dtype: torch.dtype, sent: torch.dtype, tokens: list[int], count: int
) -> None:
    """In their places, as the numbers that they are; of one type where all have it."""
    own = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(count)).to(sent)
    found = converted([{"type": "tokens", "tokens": tokens}, vectors(own)], forms[dtype])
    assert found.dtype == (dtype if dtype == sent else torch.float32)
    assert torch.equal(found.float(), torch.cat([expected(dtype)[tokens].float(), own.float()]))


@pytest.mark.parametrize(
    ("tokens", "kind", "words"),
    [
        ([SIZE], BadRequest, "from 0 to 49"),
        ([-1], BadRequest, "from 0 to 49"),
        ([True], BadRequest, "from 0 to 49"),
        (["a"], BadRequest, "from 0 to 49"),
        ([1] * 13, ContextLengthExceeded, "takes 12 tokens"),
        ([], BadRequest, "nothing in the prompt"),
    ],
)
def test_tokens_that_cannot_be(
    forms: dict[torch.dtype, Form], tokens: list[Any], kind: type[BadRequest], words: str
) -> None:
    with pytest.raises(kind, match=words) as refused:
        converted([{"type": "tokens", "tokens": tokens}], forms[torch.float32])
    assert refused.value.param == "prompt_embeds"


def test_without_a_table_nothing_is_mixed() -> None:
    for tokens in ([1], []):
        with pytest.raises(UnsupportedFeature, match="vectors alone"):
            converted([{"type": "tokens", "tokens": tokens}, vectors(torch.zeros(1, WIDTH))], Form(WIDTH, 1.0))


def test_which_tables_are_read(tmp_path: Path) -> None:
    """One alone, of a family that takes its rows as they are, with floats in it."""
    assert isinstance(table_of(str(checkpoint(tmp_path / "plain"))), Table)
    assert table_of(str(checkpoint(tmp_path / "two", also="language_model.embed_tokens.weight"))) is None
    assert table_of(str(checkpoint(tmp_path / "scaled", kind="gemma3_text"))) is None
    assert table_of(str(checkpoint(tmp_path / "whole", torch.int8))) is None
    assert table_of(str(tmp_path / "nowhere")) is None
    damaged = checkpoint(tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes((damaged / "model.safetensors").read_bytes()[:-400])
    assert table_of(str(damaged)) is None


def test_what_can_be_mixed_is_said(tmp_path: Path) -> None:
    for kind, mixes in (("llama", True), ("gemma3_text", False)):
        directory = str(checkpoint(tmp_path / kind, kind=kind))
        version = ModelVersion("big", "1", "abc", "path:/m", directory, Task.GENERATE, 4096)
        deployment = DeploymentConfig(model="big", engine="vllm", options={"enable-prompt-embeds": ""})
        features = capabilities(Launch(deployment, version)).features
        assert Feature.PROMPT_EMBEDS in features
        assert (Feature.MIXED_COMPLETIONS in features) is mixes


async def tokenize(text: str, special: bool) -> list[int]:
    """A token for each character, and a 1 before them."""
    return [1] * special + [ord(character) for character in text]


def tokens(*found: int) -> dict[str, Any]:
    return {"type": "tokens", "tokens": list(found)}


OWN = {"type": "prompt_embeds", "prompt_embeds": "AAAA"}


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"prompt_embeds": [{"type": "text", "text": "a"}, OWN]}, [[tokens(1, 97), OWN]]),
        ({"prompt_embeds": [OWN, {"type": "text", "text": "a"}]}, [[OWN, tokens(97)]]),
        ({"prompt_embeds": [[OWN], [tokens(5), {"type": "text", "text": "a"}]]}, [[OWN], [tokens(5), tokens(97)]]),
        ({"prompt_embeds": ["AAAA"], "soft_prompt": "AAAA"}, [[OWN, OWN]]),
        ({"prompt": "a", "soft_prompt": "AAAA"}, [[OWN, tokens(1, 97)]]),
        ({"prompt": "a", "soft_prompt": "AAAA", "add_special_tokens": False}, [[OWN, tokens(97)]]),
        ({"prompt": [7, 8], "soft_prompt": "AAAA"}, [[OWN, tokens(7, 8)]]),
        ({"prompt": [[7], [8]], "soft_prompt": "AAAA"}, [[OWN, tokens(7)], [OWN, tokens(8)]]),
        ({"prompt": ["a", "b"], "soft_prompt": "AAAA"}, [[OWN, tokens(1, 97)], [OWN, tokens(1, 98)]]),
    ],
)
async def test_what_stands_where(fields: dict[str, Any], parts: list[Any]) -> None:
    found = await in_parts({"model": "big", "n": 2, **fields}, tokenize)
    assert found.pop("prompt_embeds") == parts
    assert not found.keys() & {"prompt", "soft_prompt"}
    assert (found["model"], found["n"]) == ("big", 2)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompt": "a", "prompt_embeds": [OWN]}, "parts of `prompt_embeds` can be text"),
        ({"soft_prompt": "AAAA"}, "must be given"),
        ({"prompt_embeds": [OWN, {"type": "text"}]}, "`type`"),
        ({"prompt_embeds": [OWN, {"type": "tokens", "tokens": "a"}]}, "`type`"),
        ({"prompt_embeds": [OWN, "a"]}, "`type`"),
    ],
)
async def test_what_is_no_prompt(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        await in_parts(fields, tokenize)
