"""Step times: against arithmetic by hand, and what must hold for every layout."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.planner import find_model, make_layout, parse_cluster, parse_config
from terascope.planner.constants import Constants, band, constants
from terascope.planner.precision import FORMATS
from terascope.planner.roofline import Roofline, Work

_PARTS = {"stream", "stream_experts", "unpack", "stream_cache", "multiply", "multiply_experts", "attend",
          "attend_decode", "reduce", "exchange", "network", "imbalance", "imbalance_prompt"}  # fmt: skip
IDEAL = Constants(**{one.name: float(one.name in _PARTS) for one in fields(Constants)})
"""Nothing is lost and nothing costs extra: times can be computed by hand."""
FP8, BF16 = FORMATS["fp8"], FORMATS["bf16"]
LLAMA, K2 = find_model("llama-3.1-70b"), find_model("kimi-k2")
BATCHES = st.integers(1, 512)
CONTEXTS = st.integers(1, 60_000)


def test_a_small_step_reads_all_weights_once() -> None:
    times = Roofline(LLAMA, parse_cluster("H200"), make_layout(weights=BF16), IDEAL)
    read = LLAMA.parameters - LLAMA.hidden * LLAMA.vocabulary  # of the embeddings one row is read
    assert times.decode(1, 0) == pytest.approx(2 * read / 4.8e12)


def test_a_long_context_reads_the_cache() -> None:
    times = Roofline(LLAMA, parse_cluster("H200"), make_layout(weights=BF16), IDEAL)
    assert times.decode(4, 10_000) - times.decode(4, 0) == pytest.approx(4 * 10_000 * 327680 / 4.8e12)


def test_a_prompt_computes_two_operations_for_each_weight() -> None:
    times = Roofline(LLAMA, parse_cluster("H200"), make_layout(weights=FP8), IDEAL)
    inner = LLAMA.parameters - LLAMA.embeddings
    pairs = 80 * 4 * 64 * 128 * 8192 * 4096  # layers, operations, heads, width, queries, mean keys
    head = 2 * LLAMA.hidden * LLAMA.vocabulary / 4.8e12  # read once: one sequence
    assert times.prompt(8192, 8192) == pytest.approx(2 * inner * 8192 / 1979e12 + pairs / 989e12 + head, rel=0.01)


def test_a_mixture_reads_the_experts_that_are_hit() -> None:
    times = Roofline(K2, parse_cluster("2x8xH200"), make_layout(16, weights=FP8), IDEAL)
    experts = K2.feed_forward[-1][0]
    width = 1 + 4 / 128**2
    read = 60 * experts.hit(32) * experts.expert * width / 16 / 4.8e12
    assert times.parts(Work(32, 0, prompt=False, sequences=32))["experts"] == pytest.approx(read)


def test_experts_are_exchanged_only_between_groups() -> None:
    cluster = parse_cluster("2x8xH200")
    alone = Roofline(K2, cluster, make_layout(16, ep=16, weights=FP8), IDEAL)
    groups = Roofline(K2, cluster, make_layout(1, dp=16, ep=16, weights=FP8), IDEAL)
    work = Work(64, 1000, prompt=False, sequences=64)
    assert groups.parts(work)["network"] > 0
    moved = 61 * 2 * 2 * 15 / 16 * 64 * 7168 * 2 / 50e9  # all-reduces of tensor parallelism, over the network
    assert alone.parts(work)["network"] == pytest.approx(moved)


def test_communication_over_the_network_hides_behind_computing() -> None:
    values = replace(IDEAL, overlap=1.0)
    times = Roofline(K2, parse_cluster("2x8xH200"), make_layout(1, dp=16, ep=16, weights=FP8), values)
    shown = Roofline(K2, parse_cluster("2x8xH200"), make_layout(1, dp=16, ep=16, weights=FP8), IDEAL)
    work = Work(64, 1000, prompt=False, sequences=64)
    assert times.parts(work)["network"] < shown.parts(work)["network"]


def test_drafts_share_what_is_read() -> None:
    times = Roofline(LLAMA, parse_cluster("H200"), make_layout(weights=BF16))
    assert times.decode(8, 4000) < times.decode(8, 4000, drafts=1) < 1.5 * times.decode(8, 4000)


def test_fp8_without_a_unit_is_multiplied_in_bf16() -> None:
    a100, h100 = (
        Roofline(LLAMA, parse_cluster(name), make_layout(8, weights=FP8), IDEAL) for name in ("8xA100", "8xH100")
    )
    work = Work(8192, 8192, prompt=True)
    assert a100.parts(work)["dense"] / h100.parts(work)["dense"] == pytest.approx(1979 / 312, rel=0.05)


@given(batch=BATCHES, context=CONTEXTS)
def test_more_never_takes_less(batch: int, context: int) -> None:
    times = Roofline(K2, parse_cluster("4x8xH200"), make_layout(2, dp=16, ep=32, weights=FP8))
    assert times.decode(batch, context) <= times.decode(batch + 1, context)
    assert times.decode(batch, context) <= times.decode(batch, context + 1)


@given(batch=BATCHES)
def test_a_faster_gpu_never_takes_longer(batch: int) -> None:
    slow, fast = (Roofline(LLAMA, parse_cluster(name), make_layout(8, weights=FP8)) for name in ("8xH100", "8xH200"))
    assert fast.decode(batch, 4000) <= slow.decode(batch, 4000)


@given(batch=BATCHES, context=CONTEXTS)
def test_no_step_is_faster_than_with_nothing_lost(batch: int, context: int) -> None:
    layout, cluster = make_layout(8, weights=FP8), parse_cluster("8xH200")
    ideal = Roofline(LLAMA, cluster, layout, IDEAL)
    assert Roofline(LLAMA, cluster, layout).decode(batch, context) > ideal.decode(batch, context)


def test_an_uneven_pipeline_waits_for_its_longest_stage() -> None:
    shapes = parse_config(
        {"model_type": "llama", "hidden_size": 1024, "num_hidden_layers": 9, "num_attention_heads": 8,
         "intermediate_size": 4096, "vocab_size": 1000, "max_position_embeddings": 4096}, "nine layers",
    )  # fmt: skip
    even, uneven = (Roofline(shapes, parse_cluster("4xH100"), make_layout(pp=n, weights=BF16), IDEAL) for n in (3, 2))
    assert uneven.decode(1, 0) / even.decode(1, 0) == pytest.approx(10 / 9, rel=0.01)


def test_the_constants_that_ship_are_sane() -> None:
    its = constants()
    assert all(0 < getattr(its, name) <= 1 for name in _PARTS - {"imbalance", "imbalance_prompt"})
    assert its.imbalance >= 1
    assert its.imbalance_prompt >= 1
    for name in ("itl", "ttft", "throughput"):
        assert band(name).low < 1 < band(name).high
        assert band(name).around(10.0) == (10 * band(name).low, 10 * band(name).high)
