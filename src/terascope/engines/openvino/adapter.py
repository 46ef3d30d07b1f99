"""The openvino engine as the gateway sees it: a command line and an HTTP client. Imports no OpenVINO."""

import sys
from collections.abc import Mapping

from terascope.core.config import DeploymentConfig
from terascope.core.errors import ConfigError
from terascope.core.models import Task
from terascope.engines.contract import Endpoint, Engine, Launch
from terascope.engines.upstream import HttpEngine
from terascope.engines.worker.arguments import place

_WORKER = "terascope.engines.openvino.worker"
_DTYPES = ("", "float32", "bfloat16")
_MAX_BATCH = 32


class OpenvinoKind:
    """Language models run by OpenVINO GenAI in a worker process of ours."""

    def command(self, launch: Launch, endpoint: Endpoint) -> tuple[str, ...]:
        """See `EngineKind.command`; the only option is `cache_gib`."""
        deployment, version = launch.deployment, launch.version
        _check(launch)
        flags = {
            "--model-dir": version.directory,
            "--served-name": launch.served_name,
            "--dtype": deployment.dtype,
            "--threads": deployment.threads,
            "--max-batch": deployment.max_batch or _MAX_BATCH,
            "--context-length": deployment.context_length,
            "--cache-gib": deployment.options.get("cache_gib", ""),
        }
        words = [word for flag, value in flags.items() if value for word in (flag, str(value))]
        python = launch.program.python or sys.executable
        return (python, "-m", _WORKER, *place(endpoint), *words, *launch.program.arguments)

    def environment(self, launch: Launch, endpoint: Endpoint) -> Mapping[str, str]:
        """See `EngineKind.environment`."""
        return launch.program.environment

    def connect(self, launch: Launch, endpoint: Endpoint) -> Engine:
        """See `EngineKind.connect`."""
        return HttpEngine(endpoint, served_name=launch.served_name)


def _check(launch: Launch) -> None:
    deployment = launch.deployment
    name = deployment.name or deployment.model
    if not launch.version.directory:
        raise ConfigError(f"deployment {name}: the openvino engine needs the model's files on this machine")
    if launch.version.task is Task.EMBED:
        raise ConfigError(f"deployment {name}: the openvino engine makes no embeddings; choose engine `torch`")
    if deployment.dtype not in _DTYPES:
        raise ConfigError(f"deployment {name}: dtype {deployment.dtype!r} is none of {', '.join(_DTYPES[1:])}")
    if deployment.device not in ("", "cpu"):
        raise ConfigError(f"deployment {name}: the openvino engine computes on the CPU, not on {deployment.device!r}")
    _check_numbers(deployment, name)


def _check_numbers(deployment: DeploymentConfig, name: str) -> None:
    for key in ("threads", "context_length", "max_batch"):
        if getattr(deployment, key) < 0:
            raise ConfigError(f"deployment {name}: {key} is {getattr(deployment, key)}; write 0 or more")
    for key, text in deployment.options.items():
        if key != "cache_gib" or not text.isdecimal() or int(text) < 1:
            raise ConfigError(
                f"deployment {name}: the openvino engine has the option cache_gib, a whole number from 1 on"
            )


KIND = OpenvinoKind()
"""What the registry finds."""
