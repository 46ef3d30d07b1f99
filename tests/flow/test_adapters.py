"""LoRA adapters of a real model, from PEFT's files to answers, asked through the whole gateway."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import peft
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from terascope.client import Client
from terascope.core.config import Config, DeploymentConfig, ModelConfig
from terascope.core.errors import BadRequest, Conflict, ModelNotFound, NotFound
from terascope.testing.gateway import Served, running_gateway

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
PROMPT = list(range(20, 40))
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Setting:
    """A gateway with a small random model, and adapters of that and of another one."""

    served: Served
    base: Path
    adapters: tuple[Path, ...]
    other: Path


def _model(width: int, directory: Path) -> Path:
    from tokenizers import Tokenizer, models

    torch.manual_seed(width)
    config = LlamaConfig(
        vocab_size=64, hidden_size=width, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.3, eos_token_id=0, bos_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(64)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w0").save_pretrained(directory)
    return directory


def _adapter(base: Path, directory: Path, seed: int) -> Path:
    made = peft.get_peft_model(
        LlamaForCausalLM.from_pretrained(base), peft.LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS)
    )
    generator = torch.Generator().manual_seed(seed)
    for name, weight in made.named_parameters():
        if "lora_" in name:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.05
    made.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    root = tmp_path_factory.mktemp("adapters")
    base, other = _model(64, root / "base"), _model(32, root / "other")
    adapters = tuple(_adapter(base, root / f"a{seed}", seed) for seed in range(3))
    config = Config(
        models={"tiny": ModelConfig(source=f"path:{base}", aliases=["t"])},
        deployments=[DeploymentConfig(model="tiny", threads=1, options={"cache_tokens": "2000"})],
    )
    with running_gateway(config) as served:
        yield Setting(served, base, adapters, _adapter(other, root / "strange", 9))


@pytest.fixture
def client(setting: Setting) -> Iterator[Client]:
    with Client(setting.served.url, setting.served.key) as one:
        yield one


@pytest.fixture
def http(setting: Setting) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=setting.served.url, headers=setting.served.headers, timeout=60) as one:
        yield one


@torch.inference_mode()
def _expected(base: Path, adapter: Path | None) -> list[float]:
    """The log-probabilities of the tokens that follow the prompt greedily."""
    module: PreTrainedModel = LlamaForCausalLM.from_pretrained(base)
    if adapter is not None:
        module = peft.PeftModel.from_pretrained(module, str(adapter))
    module.eval()
    tokens, found = list(PROMPT), []
    for _ in range(5):
        logprobs = module(torch.tensor([tokens])).logits[0, -1].log_softmax(-1)
        tokens.append(int(logprobs.argmax()))
        found.append(float(logprobs.max()))
    return found


def _ask(http: httpx.Client, model: str) -> httpx.Response:
    asked = {"prompt": PROMPT, "max_tokens": 5, "temperature": 0, "ignore_eos": True, "logprobs": 0}
    return http.post("/v1/completions", json={"model": model, **asked})


def _logprobs(answer: httpx.Response) -> list[float]:
    assert answer.status_code == 200, answer.text
    found: list[float] = answer.json()["choices"][0]["logprobs"]["token_logprobs"]
    return found


def test_each_answers_as_peft_does(setting: Setting, client: Client, http: httpx.Client) -> None:
    added = [
        client.adapters.add(f"a{number}", "tiny", f"path:{path}", licence="mit")
        for number, path in enumerate(setting.adapters)
    ]
    for path, one in zip(setting.adapters, added, strict=True):
        answer = _ask(http, one.name)
        assert _logprobs(answer) == pytest.approx(_expected(setting.base, path), abs=2e-4)
        assert answer.json()["model"] == f"{one.name}@{one.version}"
        assert answer.headers["X-Terascope-Model"] == f"{one.name}@{one.version}"
        record = client.runs.get(answer.headers["X-Request-Id"])
        assert (record.model, record.digest, record.outcome) == (f"{one.name}@{one.version}", one.digest, "completed")
    assert _logprobs(_ask(http, "tiny")) == pytest.approx(_expected(setting.base, None), abs=2e-4)
    assert _logprobs(_ask(http, "t:a1")) == pytest.approx(_expected(setting.base, setting.adapters[1]), abs=2e-4)
    card = client.models.get("tiny:a0")
    assert (card.parent, card.digest, card.state) == (added[0].parent, added[0].digest, "ready")
    assert {"tiny", "t", "tiny:a0", "tiny:a1", "tiny:a2"} <= {one.id for one in client.models.list().data}


def test_a_stream_says_which_adapter_it_is(setting: Setting, client: Client, http: httpx.Client) -> None:
    one = client.adapters.add("a0", "tiny", f"path:{setting.adapters[0]}")
    body = {"model": one.name, "prompt": PROMPT, "max_tokens": 2, "stream": True, "ignore_eos": True}
    with http.stream("POST", "/v1/completions", json=body) as answer:
        text = "".join(answer.iter_text())
    assert f'"model":"{one.name}@{one.version}"' in text
    assert text.endswith("data: [DONE]\n\n")


def test_one_of_another_model_is_refused_when_it_is_asked_for(
    setting: Setting, client: Client, http: httpx.Client
) -> None:
    client.adapters.add("strange", "tiny", f"path:{setting.other}")
    answer = _ask(http, "tiny:strange")
    assert answer.status_code == 400
    assert "wide" in answer.json()["error"]["message"]
    assert _ask(http, "tiny").status_code == 200


def test_embeddings_are_of_the_model_itself(setting: Setting, client: Client, http: httpx.Client) -> None:
    one = client.adapters.add("a1", "tiny", f"path:{setting.adapters[1]}")
    assert http.post("/v1/embeddings", json={"model": "tiny", "input": PROMPT}).status_code == 200
    answer = http.post("/v1/embeddings", json={"model": one.name, "input": PROMPT})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_feature")
    assert "adapters" in answer.json()["error"]["message"]


def test_a_project_has_its_own(setting: Setting, client: Client, http: httpx.Client) -> None:
    with pytest.raises(NotFound):
        client.adapters.add("own", "tiny", f"path:{setting.adapters[0]}", project="physics")
    client.projects.create("physics")
    client.projects.allow("physics", "tiny")
    client.allocations.grant("physics", 100)
    client.adapters.add("own", "tiny", f"path:{setting.adapters[0]}", version="1", project="physics")
    keys: dict[str, dict[str, Any]] = {}
    for project in ("physics", "local"):
        key = client.keys.create(f"somebody of {project}", project=project).key
        keys[project] = {"Authorization": f"Bearer {key}"}
    seen = {}
    for project, headers in keys.items():
        with httpx.Client(base_url=setting.served.url, headers=headers, timeout=60) as one:
            seen[project] = (
                "tiny:own" in {card["id"] for card in one.get("/v1/models").json()["data"]},
                one.get("/v1/models/tiny:own").status_code,
                _ask(one, "tiny:own").status_code,
            )
    assert seen == {"physics": (True, 200, 200), "local": (False, 404, 403)}


def test_adding_and_removing(setting: Setting, client: Client, http: httpx.Client) -> None:
    added = client.adapters.add("gone", "tiny", f"path:{setting.adapters[2]}", version="7")
    assert client.adapters.get("tiny:gone").digest == added.digest
    assert "tiny:gone" in {one.name for one in client.adapters.list().data}
    with pytest.raises(ModelNotFound):
        client.adapters.get("tiny")
    with pytest.raises(Conflict):
        client.catalog.remove(added.parent)
    client.adapters.remove("tiny:gone@7")
    assert _ask(http, "tiny:gone").status_code == 404
    with pytest.raises(BadRequest, match="no directory"):
        client.adapters.add("nowhere", "tiny", "path:/nowhere/at/all")
