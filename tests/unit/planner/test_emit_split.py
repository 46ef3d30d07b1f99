"""Launch files of copies for prompts and copies for answers: by the engines' parsers, and run by a real shell."""

import json
import shlex
from pathlib import Path

import pytest
import yaml
from harness import sglang
from kubernetes_validate import validate

from terascope.cli.settings import parse
from terascope.core.errors import BadRequest
from terascope.planner import Plans, Split, Wish, find_model, make_load, parse_cluster, search, splits
from terascope.planner.emit import emit_split
from terascope.planner.emit.apart import parts_of
from terascope.planner.emit.commands import ANSWER, PROMPT, nodes_of
from terascope.planner.emit.environment import ROUTERS

from .scripts import pairs, run_script

CASES = [
    ("kimi-k2", "4x8xH200", "vllm"),
    ("kimi-k2", "4x8xH200", "sglang"),
    ("llama-3.1-70b", "8xH100", "vllm"),
    ("llama-3.1-70b", "8xH100", "sglang"),
    ("llama-3.1-70b", "2x8xH100", "vllm"),
]


def _searched(model: str, cluster: str, engine: str) -> Plans:
    return search(find_model(model), parse_cluster(cluster), make_load(2000, 500, 40), Wish(engine=engine))


def _kinds(plans: Plans) -> list[Split]:
    """The best of each pair of sizes."""
    distinct: dict[tuple[int, int], Split] = {}
    for one in splits(plans).plans:
        distinct.setdefault((one.prompt.layout.gpus, one.answer.layout.gpus), one)
    return list(distinct.values())


@pytest.mark.parametrize(("model", "cluster", "engine"), CASES)
@pytest.mark.parametrize("target", ["slurm", "pbs"])
def test_scripts_start_every_copy_and_the_router(
    model: str, cluster: str, engine: str, target: str, tmp_path: Path
) -> None:
    plans = _searched(model, cluster, engine)
    for number, one in enumerate(_kinds(plans)):
        (tmp_path / str(number)).mkdir()
        ((_, script),) = emit_split(plans, one, target).items()
        called = run_script(script, tmp_path / str(number), plans.cluster.gpu.node)
        routers = [words for *_, words in ((a, b, c) for a, b, *c in called) if "router" in " ".join(words[:3])]
        engines = [words for words in called if "router" not in " ".join(words[2:5])]
        assert len(routers) == 1
        ports = _ports(engines)
        assert len(engines) == sum(part.copies * nodes_of(plans, part) for part in (one.prompt, one.answer))
        assert sorted(_addresses(routers[0], "--prefill")) == sorted(ports[PROMPT])
        assert sorted(_addresses(routers[0], "--decode")) == sorted(ports[ANSWER])
        assert _gpus_are_used_once(engines)


def _part_of(words: list[str]) -> str:
    options = dict(pairs(words))
    if "--kv-transfer-config" in options:
        role = json.loads(options["--kv-transfer-config"])["kv_role"]
        return {"kv_producer": PROMPT, "kv_consumer": ANSWER}[role]
    return {"prefill": PROMPT, "decode": ANSWER}[options["--disaggregation-mode"]]


def _ports(engines: list[list[str]]) -> dict[str, list[str]]:
    """The address of each copy that answers requests, by its part."""
    found: dict[str, list[str]] = {PROMPT: [], ANSWER: []}
    for rank, _, *words in engines:
        options = dict(pairs(words))
        if "--headless" not in options and options.get("--node-rank", "0") == "0":
            found[_part_of(words)].append(f"http://node-{'abcd'[int(rank)]}:{options['--port']}")
    return found


def _addresses(words: list[str], option: str) -> list[str]:
    return [value for name, value in pairs(words) if name == option]


def _gpus_are_used_once(engines: list[list[str]]) -> bool:
    """Copies that share a node have GPUs of their own; the others have the node."""
    used = [(rank, gpu) for rank, visible, *_ in engines for gpu in visible.split(",")]
    return len(used) == len(set(used))


@pytest.mark.parametrize(("model", "cluster", "engine"), CASES)
def test_kubernetes_takes_the_file(model: str, cluster: str, engine: str) -> None:
    plans = _searched(model, cluster, engine)
    best = splits(plans).plans[0]
    documents = list(yaml.safe_load_all(emit_split(plans, best, "kubernetes")["serve.yaml"]))
    for one in documents:
        validate(one, "1.31", strict=True)
    sets = [one for one in documents if one["kind"] == "StatefulSet"]
    names = [one["metadata"]["name"] for one in documents if one["kind"] == "Service"]
    assert len(sets) == best.prompt.copies + best.answer.copies
    (routing,) = (one for one in documents if one["kind"] == "Deployment")
    words = shlex.split(routing["spec"]["template"]["spec"]["containers"][0]["command"][2].split("exec ")[1])
    for option, part, count in (("--prefill", PROMPT, best.prompt.copies), ("--decode", ANSWER, best.answer.copies)):
        addresses = _addresses(words, option)
        assert len(addresses) == count
        assert all(f"-{part}-" in one and one[7:-5] in names for one in addresses)


def test_parts_share_a_node_only_where_there_is_one() -> None:
    for cluster in ("8xH100", "3x8xH100"):
        plans = _searched("llama-3.1-70b", cluster, "vllm")
        for one in splits(plans).plans:
            prompt, answer = parts_of(plans, one)
            assert prompt.node + prompt.nodes <= plans.cluster.gpus // plans.cluster.gpu.node
            assert answer.node == (0 if cluster == "8xH100" else prompt.nodes)
            assert answer.node + answer.nodes <= plans.cluster.gpus // plans.cluster.gpu.node


def test_the_deployment_is_the_router() -> None:
    plans = _searched("llama-3.1-70b", "8xH100", "vllm")
    config = parse(yaml.safe_load(emit_split(plans, splits(plans).plans[0], "deploy")["terascope.yaml"]))
    (one,) = config.deployments
    assert (one.engine, one.url, one.max_in_flight) == ("remote", "http://HOST:9000", 40)


def test_other_targets_say_so() -> None:
    plans = _searched("llama-3.1-70b", "8xH100", "vllm")
    with pytest.raises(BadRequest, match="are emitted for slurm, pbs, kubernetes, deploy, not 'compose'"):
        emit_split(plans, splits(plans).plans[0], "compose")


def test_the_routers_are_those_that_command_lines_were_checked_for() -> None:
    assert sorted(one.replace("-", "_") for one in ROUTERS.values()) == sorted(sglang.ROUTERS)
