"""Every command line for SGLang and for the routers, by the arguments that their own source adds."""

from collections.abc import Mapping

import pytest

from terascope.planner import Wish, find_model, make_load, parse_cluster, search, splits
from terascope.planner.emit.commands import ANSWER, PROMPT, Node, command, nodes_of, router

from .sglang_parser import Parser

CASES = [("kimi-k2", "4x8xH200"), ("kimi-k2", "16xjupiter"), ("qwen3-235b-a22b", "8xfrontier"), ("qwen3-8b", "8xH100")]


@pytest.mark.parametrize(("model", "cluster"), CASES)
def test_sglang_has_every_argument(model: str, cluster: str, parse_sglang: Mapping[str, Parser]) -> None:
    plans = search(find_model(model), parse_cluster(cluster), make_load(2000, 500, 40), Wish(engine="sglang"))
    parser = parse_sglang["sglang.launch_server"]
    divided = splits(plans).plans
    parts = [(one, "") for one in plans.plans if one.layout.dp == 1 or one.layout.tp <= plans.cluster.gpu.node]
    parts += [(one.prompt, PROMPT) for one in divided] + [(one.answer, ANSWER) for one in divided]
    distinct = {(plan.layout, part): plan for plan, part in parts}
    for (layout, part), plan in distinct.items():
        for rank in range(nodes_of(plans, plan)):
            words = command(plans, plan, Node(rank, "10.0.0.1", part=part))
            assert words[:3] == ["python3", "-m", "sglang.launch_server"]
            found = parser.parse_args(words[3:])
            assert (found.tensor_parallel_size or 1, found.node_rank or 0) == (layout.group, rank)
            assert found.disaggregation_mode == {PROMPT: "prefill", ANSWER: "decode", "": None}[part]


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_routers_have_every_argument(engine: str, parse_sglang: Mapping[str, Parser]) -> None:
    plans = search(find_model("kimi-k2"), parse_cluster("4x8xH200"), make_load(2000, 500, 40), Wish(engine=engine))
    words = router(plans, [("http://a:8000", "8998"), ("http://b:8000", "8999")], ["http://c:8000"])
    start = 1 if engine == "vllm" else 3
    found = parse_sglang[words[start - 1]].parse_args(words[start:])
    assert [one[0] for one in found.prefill] == ["http://a:8000", "http://b:8000"]
    assert [one[1:] for one in found.prefill] == ([[], []] if engine == "vllm" else [["8998"], ["8999"]])
    assert found.decode == [["http://c:8000"]]


def test_what_sglang_does_not_have_is_refused(parse_sglang: Mapping[str, Parser]) -> None:
    parser = parse_sglang["sglang.launch_server"]
    for words in (["--no-such-option"], ["--moe-a2a-backend", "nonsense"], ["--tp-size", "many"]):
        with pytest.raises(ValueError, match=r"unrecognized|invalid choice|invalid int"):
            parser.parse_args(["--model-path", "m", *words])
