"""What a GPU holds: against sums by hand, measured weights, and the edges of what fits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.core.errors import BadRequest
from terascope.planner import find_gpu, find_model, make_layout, memory, parse_cluster
from terascope.planner.layout import refusal
from terascope.planner.load import make_load
from terascope.planner.memory import GIB, weight_bytes
from terascope.planner.precision import FORMATS, format_named
from terascope.planner.search import Wish, search

FP8, BF16, MXFP4 = FORMATS["fp8"], FORMATS["bf16"], FORMATS["mxfp4"]
SIZES = st.sampled_from((1, 2, 4, 8))


@pytest.mark.parametrize(
    ("model", "weights", "gigabytes"),
    [("kimi-k2", "fp8", 1029), ("kimi-k2.5", "int4", 594), ("deepseek-v3", "fp8", 673), ("ling-1t", "fp8", 1002),
     ("llama-3.1-405b", "fp8", 410), ("llama-3.1-405b", "bf16", 812), ("glm-5", "fp8", 746), ("kimi-k2", "bf16", 2053)],
)  # fmt: skip
def test_whole_checkpoints_are_as_large_as_collected(model: str, weights: str, gigabytes: float) -> None:
    layout = make_layout(weights=format_named(weights))
    assert weight_bytes(find_model(model), layout) / 1e9 == pytest.approx(gigabytes, rel=0.005)


@given(tp=SIZES, dp=SIZES, whole=st.booleans())
def test_all_gpus_together_hold_the_experts_once(tp: int, dp: int, whole: bool) -> None:
    shapes = find_model("deepseek-v3")
    layout = make_layout(tp, 1, dp, tp * dp if whole else 1, weights=FP8)
    replicated = make_layout(tp, 1, 1, 1, weights=FP8)
    experts = shapes.routed_parameters * (1 + 4 / 128**2)
    rest = weight_bytes(shapes, replicated) - experts / tp
    assert weight_bytes(shapes, layout) == pytest.approx(rest + experts / (tp * dp))


def test_experts_that_do_not_go_round_are_held_twice() -> None:
    shapes, layout = find_model("deepseek-v3"), make_layout(1, 1, 48, 48, weights=FP8)
    assert layout.held(256) == 6
    assert weight_bytes(shapes, layout) > weight_bytes(shapes, make_layout(1, 1, 64, 64, weights=FP8))


def test_engines_fill_up_narrow_experts_of_mxfp4() -> None:
    shapes = find_model("gpt-oss-120b")
    assert weight_bytes(shapes, make_layout(weights=MXFP4)) / 1e9 == pytest.approx(69.4, rel=0.03)  # measured in vLLM


def test_latent_caches_are_whole_on_every_gpu_unless_divided() -> None:
    shapes, cluster = find_model("kimi-k2"), parse_cluster("2x8xH200")
    whole = memory(shapes, cluster, make_layout(16, weights=FP8))
    parted = memory(shapes, cluster, make_layout(16, cp=16, weights=FP8))
    assert whole.per_token == 70272
    assert parted.per_token == pytest.approx(70272 / 16)
    assert parted.sequences(10_000) > 15 * whole.sequences(10_000)


def test_grouped_caches_are_divided_by_their_heads() -> None:
    shapes, cluster = find_model("llama-3.1-70b"), parse_cluster("2x8xH100")
    assert memory(shapes, cluster, make_layout(4, weights=FP8)).per_token == 327680 / 4
    assert memory(shapes, cluster, make_layout(16, weights=FP8)).per_token == 327680 / 8


def test_a_pipeline_keeps_the_longest_stage() -> None:
    shapes, cluster = find_model("kimi-k2"), parse_cluster("2x8xH200")
    held = memory(shapes, cluster, make_layout(4, 4, weights=FP8))
    assert held.per_token == pytest.approx(70272 * 16 / 61)


def test_the_parts_add_up() -> None:
    held = memory(find_model("kimi-k2"), parse_cluster("2x8xH200"), make_layout(8, 2, weights=FP8), 0.8)
    assert held.needed + held.cache == pytest.approx(0.8 * 150.8e9)
    assert held.context(131072) == 131072
    assert held.sequences(131072) == int(held.cache // (131072 * held.per_token))


@pytest.mark.parametrize(
    ("model", "cluster", "weights", "fits"),
    [
        ("kimi-k2", "8xH200", "fp8", False),  # vLLM's recipe: 16 at least
        ("kimi-k2", "2x8xH200", "fp8", True),
        ("kimi-k2", "2x8xH800", "fp8", True),
        ("kimi-k3", "8xB200", "mxfp4", False),  # 8 B300 or 16 B200
        ("kimi-k3", "8xB300", "mxfp4", True),
        ("kimi-k3", "2x8xB200", "mxfp4", True),
        ("deepseek-v3", "8xH100", "fp8", False),
        ("deepseek-v3", "8xH200", "fp8", True),
        ("deepseek-v3", "2x8xH100", "bf16", False),
        ("llama-3.1-405b", "8xH100", "fp8", True),
        ("llama-3.1-405b", "8xH100", "bf16", False),
        ("kimi-k2.5", "1xaurora", "int4", True),  # over all 12 tiles, in a pipeline
    ],
)
def test_what_is_known_to_fit_and_what_is_not(model: str, cluster: str, weights: str, fits: bool) -> None:
    found = search(find_model(model), parse_cluster(cluster), make_load(512, 512), Wish(quantization=weights))
    assert bool(found.plans) is fits


def test_aurora_has_no_room_with_eight_of_twelve_tiles() -> None:
    shapes, cluster = find_model("kimi-k2.5"), parse_cluster("1xaurora")
    assert memory(shapes, cluster, make_layout(8, weights=FORMATS["int4"])).cache < 0
    assert memory(shapes, cluster, make_layout(4, 3, weights=FORMATS["int4"])).cache > 0


def test_the_driver_s_memory_is_counted_not_the_seller_s() -> None:
    assert find_gpu("H200").memory / GIB == pytest.approx(140.4, abs=0.1)


@pytest.mark.parametrize(
    ("model", "sizes", "message"),
    [
        ("llama-3.1-8b", {"pp": 33}, "32 layers cannot be divided over 33"),
        ("llama-3.1-8b", {"tp": 3}, "32 attention heads cannot be divided over 3"),
        ("llama-3.1-8b", {"tp": 4, "cp": 2}, "keep 8 key-value heads 1 times"),
        ("kimi-k2", {"tp": 32}, "use expert parallelism"),
        ("kimi-k2", {"dp": 512, "ep": 512}, "there are 384 experts, fewer than the 512 GPUs"),
    ],
)
def test_why_shapes_cannot_be_divided(model: str, sizes: dict[str, int], message: str) -> None:
    assert message in refusal(find_model(model), make_layout(**sizes, weights=FP8))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"tp": 0}, "cannot be divided"),
        ({"tp": 2, "ep": 3}, "cannot be divided 3 ways"),
        ({"tp": 2, "cp": 4}, "4 ways"),
    ],
)
def test_layouts_that_contradict_themselves(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        make_layout(**sizes, weights=BF16)  # type: ignore[arg-type]


def test_names_of_layouts_and_formats() -> None:
    assert make_layout(8, 2, weights=BF16).name == "TP8 PP2"
    assert make_layout(2, 1, 16, 32, 2, weights=FP8).name == "TP2 DP16 EP32 CP2"
    with pytest.raises(BadRequest, match="no quantization 'fp7'; choose auto or one of bf16"):
        format_named("fp7")
    with pytest.raises(BadRequest, match="no KV cache in 'fp2'"):
        make_layout(weights=BF16, cache="fp2")
