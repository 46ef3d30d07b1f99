"""The edge between what fits and what does not: exact, and the same for more memory, more GPUs and the torch worker."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from terascope.core.errors import ConfigError
from terascope.engines.torch.cache import BLOCK
from terascope.engines.torch.model import load_causal
from terascope.engines.torch.settings import WorkerSettings
from terascope.planner import Cluster, find_model, make_load, memory, parse_cluster, search
from terascope.planner.engines import as_kept, engine_named
from terascope.planner.layout import Layout, refusal
from terascope.planner.precision import FORMATS

from ..engines.torch.conftest import make_tokenizer  # noqa: TID252 - tests are no package with a name
from .small_models import small_model

MODELS = ("kimi-k2", "deepseek-v3", "llama-3.1-70b", "gpt-oss-120b", "qwen3-235b-a22b", "qwen3.5-122b-a10b")
SHARE, MIB = 0.9, 2**20
SIZES = st.sampled_from((1, 2, 4, 8))


def _with(cluster: Cluster, bytes_: float) -> Cluster:
    return replace(cluster, gpu=replace(cluster.gpu, memory=bytes_))


@given(
    model=st.sampled_from(MODELS), tp=SIZES, pp=SIZES, cache=st.sampled_from(("bf16", "fp8")),
    tokens=st.integers(1, 100_000), gigabytes=st.integers(8, 300),
)  # fmt: skip
def test_what_is_missing_makes_it_fit_and_less_does_not(
    model: str, tp: int, pp: int, cache: str, tokens: int, gigabytes: int
) -> None:
    shapes, layout = find_model(model), Layout(tp, pp, 1, 1, 1, FORMATS["fp8"], cache)
    if refusal(shapes, layout):
        return
    cluster = _with(parse_cluster("8x8xH200"), gigabytes * 1e9)
    held = memory(shapes, cluster, layout, SHARE)
    missing = held.missing(tokens)
    assert (missing == 0) == (held.sequences(tokens) >= 1)
    enough = memory(shapes, _with(cluster, cluster.gpu.memory + (missing + 1) / SHARE), layout, SHARE)
    assert enough.sequences(tokens) >= max(1, held.sequences(tokens))
    if missing > MIB:
        less = memory(shapes, _with(cluster, cluster.gpu.memory + (missing - MIB) / SHARE), layout, SHARE)
        assert less.sequences(tokens) == 0


@settings(max_examples=10, deadline=None)
@given(model=st.sampled_from(MODELS), gigabytes=st.integers(10, 200), tokens=st.integers(1000, 60_000))
def test_the_shortfall_of_a_search_is_exact(model: str, gigabytes: int, tokens: int) -> None:
    shapes, load = find_model(model), make_load(tokens, 500)
    cluster = _with(parse_cluster("8xH200"), gigabytes * 1e9)
    found = search(shapes, cluster, load)
    if found.plans:
        assert found.missing == 0
        return
    assert found.missing > 0
    assert search(shapes, _with(cluster, cluster.gpu.memory + (found.missing + 1) / SHARE), load).plans
    assert not search(shapes, _with(cluster, cluster.gpu.memory + (found.missing - MIB) / SHARE), load).plans


@pytest.mark.parametrize(("model", "gpu"), [("kimi-k2", "H200"), ("deepseek-v3", "H100"), ("kimi-k3", "B200")])
def test_what_fits_on_some_nodes_fits_on_more(model: str, gpu: str) -> None:
    load = make_load(4000, 500)
    works = [bool(search(find_model(model), parse_cluster(f"{n}x8x{gpu}"), load).plans) for n in range(1, 6)]
    assert works == sorted(works)
    assert works[-1]


@pytest.mark.parametrize("kind", ["llama", "qwen3_moe", "deepseek_v3"])
def test_the_torch_worker_starts_with_room_for_one_sequence_and_not_with_less(kind: str, tmp_path: Path) -> None:
    """The worker keeps a block more than a sequence: it may be one token into it."""
    model, shapes = small_model(kind)
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    kept = as_kept(shapes, engine_named("torch"))
    held = memory(kept, parse_cluster("H100"), Layout(1, 1, 1, 1, 1, FORMATS["bf16"]))
    context = 96
    room = replace(held, cache=context * held.per_token + held.per_sequence)
    assert room.sequences(context) == 1
    assert replace(room, cache=room.cache - 1).sequences(context) == 0
    assert _cache(tmp_path, context, room.context(10**6) + BLOCK) == context + BLOCK
    with pytest.raises(
        ConfigError, match=f"one request of {context} tokens needs {context + BLOCK} tokens of KV cache"
    ):
        _cache(tmp_path, context, room.context(10**6) + BLOCK - 1)


def _cache(directory: Path, context: int, tokens: int) -> int:
    settings = WorkerSettings(directory, "tiny", context_length=context, cache_tokens=tokens)
    return load_causal(settings, lambda _: None).packed.cache_tokens
