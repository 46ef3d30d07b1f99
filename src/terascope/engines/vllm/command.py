"""vLLM's command line and environment, from a deployment."""

import os
import sys
from collections.abc import Iterator, Mapping

from terascope.core.config import DeploymentConfig
from terascope.core.errors import ConfigError
from terascope.core.models import Task
from terascope.engines.contract import Endpoint, Launch
from terascope.engines.upstream import Address
from terascope.engines.vllm import states
from terascope.engines.vllm.nodes import across, division

MODULE = "vllm.entrypoints.openai.api_server"
_HEADLESS = "vllm.entrypoints.cli.main"
TOOL_PARSER = "tool-call-parser"
"""The argument without which vLLM finds no tool calls in what a model says."""
PROMPT_EMBEDS = "enable-prompt-embeds"
"""The argument with which vLLM takes vectors in place of a prompt."""
LORA = "enable-lora"
"""The argument with which vLLM takes adapters."""
_OURS = frozenset({
    "api-key", "api-server-count", "cors", "data-parallel-address", "data-parallel-rpc-port", "data-parallel-size",
    "data-parallel-size-local", "data-parallel-start-rank", "distributed-executor-backend", "dtype",
    "enable-expert-parallel", "headless", "host", "lora-modules", "master-addr", "master-port", "max-model-len",
    "max-num-seqs", "middleware", "model", "nnodes", "node-rank", "pipeline-parallel-size", "port", "quantization",
    "root-path", "runner", "scheduling-policy", "served-model-name", "ssl-certfile", "ssl-keyfile",
    "tensor-parallel-size", "uds", "enable-log-requests", "enable-log-outputs",
})  # fmt: skip
"""Arguments that are ours to give, or that would open another way to the model, or write prompts into a log."""
_QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
_ROWS = 256
_THREADS = "VLLM_CPU_OMP_THREADS_BIND"


def command_of(launch: Launch, endpoint: Endpoint) -> tuple[str, ...]:
    """Return the command line; raises `ConfigError` when the deployment is impossible."""
    deployment, version = launch.deployment, launch.version
    check(launch)
    python = launch.program.python or sys.executable
    words = [python, "-m", *_program(launch, endpoint), "--served-model-name", launch.served_name]
    words += ["--scheduling-policy", "priority"] if version.task is Task.GENERATE else ["--runner", "pooling"]
    words += ["--disable-uvicorn-access-log", *_layout(deployment), *_numbers(deployment)]
    words += across(deployment.layout, launch.rank)
    for name, value in deployment.options.items():
        if _dashed(name) != states.HIDDEN_STATES:
            words += [f"--{_dashed(name)}", *([value] if value else [])]
    words += states.ARGUMENTS if gives_states(launch) else ()
    return (*words, *launch.program.arguments)


def environment_of(launch: Launch, endpoint: Endpoint) -> dict[str, str]:
    """Return what vLLM must find: its secret, no network, and on a CPU of this machine which cores are its own."""
    own = {"VLLM_API_KEY": endpoint.secret} if endpoint.secret else {}
    at_run_time = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"} if LORA in arguments_of(launch) else {}
    given = dict(launch.program.environment)
    if gives_states(launch):
        path = given.get("PYTHONPATH", "")
        given |= states.ENVIRONMENT | {"PYTHONPATH": f"{states.INSIDE}:{path}".rstrip(":")}
    return {**_QUIET, **at_run_time, **_cores(launch.deployment), **given, **own}


def gives_states(launch: Launch) -> bool:
    """Whether vLLM is to give hidden states."""
    return any(_dashed(name) == states.HIDDEN_STATES for name in launch.deployment.options)


def arguments_of(launch: Launch) -> Mapping[str, str]:
    """Return the further arguments by name, with their values, those of all deployments too; empty for a flag."""
    found = {_dashed(name): value for name, value in launch.deployment.options.items()}
    name = ""
    for word in launch.program.arguments:
        if word.startswith("--"):
            name, equals, value = _dashed(word[2:]).partition("=")
            found[name] = value if equals else ""
        elif name:
            found[name] = f"{found[name]} {word}".strip()
    return found


def rows_of(deployment: DeploymentConfig) -> int:
    """How many requests each of its data-parallel copies runs at once. It is always said, so that it is known."""
    return deployment.max_batch or _ROWS


def check(launch: Launch) -> None:
    """Raise `ConfigError` for what vLLM could not be started with."""
    for problem in _problems(launch):
        raise ConfigError(f"deployment {launch.deployment.name or launch.deployment.model}: {problem}")


def _problems(launch: Launch) -> Iterator[str]:
    deployment, version = launch.deployment, launch.version
    if not version.directory:
        yield "vLLM needs the model's files; add the model to the catalogue from a source that has them"
    elif version.files and "config.json" not in {file.path for file in version.files}:
        yield f"vLLM reads Hugging Face checkpoints, and {version.public_name} is none; choose engine `torch`"
    yield from division(deployment.layout)
    for name in ("context_length", "max_batch", "threads"):
        if getattr(deployment, name) < 0:
            yield f"{name} is {getattr(deployment, name)}; write 0 or more"
    given = arguments_of(launch)
    if taken := sorted(_OURS & given.keys()):
        yield f"vLLM's --{taken[0]} is Terascope's to set; leave it out of `options` and of `engines.vllm.arguments`"
    if deployment.device == "cpu" and deployment.layout.pipeline > 1 and "enforce-eager" in given:
        yield "on a CPU, pipeline parallel fails at the first request with enforce-eager; leave that out"
    if gives_states(launch):
        yield from states.problems(given, deployment.layout, generates=version.task is Task.GENERATE)


def _layout(deployment: DeploymentConfig) -> list[str]:
    layout = deployment.layout
    sizes = {"tensor": layout.tensor, "pipeline": layout.pipeline, "data": layout.data}
    words = [word for name, size in sizes.items() if size > 1 for word in (f"--{name}-parallel-size", str(size))]
    return words + (["--enable-expert-parallel"] if layout.expert else [])


def _numbers(deployment: DeploymentConfig) -> list[str]:
    flags: dict[str, str | int] = {
        "--dtype": deployment.dtype,
        "--quantization": deployment.quantization,
        "--max-model-len": deployment.context_length,
        "--max-num-seqs": rows_of(deployment),
    }
    return [word for flag, value in flags.items() if value for word in (flag, str(value))]


def _cores(deployment: DeploymentConfig) -> dict[str, str]:
    """Each rank of vllm-cpu gets cores of its own; by itself it would leave one of them idle."""
    if deployment.device != "cpu" or deployment.site:
        return {}
    mine = sorted(os.sched_getaffinity(0))
    mine = mine[: deployment.threads] if deployment.threads else mine
    ranks = deployment.layout.tensor * deployment.layout.pipeline
    each = max(1, len(mine) // ranks)
    shares = [mine[rank * each : (rank + 1) * each] or mine[-1:] for rank in range(ranks)]
    return {_THREADS: "|".join(",".join(map(str, share)) for share in shares)}


def _program(launch: Launch, endpoint: Endpoint) -> list[str]:
    """The server; on the further nodes of a replica what has no address, which the server's module cannot start."""
    if launch.rank:
        return [_HEADLESS, "serve", launch.version.directory, "--headless"]
    return [MODULE, "--model", launch.version.directory, *_place(endpoint)]


def _place(endpoint: Endpoint) -> list[str]:
    address = Address.parse(endpoint.url)
    return ["--uds", address.path] if address.path else ["--host", address.host, "--port", str(address.port)]


def _dashed(name: str) -> str:
    return name.replace("_", "-")
