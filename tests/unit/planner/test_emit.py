"""Launch files: every command line by vLLM's own parser, scripts run by a real shell, files against their schemas."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate import validate

from terascope.cli.settings import parse
from terascope.core.errors import BadRequest
from terascope.planner import Plans, Wish, find_model, make_load, parse_cluster, search, splits
from terascope.planner.emit import emit_files
from terascope.planner.emit.commands import ANSWER, PROMPT, Node, command, copies_on_a_node, nodes_of
from terascope.planner.search import Plan

from .conftest import ParseVllm
from .scripts import pairs, run_script

CASES = [
    ("kimi-k2", "16xjupiter", "vllm"),
    ("kimi-k2", "4x8xH200", "vllm"),
    ("kimi-k2", "4x8xH200", "sglang"),
    ("kimi-k2.5", "2xaurora", "vllm"),
    ("llama-3.1-70b", "2x8xH100", "vllm"),
    ("llama-3.1-405b", "8xpolaris", "vllm"),
    ("deepseek-r1", "12x4xGB200", "vllm"),
    ("gpt-oss-120b", "1x8xMI300X", "vllm"),
    ("qwen3-235b-a22b", "8xfrontier", "sglang"),
]


def _plans(model: str, cluster: str, engine: str = "vllm") -> Plans:
    return search(find_model(model), parse_cluster(cluster), make_load(2000, 500), Wish(engine=engine))


def _some(plans: Plans) -> list[Plan]:
    """The best plan of each division that has a command line."""
    distinct = {(one.layout.tp, one.layout.pp, one.layout.dp, one.layout.ep, one.layout.cp): one for one in plans.plans}
    return [one for one in distinct.values() if not (one.layout.dp > 1 and one.layout.tp > plans.cluster.gpu.node)]


def _commands(plans: Plans, plan: Plan) -> list[list[str]]:
    return [command(plans, plan, Node(rank, "10.0.0.1")) for rank in range(nodes_of(plans, plan))]


@pytest.mark.slow
def test_vllm_parses_every_command_line(parse_vllm: ParseVllm) -> None:
    cases = [
        (plans, plan, rank, words)
        for model, cluster, engine in CASES
        if engine == "vllm"
        for plans in [_plans(model, cluster)]
        for plan in _some(plans)
        for rank, words in enumerate(_commands(plans, plan))
    ]
    parsed = parse_vllm([*(words for *_, words in cases), *_apart()])
    for (plans, plan, rank, _), found in zip(cases, parsed, strict=False):  # those apart come after
        layout = plan.layout
        assert found["model_tag"] == plans.shapes.name
        assert (found["tensor_parallel_size"], found["pipeline_parallel_size"]) == (layout.tp, layout.pp)
        assert found["data_parallel_size"] == layout.dp
        assert found["decode_context_parallel_size"] == layout.cp
        assert found["enable_expert_parallel"] is (layout.ep > 1)
        assert found["headless"] is (rank > 0)
        assert found["max_model_len"] >= 2500
        assert found["kv_cache_dtype"] == ("fp8" if layout.cache == "fp8" else "auto")


def _apart() -> list[list[str]]:
    """Command lines of copies for prompts and for answers, of each division."""
    plans = search(find_model("kimi-k2"), parse_cluster("4x8xH200"), make_load(2000, 500, 40))
    sides = {
        (part.layout, kind): part
        for one in splits(plans).plans
        for part, kind in ((one.prompt, PROMPT), (one.answer, ANSWER))
    }
    return [
        command(plans, part, Node(rank, "10.0.0.1", part=kind))
        for (_, kind), part in sides.items()
        for rank in range(nodes_of(plans, part))
    ]


@pytest.mark.parametrize(("model", "cluster", "engine"), CASES)
def test_every_gpu_has_one_rank(model: str, cluster: str, engine: str) -> None:
    plans = _plans(model, cluster, engine)
    for plan in _some(plans):
        words = [dict(pairs(one)) for one in _commands(plans, plan)]
        assert all(f"{nodes_of(plans, plan)}" == one.get("--nnodes", "1") for one in words) or plan.layout.dp > 1
        if engine == "vllm" and plan.layout.dp > 1:
            local = int(words[0]["--data-parallel-size-local"])
            starts = [int(one.get("--data-parallel-start-rank", 0)) for one in words]
            assert [n for start in starts for n in range(start, start + local)] == list(range(plan.layout.dp))
            assert local * plan.layout.tp == min(plans.cluster.gpu.node, plan.layout.gpus)
        if engine == "sglang":
            assert int(words[0]["--tp-size"]) * int(words[0].get("--pp-size", 1)) == plan.layout.gpus


@pytest.mark.parametrize(("model", "cluster"), [(m, c) for m, c, engine in CASES if engine == "vllm"])
@pytest.mark.parametrize("target", ["slurm", "pbs"])
def test_scripts_start_what_the_plan_says(model: str, cluster: str, target: str, tmp_path: Path) -> None:
    plans = _plans(model, cluster)
    plan = plans.best
    ((_, script),) = emit_files(plans, plan, target).items()
    called = run_script(script, tmp_path, plans.cluster.gpu.node)
    shared, nodes = copies_on_a_node(plans, plan), nodes_of(plans, plan)
    assert len(called) == (nodes if shared == 1 else shared)
    for rank, (_, _, program, *words) in enumerate(sorted(called)):
        node = Node(rank if nodes > 1 else 0, "node-a", dict(pairs(words)).get("--port", "8000"))
        assert [program, *words] == command(plans, plan, node)


def test_copies_that_share_a_node_have_gpus_and_ports_of_their_own(tmp_path: Path) -> None:
    plans = _plans("llama-3.1-70b", "8xH100")
    plan = next(one for one in plans.plans if one.layout.gpus == 2)
    called = run_script(emit_files(plans, plan, "slurm")["serve.slurm"], tmp_path, 8)
    assert sorted(one[1] for one in called) == ["0,1", "2,3", "4,5", "6,7"]
    assert sorted(dict(pairs(one))["--port"] for one in called) == ["8000", "8001", "8002", "8003"]


def test_directives_ask_for_whole_nodes_and_one_job_a_copy() -> None:
    plans = _plans("kimi-k2", "8x8xH200")
    plan = next(one for one in plans.plans if one.layout.gpus == 16)
    lines = emit_files(plans, plan, "slurm")["serve.slurm"].splitlines()
    options = dict(
        line.removeprefix("#SBATCH --").split("=", 1) for line in lines if "SBATCH" in line and "=" in line[:40]
    )
    assert (options["nodes"], options["gpus-per-node"], options["array"]) == ("2", "8", "0-3")
    lines = emit_files(plans, plan, "pbs")["serve.pbs"].splitlines()
    assert "#PBS -l select=2:ngpus=8" in lines
    assert "#PBS -J 0-3" in lines


def test_the_secret_is_never_on_a_command_line() -> None:
    plans = _plans("kimi-k2", "4x8xH200")
    for target in ("slurm", "pbs", "kubernetes"):
        text = "".join(emit_files(plans, plans.best, target).values())
        assert "VLLM_API_KEY" in text
        assert "--api-key" not in text


def test_the_fabric_s_environment_is_set() -> None:
    script = emit_files(plans := _plans("kimi-k2", "16xalps"), plans.best, "slurm")["serve.slurm"]
    assert "export NCCL_NET='AWS Libfabric'" in script
    aurora = emit_files(plans := _plans("kimi-k2.5", "2xaurora"), plans.best, "pbs")["serve.pbs"]
    assert "export ZE_FLAT_DEVICE_HIERARCHY=FLAT" in aurora
    assert "--enforce-eager" in aurora


@pytest.mark.parametrize(("model", "cluster", "engine"), [case for case in CASES if "aurora" not in case[1]])
def test_kubernetes_takes_the_file(model: str, cluster: str, engine: str) -> None:
    plans = _plans(model, cluster, engine)
    documents = list(yaml.safe_load_all(emit_files(plans, plans.best, "kubernetes")["serve.yaml"]))
    for one in documents:
        validate(one, "1.31", strict=True)
    sets = [one for one in documents if one["kind"] == "StatefulSet"]
    assert len(sets) == plans.best.copies
    assert all(one["spec"]["replicas"] == nodes_of(plans, plans.best) for one in sets)
    script = sets[0]["spec"]["template"]["spec"]["containers"][0]["command"][2]
    name = sets[0]["metadata"]["name"]
    for rank, line in enumerate(script.splitlines()[1:-1]):
        words = shlex.split(line.split("exec ")[1].removesuffix(" ;;"))
        node = Node(rank, f"{name}-0.{name}-nodes", model=f"/models/{plans.shapes.name}")
        assert words == command(plans, plans.best, node)


def test_compose_has_one_service_a_copy_with_gpus_of_its_own() -> None:
    plans = _plans("llama-3.1-70b", "8xH100")
    plan = next(one for one in plans.plans if one.layout.gpus == 4)
    services = yaml.safe_load(emit_files(plans, plan, "compose")["compose.yaml"])["services"]
    chosen = [one["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] for one in services.values()]
    assert chosen == [["0", "1", "2", "3"], ["4", "5", "6", "7"]]
    assert all(port.startswith("127.0.0.1:") for one in services.values() for port in one["ports"])
    amd = _plans("gpt-oss-120b", "1x8xMI300X")
    service: dict[str, Any] = yaml.safe_load(emit_files(amd, amd.best, "compose")["compose.yaml"])["services"]["copy-0"]
    assert "/dev/kfd" in service["devices"]


@pytest.mark.parametrize(("engine", "kind"), [("vllm", "remote"), ("torch", "torch")])
def test_the_deployment_is_a_configuration_that_terascope_takes(engine: str, kind: str) -> None:
    plans = _plans("qwen3-8b", "4xH100", engine)
    config = parse(yaml.safe_load(emit_files(plans, plans.best, "deploy")["terascope.yaml"]))
    assert {one.engine for one in config.deployments} == {kind}
    assert sum(one.replicas for one in config.deployments) == plans.best.copies
    assert engine == "torch" or len({one.url for one in config.deployments}) == plans.best.copies


@pytest.mark.parametrize(
    ("model", "cluster", "engine", "target", "message"),
    [
        ("kimi-k2", "2x8xH200", "vllm", "helm", "nothing to emit for 'helm'; choose one of slurm, pbs"),
        ("kimi-k2", "2x8xH200", "vllm", "compose", "are more than one machine"),
        ("qwen3-8b", "4xH100", "torch", "slurm", "emit `deploy` and run `terascope serve`"),
        ("qwen3-8b", "1xaurora", "sglang", "kubernetes", "no container image of sglang for intel GPUs"),
    ],
)
def test_what_cannot_be_emitted_says_so(model: str, cluster: str, engine: str, target: str, message: str) -> None:
    plans = _plans(model, cluster, engine)
    with pytest.raises(BadRequest, match=message):
        emit_files(plans, plans.best, target)


def test_tensor_groups_over_nodes_with_several_of_them_are_refused() -> None:
    plans = _plans("kimi-k2", "16xjupiter")
    plan = next(one for one in plans.plans if one.layout.dp > 1 and one.layout.tp > 4)
    with pytest.raises(BadRequest, match="choose another plan with --rank"):
        command(plans, plan, Node(0, "head"))
