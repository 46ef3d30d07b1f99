"""vLLM's command line and environment, and what it could not be started with."""

import os
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.core.config import DeploymentConfig, EngineConfig, LayoutConfig
from terascope.core.errors import ConfigError
from terascope.core.models import Feature, ModelFile, ModelVersion, Task
from terascope.engines.contract import Endpoint, Launch
from terascope.engines.registry import engine_kind
from terascope.engines.vllm.adapter import KIND, capabilities
from terascope.engines.vllm.nodes import division

VERSION = ModelVersion("big", "1", "abc", "path:/m/big", "/m/big", Task.GENERATE, 4096)
SOCKET = Endpoint("unix:/run/x.sock", "the secret")
PROGRAM = EngineConfig("/opt/vllm/bin/python")


def launch(program: EngineConfig = PROGRAM, version: ModelVersion = VERSION, **fields: Any) -> Launch:
    return Launch(DeploymentConfig(model="big", engine="vllm", **fields), version, program)


def command(program: EngineConfig = PROGRAM, version: ModelVersion = VERSION, **fields: Any) -> str:
    return " ".join(KIND.command(launch(program, version, **fields), SOCKET))


def test_the_least() -> None:
    assert engine_kind("vllm") is KIND
    assert command() == (
        "/opt/vllm/bin/python -m vllm.entrypoints.openai.api_server --model /m/big --uds /run/x.sock "
        "--served-model-name big@1 --scheduling-policy priority --disable-uvicorn-access-log --max-num-seqs 256"
    )
    assert " --host 10.0.0.1 --port 81 " in " ".join(KIND.command(launch(), Endpoint("http://10.0.0.1:81", "s")))


def test_all_of_a_layout() -> None:
    layout = LayoutConfig(tensor=8, pipeline=2, data=4, expert=True)
    fields: dict[str, Any] = {"dtype": "bfloat16", "quantization": "fp8", "context_length": 8192, "max_batch": 64}
    words = command(layout=layout, options={"gpu_memory_utilization": "0.9", "enforce-eager": ""}, **fields)
    for part in (
        "--tensor-parallel-size 8 --pipeline-parallel-size 2 --data-parallel-size 4 --enable-expert-parallel",
        "--dtype bfloat16 --quantization fp8 --max-model-len 8192 --max-num-seqs 64",
        "--gpu-memory-utilization 0.9 --enforce-eager",
    ):
        assert part in words
    assert layout.devices == 64


def across(layout: LayoutConfig) -> list[str]:
    """The part of each node's command by which they find each other."""
    commands = [KIND.command(replace(launch(layout=layout), rank=rank), SOCKET) for rank in range(layout.nodes)]
    return [" ".join(words[words.index("256") + 1 :]) for words in commands]


def test_a_group_over_two_nodes() -> None:
    layout = LayoutConfig(tensor=4, pipeline=2, nodes=2)
    master = "--master-addr {head} --master-port {port}"
    assert across(layout) == [f"--nnodes 2 --node-rank {rank} {master}" for rank in (0, 1)]
    second = " ".join(KIND.command(replace(launch(layout=layout), rank=1), SOCKET))
    assert second.startswith(
        "/opt/vllm/bin/python -m vllm.entrypoints.cli.main serve /m/big --headless --served-model-name big@1 "
    )
    assert "uds" not in second


def test_groups_over_two_nodes() -> None:
    meeting = "--data-parallel-size-local 2 --data-parallel-address {head} --data-parallel-rpc-port {port}"
    assert across(LayoutConfig(tensor=2, data=4, nodes=2)) == [meeting, f"{meeting} --data-parallel-start-rank 2"]


@given(st.builds(LayoutConfig, *[st.integers(1, 8)] * 3, nodes=st.integers(1, 8)))
def test_a_layout_is_divided_evenly_or_refused(layout: LayoutConfig) -> None:
    refused = list(division(layout))
    even = layout.devices % layout.nodes == 0 and (layout.data == 1 or layout.data % layout.nodes == 0)
    assert bool(refused) is not even
    if refused:
        assert str(layout.nodes) in refused[0]


def test_arguments_for_all_deployments_come_last() -> None:
    program = EngineConfig(arguments=["--tool-call-parser=hermes", "--enable-auto-tool-choice"])
    assert command(program).endswith("--tool-call-parser=hermes --enable-auto-tool-choice")
    assert Feature.TOOLS in capabilities(launch(program)).features
    assert Feature.TOOLS in capabilities(launch(options={"tool_call_parser": "hermes"})).features
    assert Feature.TOOLS not in capabilities(launch()).features


def test_what_it_is_started_for_is_what_it_says() -> None:
    options = {"enable_prompt_embeds": "", "enable-lora": ""}
    started = launch(options=options)
    assert {Feature.PROMPT_EMBEDS, Feature.ADAPTERS} <= capabilities(started).features
    assert KIND.environment(started, SOCKET)["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert not {Feature.MIXED_PROMPTS, Feature.MIXED_COMPLETIONS} & capabilities(started).features
    assert Feature.ADAPTERS not in capabilities(launch(options=options, device="cpu")).features
    assert not {Feature.PROMPT_EMBEDS, Feature.ADAPTERS} & capabilities(launch()).features


def test_a_model_of_embeddings_is_pooled() -> None:
    version = replace(VERSION, task=Task.EMBED)
    assert "--runner pooling" in command(version=version)
    assert "--scheduling-policy" not in command(version=version)
    assert "embeddings" in capabilities(launch(version=version)).endpoints


def test_the_secret_travels_in_the_environment() -> None:
    assert "secret" not in command()
    variables = KIND.environment(launch(EngineConfig(environment={"A": "b", "VLLM_API_KEY": "known"})), SOCKET)
    assert variables == {
        "VLLM_API_KEY": "the secret", "A": "b", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1",
    }  # fmt: skip


@pytest.mark.parametrize(("tensor", "threads"), [(1, 0), (1, 1), (2, 0), (3, 0)])
def test_on_a_cpu_every_rank_has_its_cores(tensor: int, threads: int) -> None:
    mine = sorted(os.sched_getaffinity(0))
    fields: dict[str, Any] = {"device": "cpu", "threads": threads, "layout": LayoutConfig(tensor=tensor)}
    bound = KIND.environment(launch(**fields), SOCKET)["VLLM_CPU_OMP_THREADS_BIND"]
    shares = [[int(core) for core in share.split(",")] for share in bound.split("|")]
    assert len(shares) == tensor
    assert all(shares)
    assert {core for share in shares for core in share} <= set(mine)
    if tensor == 1:
        assert shares == [mine[: threads or len(mine)]]
    there = KIND.environment(launch(site="cluster", **fields), SOCKET)
    assert "VLLM_CPU_OMP_THREADS_BIND" not in there


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"layout": LayoutConfig(tensor=0)}, r"layout\.tensor is 0"),
        ({"context_length": -1}, "context_length is -1"),
        ({"max_batch": -1}, "max_batch is -1"),
        ({"options": {"api_key": "x"}}, "--api-key is Terascope's"),
        ({"options": {"host": "0.0.0.0"}}, "--host is Terascope's"),
        ({"program": EngineConfig(arguments=["--port=80"])}, "--port is Terascope's"),
        ({"program": EngineConfig(arguments=["--enable-log-requests"])}, "--enable-log-requests is"),
        ({"layout": LayoutConfig(pipeline=2), "device": "cpu", "options": {"enforce-eager": ""}}, "pipeline parallel"),
        ({"version": replace(VERSION, directory="")}, "model's files"),
        ({"version": replace(VERSION, files=(ModelFile("x.gguf", 1, "0"),))}, "choose engine `torch`"),
    ],
)
def test_what_it_cannot_be_started_with(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        command(**fields)
    assert "deployment big" in refused.value.message
