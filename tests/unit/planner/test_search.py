"""The search: what is tried, what wins, what is refused and why; prompts apart; what to buy; what it costs."""

import time

import pytest

from terascope.core.errors import BadRequest
from terascope.planner import (
    Plans,
    Wish,
    cost,
    find_model,
    make_load,
    needs,
    parse_cluster,
    parse_config,
    search,
    split,
)
from terascope.planner.engines import ENGINES, as_kept, engine_named
from terascope.planner.layout import refusal
from terascope.planner.memory import memory
from terascope.planner.precision import CACHE_WIDTHS
from terascope.planner.report import cautions, plans_report
from terascope.planner.search import layouts

K2 = find_model("kimi-k2")
LOAD = make_load(4000, 800, 400, "2s", "50ms")


@pytest.fixture(scope="module")
def plans() -> Plans:
    """Kimi-K2 on 64 H200 for 400 users."""
    return search(K2, parse_cluster("8x8xH200"), LOAD)


def test_every_layout_is_a_plan_or_has_a_reason(plans: Plans) -> None:
    tried = list(layouts(K2, plans.cluster, plans.wish, ENGINES["vllm"]))
    assert len(tried) == len(set(tried)) == len(plans.plans) + len(plans.rejected)
    assert all(one.reason for one in plans.rejected)
    assert {"tp", "pp", "dp", "ep", "cp"} == {
        name for name in ("tp", "pp", "dp", "ep", "cp") if len({getattr(one, name) for one in tried}) > 1
    }


def test_plans_fit_their_gpus_and_their_cluster(plans: Plans) -> None:
    for plan in plans.plans:
        held = memory(K2, plans.cluster, plan.layout)
        assert held.needed <= 0.9 * plans.cluster.gpu.memory
        assert plan.gpus <= plans.cluster.gpus
        assert plan.concurrency >= plan.speed.sequences * plan.copies
        assert not refusal(K2, plan.layout)
        assert plan.context <= K2.context


def test_the_best_comes_first_and_keeps_what_is_asked(plans: Plans) -> None:
    best = plans.best
    assert best.meets
    assert best.speed.itl <= 0.05
    assert best.speed.ttft <= 2
    assert best.speed.sequences * best.copies >= 400
    outputs = [one.output for one in plans.plans if one.meets]
    assert outputs == sorted(outputs, reverse=True)
    assert all(one.why_not for one in plans.plans if not one.meets)


def test_why_a_plan_does_not_serve_the_load() -> None:
    many = search(find_model("llama-3.1-70b"), parse_cluster("2xH100"), make_load(8000, 1000, 5000), Wish(cache="bf16"))
    assert "sequences, not 5,000" in many.best.why_not
    slow = search(K2, parse_cluster("2x8xH200"), make_load(1000, 1000, 4000, itl="5ms"))
    assert "4,000 at once wait" in slow.best.why_not or "sequences, not 4,000" in slow.best.why_not
    assert not slow.best.meets


def test_one_gpu_less_fails_and_says_by_how_much() -> None:
    shapes = find_model("kimi-k3")
    assert search(shapes, parse_cluster("8xB300"), make_load(1000, 1000)).plans
    less = search(shapes, parse_cluster("4xB300"), make_load(1000, 1000))
    assert less.plans == ()
    with pytest.raises(BadRequest, match=r"in the best layout \d+\.\d GiB are missing on each GPU"):
        _ = less.best


def test_a_model_that_no_layout_divides_says_why() -> None:
    odd = parse_config(
        {"model_type": "llama", "hidden_size": 700, "num_hidden_layers": 7, "num_attention_heads": 7, "head_dim": 100,
         "intermediate_size": 1400, "vocab_size": 1000, "max_position_embeddings": 512}, "seven heads",
    )  # fmt: skip
    found = search(odd, parse_cluster("2xH100"), make_load(100, 100))
    assert [one.layout.tp for one in found.plans] == [1] * len(found.plans)
    assert any("7 attention heads cannot be divided over 2 GPUs" in one.reason for one in found.rejected)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (Wish(engine="tgi"), "no engine 'tgi' to plan for; choose one of vllm, sglang, torch"),
        (Wish(quantization="fp7"), "no quantization 'fp7'"),
        (Wish(context=1000), "a context of 1,000 is not between them"),
        (Wish(context=10**9), "takes sequences of at most 131,072 tokens"),
    ],
)
def test_wishes_that_cannot_be(wish: Wish, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        search(K2, parse_cluster("2x8xH200"), LOAD, wish)


def test_formats_follow_the_checkpoint_and_the_gpu() -> None:
    def found(model: str, cluster: str, **wish: str) -> set[str]:
        given = Wish(**wish)  # type: ignore[arg-type]
        plans = search(find_model(model), parse_cluster(cluster), make_load(100, 100), given)
        return {one.layout.weights.name for one in plans.plans}

    assert found("ling-1t", "8x8xH200") == {"bf16", "fp8"}
    assert found("ling-1t", "16x8xA100") == {"bf16"}
    assert found("kimi-k2", "4x8xA100") == {"fp8"}  # unpacked while it is multiplied
    assert found("kimi-k2", "64xfrontier") == {"bf16"}  # neither units nor kernels
    assert found("kimi-k2.5", "2xfrontier") == {"int4"}
    assert found("kimi-k2", "4x8xB200", quantization="nvfp4") == {"nvfp4"}


def test_an_unknown_format_must_be_said() -> None:
    config = {
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 10,
        "intermediate_size": 64, "max_position_embeddings": 64, "quantization_config": {"quant_method": "bitnet"},
    }  # fmt: skip
    shapes = parse_config(config, "x")
    with pytest.raises(BadRequest, match="are in bitnet, which the planner does not know; say what is nearest"):
        search(shapes, parse_cluster("H100"), make_load(10, 10))
    assert search(shapes, parse_cluster("H100"), make_load(10, 10), Wish(quantization="int4")).plans


def test_the_torch_engine_has_one_gpu_for_a_copy() -> None:
    plans = search(find_model("qwen3-8b"), parse_cluster("4xH100"), make_load(1000, 500), Wish(engine="torch"))
    assert {(one.layout.gpus, one.copies) for one in plans.plans} == {(1, 4)}
    assert split(plans) is None


def test_searches_are_quick() -> None:
    for cluster, most in (("8x8xH200", 2), ("512x8xH200", 20)):
        start = time.perf_counter()
        search(K2, parse_cluster(cluster), LOAD)
        assert time.perf_counter() - start < most


def test_prompts_and_answers_apart(plans: Plans) -> None:
    divided = split(plans)
    assert divided is not None
    assert divided.gpus <= plans.cluster.gpus
    assert divided.itl <= 0.05
    assert divided.ttft <= 2
    assert divided.output > 0


def test_there_is_no_division_where_one_copy_fills_the_cluster() -> None:
    assert split(search(K2, parse_cluster("2x8xH200"), LOAD)) is None


def test_what_to_buy() -> None:
    found = {one.gpu.name: one for one in needs(K2, LOAD, names=("H200", "GH200", "MI250X"))}
    h200 = found["H200"]
    assert h200.plan is not None
    assert h200.plan.meets
    fewer = search(K2, parse_cluster(f"{h200.nodes - 1}x8xH200"), LOAD)
    assert not fewer.plans or not fewer.best.meets
    assert found["GH200"].nodes > h200.nodes


def test_what_cannot_be_bought_says_why() -> None:
    (one,) = needs(K2, make_load(4000, 800, 400, itl="1us"), names=("H100",))
    assert one.plan is None
    assert "wait" in one.why_not


def test_to_buy_needs_users() -> None:
    with pytest.raises(BadRequest, match="say for how many users"):
        needs(K2, make_load(1, 1))


def test_costs_follow_the_rate(plans: Plans) -> None:
    best = plans.best
    its = cost(K2, plans.cluster.gpu, best, pue=1.0)
    assert its.money == pytest.approx(2.3 * best.gpus / best.output / 3600 * 1e6)
    assert its.energy == pytest.approx(0.75 * 700 * best.gpus / best.output / 3600 * 1e6 / 1000)
    assert (its.units.output, its.units.prompt) == (32860, 8215)
    per_second = best.speed.output / best.layout.gpus * (32860 + 5 * 8215) / 1e6
    assert its.units_per_gpu_hour == pytest.approx(3600 * per_second, rel=1e-3)
    assert cost(K2, plans.cluster.gpu, best, price=4.6).money == pytest.approx(2 * (its.money or 0))


def test_a_price_that_is_not_known_is_not_invented() -> None:
    plans = search(K2, parse_cluster("16xjupiter"), LOAD)
    assert cost(K2, plans.cluster.gpu, plans.best).money is None


@pytest.mark.parametrize(("price", "pue"), [(-1.0, 1.2), (1.0, 0.5)])
def test_nonsensical_prices_are_refused(plans: Plans, price: float, pue: float) -> None:
    with pytest.raises(BadRequest, match="a price is at least 0 and a PUE from 1"):
        cost(K2, plans.cluster.gpu, plans.best, price=price, pue=pue)


def test_the_report_has_every_part(plans: Plans) -> None:
    report = plans_report(plans, most=3)
    (first, *_) = report["plans"]
    assert len(report["plans"]) == 3
    assert sum(first["memory_per_gpu"].values()) == pytest.approx(0.9 * plans.cluster.gpu.memory)
    for key in ("ttft_s", "itl_s", "output_tokens_per_s"):
        assert first[key]["low"] < first[key]["predicted"] < first[key]["high"]
    assert report["disaggregated"]["plans"][0]["output_tokens_per_s"] > 0
    assert {"layout", "weights", "kv", "reason"} == set(report["rejected"][0])


@pytest.mark.parametrize(
    ("model", "cluster", "word"),
    [("kimi-k2", "16xjupiter", "extrapolated"), ("deepseek-v3.2", "8xB200", "sparse attention"),
     ("kimi-k3", "2x8xB200", "linear or compressed"), ("kimi-k2.5", "1xaurora", "pipelines")],
)  # fmt: skip
def test_weak_spots_are_said(model: str, cluster: str, word: str) -> None:
    found = search(find_model(model), parse_cluster(cluster), make_load(1000, 500))
    assert any(word in one for one in cautions(found))


def test_the_torch_engine_keeps_every_head() -> None:
    shapes, cluster = find_model("deepseek-v3"), parse_cluster("8xGB300")
    kept = as_kept(shapes, engine_named("torch"))
    assert kept.cache_bytes() == 61 * 128 * (192 + 128) * 2
    assert as_kept(shapes, engine_named("vllm")) is shapes
    assert as_kept(find_model("gpt-oss-120b"), engine_named("torch")).fixed_bytes() == 0
    small = search(find_model("gpt-oss-20b"), cluster, make_load(1000, 500), Wish("torch"))
    assert small.best.memory.per_token == 24 * 2 * 8 * 64 * CACHE_WIDTHS[small.best.layout.cache]


def test_the_torch_engine_serves_no_linear_attention() -> None:
    found = search(find_model("qwen3.5-35b-a3b"), parse_cluster("8xH200"), make_load(1000, 500), Wish("torch"))
    assert not found.plans
    assert "torch has no linear attention" in found.failure()
