"""Vectors in and LoRA adapters on a real vLLM, through the gateway, against transformers and PEFT."""

import asyncio
import base64
import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import peft
import pytest
import torch
from safetensors.torch import save
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from terascope.client import Client
from terascope.engines.contract import EngineCall
from terascope.engines.vllm.adapter import KIND
from terascope.testing.gateway import Served

from .conftest import files_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
TEXT = "The library stood at the end of a long road, and the"
MESSAGE = "What is the capital of France?"
EMBEDS = {"type": "prompt_embeds", "prompt_embeds": "AAAA"}


@pytest.fixture(scope="module")
def model(smol_checkpoint: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(smol_checkpoint, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer(smol_checkpoint: Path) -> Any:
    return AutoTokenizer.from_pretrained(smol_checkpoint)


@pytest.fixture(scope="module")
def adapters(model: Any, smol_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three for the model, of ranks by module, too; and one for a narrower model."""
    root = tmp_path_factory.mktemp("adapters")
    targets = ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]
    made = {}
    by_module = {"rank_pattern": {"v_proj": 8}, "alpha_pattern": {"v_proj": 3}}
    kinds: list[dict[str, Any]] = [{}, {"use_rslora": True}, by_module]
    for seed, more in enumerate(kinds):
        base = AutoModelForCausalLM.from_pretrained(smol_checkpoint, dtype=torch.float32)
        made[f"a{seed}"] = _adapter(base, root / f"a{seed}", seed, peft.LoraConfig(r=4, target_modules=targets, **more))
    narrow = LlamaForCausalLM(
        LlamaConfig(hidden_size=64, intermediate_size=96, num_attention_heads=2, num_hidden_layers=2)
    )
    made["strange"] = _adapter(narrow, root / "strange", 9, peft.LoraConfig(r=4, target_modules=targets))
    return made


def _adapter(base: Any, directory: Path, seed: int, config: peft.LoraConfig) -> Path:
    made = peft.get_peft_model(base, config)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in made.named_parameters():
        if "lora_" in name:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.05
    made.save_pretrained(directory)
    return directory


@torch.inference_mode()
def _greedy(module: Any, embeds: Tensor) -> list[float]:
    """The log-probabilities of the five tokens that follow greedily."""
    found = []
    for _ in range(5):
        logprobs = module(inputs_embeds=embeds).logits[0, -1].log_softmax(-1)
        found.append(float(logprobs.max()))
        embeds = torch.cat([embeds, module.get_input_embeddings()(logprobs.argmax().view(1, 1))], 1)
    return found


def _rows(model: Any, tokens: list[int]) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model.get_input_embeddings()(torch.tensor([tokens])).clone()
        return found


def _npy(rows: Tensor) -> str:
    file = io.BytesIO()
    np.save(file, rows.reshape(-1, rows.shape[-1]).numpy())
    return base64.b64encode(file.getvalue()).decode()


def _safetensors(rows: Tensor) -> str:
    return base64.b64encode(save({"v": rows.reshape(-1, rows.shape[-1]).contiguous()})).decode()


def _ask(served: Served, path: str = "completions", **fields: Any) -> httpx.Response:
    body = {"model": "smol", "max_tokens": 5, "temperature": 0, "ignore_eos": True, "logprobs": 0, **fields}
    return httpx.post(f"{served.url}/v1/{path}", json=body, headers=served.headers, timeout=90)


def _logprobs(answer: httpx.Response, choice: int = 0) -> list[float]:
    assert answer.status_code == 200, answer.text
    found = answer.json()["choices"][choice]["logprobs"]
    return found["token_logprobs"] if "token_logprobs" in found else [one["logprob"] for one in found["content"]]


def test_rows_of_the_table_are_the_text(smol_gateway: Served, model: Any, tokenizer: Any) -> None:
    tokens = tokenizer(TEXT).input_ids
    rows = _rows(model, tokens)
    text = _ask(smol_gateway, prompt=tokens)
    parts = [{"type": "prompt_embeds", "prompt_embeds": _npy(half)} for half in (rows[0, :5], rows[0, 5:])]
    for given in (_npy(rows), _safetensors(rows), parts):
        answer = _ask(smol_gateway, prompt_embeds=given)
        assert _logprobs(answer) == pytest.approx(_logprobs(text), abs=1e-4)
        assert answer.json()["usage"]["prompt_tokens"] == len(tokens)
    assert _logprobs(text) == pytest.approx(_greedy(model, rows), abs=1e-3)


def test_text_and_tokens_beside_vectors(smol_gateway: Served, model: Any, tokenizer: Any) -> None:
    """Each part where it is written, as the tokens of all of them would be; a soft prompt before them."""
    first, second, third = (tokenizer(text).input_ids for text in ("The library stood", " at the end of", " a long"))
    middle = {"type": "prompt_embeds", "prompt_embeds": _npy(_rows(model, second).half())}
    parts = [{"type": "text", "text": "The library stood"}, middle, {"type": "tokens", "tokens": third}]
    text = _logprobs(_ask(smol_gateway, prompt=first + second + third))
    mixed = _ask(smol_gateway, prompt_embeds=parts)
    assert _logprobs(mixed) == pytest.approx(text, abs=2e-2)  # the vectors were sent in half precision
    assert mixed.json()["usage"]["prompt_tokens"] == len(first + second + third)
    soft = _ask(smol_gateway, soft_prompt=_npy(_rows(model, first)), prompt=[second + third, " at the end of"])
    assert _logprobs(soft) == pytest.approx(text, abs=1e-4)
    assert _logprobs(soft, 1) == pytest.approx(_logprobs(_ask(smol_gateway, prompt=first + second)), abs=1e-4)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"type": "tokens", "tokens": [49_152]}, "from 0 to 49151"),
        ({"type": "tokens", "tokens": [1] * 4097}, "4096"),
        ({"type": "text", "text": "word " * 4100}, "4096"),
        ({"type": "image", "text": "a"}, "`type`"),
        ({"type": "prompt_embeds", "prompt_embeds": "AAAA"}, "safetensors"),
    ],
)
def test_parts_that_cannot_be(smol_gateway: Served, model: Any, part: dict[str, Any], words: str) -> None:
    known = {"type": "prompt_embeds", "prompt_embeds": _npy(_rows(model, [1, 2]))}
    answer = _ask(smol_gateway, prompt_embeds=[{"type": "text", "text": "a"}, known, part])
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]


def test_vectors_that_are_no_words(smol_gateway: Served, model: Any, tokenizer: Any) -> None:
    """Two prompts in one request; each as transformers has it."""
    rows = _rows(model, tokenizer(TEXT).input_ids)
    prompts = [rows + 0.02 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    answer = _ask(smol_gateway, prompt="", prompt_embeds=[_npy(one) for one in prompts])
    for number, one in enumerate(prompts):
        assert _logprobs(answer, number) == pytest.approx(_greedy(model, one), abs=1e-3)


def test_vectors_in_a_chat(smol_gateway: Served, model: Any, tokenizer: Any) -> None:
    rows = _rows(model, tokenizer(MESSAGE, add_special_tokens=False).input_ids)
    content = [{"type": "prompt_embeds", "prompt_embeds": _npy(rows)}]
    asked: dict[str, Any] = {"path": "chat/completions", "logprobs": True}
    found = _ask(smol_gateway, messages=[{"role": "user", "content": content}], **asked)
    text = _ask(smol_gateway, messages=[{"role": "user", "content": MESSAGE}], **asked)
    assert _logprobs(found) == pytest.approx(_logprobs(text), abs=1e-4)
    assert found.json()["usage"] == text.json()["usage"]


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt_embeds": "AAAA", "echo": True},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, EMBEDS]}]},
        {"messages": [{"role": "user", "content": "a"}], "soft_prompt": "AAAA"},
    ],
)
def test_what_it_cannot_mix_is_refused(smol_gateway: Served, fields: dict[str, Any]) -> None:
    answer = _ask(smol_gateway, "chat/completions" if "messages" in fields else "completions", **fields)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_feature")
    assert "mixed_prompts" in answer.json()["error"]["message"]


def test_vectors_of_another_width(smol_gateway: Served) -> None:
    answer = _ask(smol_gateway, prompt_embeds=_npy(torch.zeros(2, 7)))
    assert answer.status_code == 400
    assert "[n, 576]" in answer.json()["error"]["message"]


async def test_adapters_answer_as_peft_does(
    smol_gateway: Served, adapters: dict[str, Path], smol_checkpoint: Path, tokenizer: Any
) -> None:
    """More of them than fit at once, side by side: each as PEFT has it. Then one of another model, and the base."""
    tokens = tokenizer(TEXT).input_ids
    before = _logprobs(_ask(smol_gateway, prompt=tokens))
    wanted = [_of_peft(smol_checkpoint, adapters[name], tokens) for name in ("a0", "a1", "a2")] * 2
    assert len({round(numbers[0], 3) for numbers in wanted}) == 3
    [replica] = smol_gateway.services.fleet.ready()
    engine = KIND.connect(replica.launch, replica.endpoint)
    try:
        calls = [engine.generate(_call(adapters[f"a{number % 3}"], tokens)) for number in range(6)]
        for answer, numbers in zip(await asyncio.gather(*calls), wanted, strict=True):
            said = orjson.loads(b"".join([chunk async for chunk in answer.chunks()]))
            assert said["choices"][0]["logprobs"]["token_logprobs"] == pytest.approx(numbers, abs=1e-3)
            assert said["model"] == "smol@1"
        refused = await engine.generate(_call(adapters["strange"], tokens))
        said = b"".join([chunk async for chunk in refused.chunks()])
        assert (refused.status, b"wide (in, out)" in said) == (400, True)
    finally:
        await engine.aclose()
    assert _logprobs(_ask(smol_gateway, prompt=tokens)) == pytest.approx(before, abs=1e-4)


def _of_peft(checkpoint: Path, adapter: Path, tokens: list[int]) -> list[float]:
    base = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    return _greedy(peft.PeftModel.from_pretrained(base, str(adapter)).eval(), _rows(base, tokens))


def _call(directory: Path, tokens: list[int]) -> EngineCall:
    asked = {"max_tokens": 5, "temperature": 0, "ignore_eos": True, "logprobs": 0}
    body = orjson.dumps({"model": "smol@1", "prompt": tokens, **asked})
    return EngineCall("req_adapter", "completions", body, adapter=files_of(directory))


def test_on_a_cpu_no_adapter_is_served(smol_gateway: Served, adapters: dict[str, Path]) -> None:
    """vLLM 0.32 would add one to rows that asked for none."""
    with Client(smol_gateway.url, smol_gateway.key) as client:
        client.adapters.add("a0", "smol", f"path:{adapters['a0']}", licence="mit")
    answer = _ask(smol_gateway, model="smol:a0", prompt="a")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_feature")
    assert "adapters" in answer.json()["error"]["message"]
