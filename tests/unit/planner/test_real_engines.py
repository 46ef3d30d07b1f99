"""What is predicted against what engines allocate and torch counts, for small models with random weights."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache

from terascope.engines.torch.checkpoint import read_model
from terascope.engines.torch.packed import prepare
from terascope.planner import Layout, make_layout
from terascope.planner.engines import as_kept, engine_named
from terascope.planner.layout import refusal
from terascope.planner.precision import FORMATS

from .small_models import SMALL, small_model, small_shapes, write_config

VLLM = ("llama", "qwen3", "olmo2", "granite", "qwen3_moe", "minimax_m2", "glm4_moe", "gpt_oss", "deepseek_v3")
EDGES = ("llama", "qwen3_moe", "deepseek_v3")
WORKER = tuple(kind for kind in SMALL if kind != "qwen3_5_moe_text")
"""Linear attention is nothing that the torch worker serves."""
CONTEXT, BLOCK, LATENT_BLOCK = 256, 128, 16
"""Of vLLM: the longest sequence, and tokens in a block; it keeps one block for itself."""


@pytest.fixture(scope="module")
def in_vllm(vllm_python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What vLLM allocates for each model, in one process."""
    lines = "".join(json.dumps(_asked(kind, tmp_path_factory.mktemp(kind))) + "\n" for kind in VLLM)
    program = Path(__file__).with_name("vllm_memory.py")
    done = subprocess.run([vllm_python, program], input=lines, capture_output=True, text=True, timeout=280, check=False)
    found = [
        json.loads(one.removeprefix("measured ")) for one in done.stdout.splitlines() if one.startswith("measured ")
    ]
    assert [one["kind"] for one in found] == list(VLLM), done.stderr[-2000:]
    return {one["kind"]: one for one in found}


def _asked(kind: str, directory: Path) -> dict[str, Any]:
    shapes = small_shapes(kind)
    block = LATENT_BLOCK if kind == "deepseek_v3" else BLOCK
    groups = 2 if shapes.fixed_bytes() else 1  # layers with windows have blocks of their own
    held = (CONTEXT + block) * shapes.cache_bytes() * groups
    return {
        "kind": kind,
        "directory": str(write_config(kind, directory)),
        "cache_bytes": int(held),
        "edge": kind in EDGES,
    }


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", VLLM)
def test_vllm_allocates_what_is_predicted(in_vllm: dict[str, dict[str, Any]], kind: str) -> None:
    shapes, found = small_shapes(kind), in_vllm[kind]
    assert 2 * shapes.parameters == pytest.approx(found["weights"], rel=0.03)
    assert found["cache"] / found["tokens"] == pytest.approx(shapes.cache_bytes(), rel=0.03)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", EDGES)
def test_vllm_starts_with_the_cache_that_one_sequence_needs_and_not_with_less(
    in_vllm: dict[str, dict[str, Any]], kind: str
) -> None:
    assert in_vllm[kind]["starts_with_less"] is False  # and it did start with as much


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", VLLM)
def test_vllm_divides_a_model_as_the_planner_does(in_vllm: dict[str, dict[str, Any]], kind: str) -> None:
    ways = [tp for tp in range(1, 9) if not refusal(small_shapes(kind), _tensor(kind, tp))]
    assert ways == in_vllm[kind]["divisible"]


def _tensor(kind: str, ways: int) -> Layout:
    return make_layout(ways, ep=ways if small_shapes(kind).is_mixture and ways > 1 else 1, weights=FORMATS["bf16"])


@pytest.mark.parametrize("kind", WORKER)
def test_the_torch_worker_allocates_what_is_predicted(kind: str, tmp_path: Path) -> None:
    model, shapes = small_model(kind)
    model.save_pretrained(tmp_path)
    module = read_model(tmp_path, torch.float32).eval().requires_grad_(False)
    weights = {one.data_ptr(): one.nbytes() for one in (each.untyped_storage() for each in module.parameters())}
    assert 4 * shapes.parameters == pytest.approx(sum(weights.values()), rel=0.03)
    kept = as_kept(shapes, engine_named("torch"))
    assert kept.cache_bytes(4) == prepare(module)
    assert kept.fixed_bytes(4) == 0


_PRODUCTS = {getattr(torch.ops.aten, name) for name in ("linear", "matmul", "mm", "addmm", "bmm", "baddbmm")}


class _Weights(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of a model's weights that products read, each part once."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._storages = {one.untyped_storage().data_ptr() for one in model.parameters()}
        self._read: dict[tuple[int, int], int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.overloadpacket in _PRODUCTS:
            for one in args:
                if isinstance(one, torch.Tensor) and one.untyped_storage().data_ptr() in self._storages:
                    self._read[one.data_ptr(), one.numel()] = one.nbytes
        return function(*args, **(kwargs or {}))

    @property
    def read(self) -> int:
        return sum(self._read.values())


@pytest.mark.parametrize("kind", SMALL)
def test_a_new_token_reads_the_weights_that_are_predicted(kind: str) -> None:
    model, shapes = small_model(kind)
    with torch.inference_mode(), _Weights(model) as counted:
        model(torch.tensor([[5]]), use_cache=False)
    looked_up = shapes.hidden * shapes.vocabulary
    assert 4 * (shapes.active - looked_up) == pytest.approx(counted.read, rel=0.03)


@pytest.mark.parametrize(
    "kind", [kind for kind in SMALL if any(one.experts for one, _ in small_shapes(kind).feed_forward)]
)
def test_many_tokens_read_as_many_experts_as_are_predicted(kind: str) -> None:
    """On average over batches of one new token for each sequence: which experts a random model chooses is chance."""
    model, shapes = small_model(kind)
    tokens, read, rounds = 3, 0, 12
    for seed in range(rounds):
        batch = torch.randint(0, shapes.vocabulary, (tokens, 1), generator=torch.Generator().manual_seed(seed))
        with torch.inference_mode(), _Weights(model) as counted:
            model(batch, use_cache=False)
        read += counted.read
    rest = shapes.parameters - shapes.routed_parameters - shapes.hidden * shapes.vocabulary
    experts = sum(n * one.hit(tokens) * one.expert for one, n in shapes.feed_forward)
    assert 4 * (rest + experts) == pytest.approx(read / rounds, rel=0.06)


@pytest.mark.parametrize("kind", ["llama", "qwen3_moe", "glm4_moe"])
def test_a_new_token_reads_the_cache_that_is_predicted(kind: str) -> None:
    model, shapes = small_model(kind)
    with torch.inference_mode():
        cache = model(torch.arange(40)[None], past_key_values=DynamicCache(config=model.config)).past_key_values
    held = sum(one.keys.nbytes + one.values.nbytes for one in cache.layers)
    assert held == sum(n * one.read(40) * one.cache_values * 4 for one, n in shapes.attention)
