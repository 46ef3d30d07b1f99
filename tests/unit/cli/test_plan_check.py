"""`terascope plan check`: what is read from metrics, what is off, and the whole of it against a gateway."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from prometheus_client.samples import Sample

from terascope.cli.plan_check import cache_tokens, chosen, compare
from terascope.cli.plan_measured import Counted, Measured, between, counted
from terascope.client import Client
from terascope.core.config import Config, DeploymentConfig, ModelConfig
from terascope.core.errors import BadRequest
from terascope.planner import Plans, find_model, make_load, parse_cluster, search
from terascope.testing.gateway import Served, running_gateway

from .conftest import Cli, SetEnvironment

MODEL = "small@1"
BEFORE = Counted(answers=10, answer_s=20.0, first_s=1.0, prompt=500, output=1000, replicas=2, cache_tokens=5000)
BEHIND = Counted(answers=14, answer_s=40.0, first_s=3.0, prompt=900, output=2004, replicas=2, cache_tokens=5000)


@pytest.fixture(scope="module")
def plans() -> Plans:
    return search(find_model("llama-3.1-70b"), parse_cluster("8xH100"), make_load(1000, 500, 32))


def _as_planned(plans: Plans) -> Measured:
    plan = plans.best
    return Measured(
        10.0, 100, 1000.0, 500.0, 32.0, plan.speed.ttft, plan.speed.itl, plan.output, plan.copies, cache_tokens(plan)
    )


def test_between_two_looks() -> None:
    seen = between(BEFORE, BEHIND, 10.0)
    assert seen == Measured(10.0, 4, 100.0, 251.0, 2.0, 0.5, 18.0 / 1000, 100.4, 2, 5000)
    assert between(BEFORE, BEFORE, 10.0) is None


def test_samples_of_a_model_are_added_up() -> None:
    def sample(name: str, value: float, **labels: str) -> Sample:
        return Sample(name, {"model": MODEL} | labels, value)

    samples = [
        sample("terascope_answer_seconds_count", 3),
        sample("terascope_answer_seconds_sum", 6.0),
        sample("terascope_first_byte_seconds_sum", 1.5),
        sample("terascope_tokens_total", 7, kind="prompt"),
        sample("terascope_tokens_total", 11, kind="completion"),
        sample("terascope_engine_up", 1, replica="a"),
        sample("terascope_engine_up", 0, replica="b"),
        sample("terascope_engine_cache_tokens", 100, state="used"),
        sample("terascope_engine_cache_tokens", 900, state="blank"),
        sample("vllm:cache_config_info", 1, num_gpu_blocks="10", block_size="16"),
        sample("vllm:cache_config_info", 1, num_gpu_blocks="None", block_size="16"),
        Sample("terascope_tokens_total", {"model": "other@1", "kind": "prompt"}, 1000),
    ]
    assert counted(samples, MODEL) == Counted(3, 6.0, 1.5, 7, 11, 1, 1160)


def test_what_goes_as_planned_is_said_so(plans: Plans) -> None:
    figures = compare(plans.best, _as_planned(plans))
    assert [one.name for one in figures] == ["replicas", "KV cache", "first token", "between tokens", "throughput"]
    assert {one.verdict for one in figures} == {"as planned"}


def test_what_is_off_is_named(plans: Plans) -> None:
    right = _as_planned(plans)
    slow = replace(right, itl=3 * right.itl, rate=right.rate / 3, cache_tokens=right.cache_tokens / 2, replicas=9)
    verdicts = {one.name: one.verdict for one in compare(plans.best, slow)}
    assert verdicts == {
        "replicas": "above",
        "KV cache": "below",
        "first token": "as planned",
        "between tokens": "above",
        "throughput": "below",
    }
    unsaid = replace(right, cache_tokens=0, replicas=0)
    assert [one.name for one in compare(plans.best, unsaid)] == ["first token", "between tokens", "throughput"]


def test_a_layout_is_chosen_by_its_name(plans: Plans) -> None:
    assert chosen(plans, "") is plans.best
    name = plans.plans[-1].layout.name
    assert chosen(plans, name).layout.name == name
    with pytest.raises(BadRequest, match=r"those that work are .*TP8"):
        chosen(plans, "TP3")


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A gateway that serves a small model's name by an engine that takes 20 ms for each token."""
    directory = tmp_path_factory.mktemp("small")
    small = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 256, "num_hidden_layers": 4,
        "num_attention_heads": 8, "intermediate_size": 512, "vocab_size": 1024, "max_position_embeddings": 4096,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(small))
    (directory / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    deployment = DeploymentConfig(model="small", engine="echo", launcher="inprocess", options={"delay_ms": "20"})
    model = ModelConfig(source=f"path:{directory}", version="1")
    with running_gateway(Config(models={"small": model}, deployments=[deployment])) as served:
        yield served


def test_a_served_model_is_compared_with_its_plan(bare: Cli, used: Served, set_environment: SetEnvironment) -> None:
    set_environment("TERASCOPE_DATA_DIR", str(used.data_dir))
    ended = threading.Event()

    def ask() -> None:
        with Client(used.url, used.key) as client:
            while not ended.is_set():
                with client.chat("small", [{"role": "user", "content": "one two three four"}]) as answer:
                    for _ in answer:
                        pass

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            shown = bare("plan", "check", "small", "--on", "1xH100", "--seconds", "1", "--json")
        finally:
            ended.set()
        asking.result()
    assert shown.status == 1, shown.err  # the echo is slower than any GPU with so small a model
    told = json.loads(shown.out)
    assert told["model"] == "small@1"
    verdicts = {one["name"]: one["verdict"] for one in told["figures"]}
    assert verdicts["between tokens"] == "above"
    assert verdicts["throughput"] == "below"
    assert told["load"]["answers"] >= 1


def test_without_answers_nothing_can_be_said(bare: Cli, used: Served, set_environment: SetEnvironment) -> None:
    set_environment("TERASCOPE_DATA_DIR", str(used.data_dir))
    told = bare("plan", "check", "small", "--on", "1xH100", "--seconds", "0.1")
    assert told.status == 1
    assert "no answer of small@1 ended in 0.1 s" in told.err
