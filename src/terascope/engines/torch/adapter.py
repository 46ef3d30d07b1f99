"""The torch engine as the gateway sees it: a command line and an HTTP client. Imports no torch."""

import sys
from collections.abc import Mapping
from pathlib import Path

from platformdirs import user_cache_path

from terascope.core import environment
from terascope.core.config import DeploymentConfig
from terascope.core.errors import ConfigError
from terascope.core.models import ModelVersion
from terascope.engines.contract import Endpoint, Engine, Launch
from terascope.engines.upstream import HttpEngine
from terascope.engines.worker.arguments import place

_WORKER = "terascope.engines.torch.worker"
_MAX_BATCH = 32
_DTYPES = ("", "float32", "bfloat16", "float16")
_OPTIONS = {
    "cache_tokens": 1,
    "step_tokens": 1,
    "extra_rows": 0,
    "adapter_mib": 0,
    "adapter_rank": 1,
}  # and the least that each may be


class TorchKind:
    """Models run by transformers in a worker process of ours."""

    def command(self, launch: Launch, endpoint: Endpoint) -> tuple[str, ...]:
        """See `EngineKind.command`; options of the deployment are those of `_OPTIONS`."""
        deployment, version = launch.deployment, launch.version
        _check(deployment, version.directory)
        flags = {
            "--model-dir": version.directory,
            "--served-name": launch.served_name,
            "--task": version.task.value,
            "--dtype": deployment.dtype,
            "--device": deployment.device,
            "--threads": deployment.threads,
            "--max-batch": deployment.max_batch or _MAX_BATCH,
            "--context-length": deployment.context_length,
            "--converted-dir": str(converted_dir(version)) if version.digest else "",
            **{f"--{name.replace('_', '-')}": value for name, value in deployment.options.items()},
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


def converted_dir(version: ModelVersion) -> Path:
    """Where a GGUF checkpoint, unpacked, is kept for the next start."""
    return _cache_dir() / "converted" / version.digest


def _check(deployment: DeploymentConfig, directory: str) -> None:
    name = deployment.name or deployment.model
    if not directory:
        raise ConfigError(f"deployment {name}: the torch engine needs the model's files on this machine")
    if deployment.dtype not in _DTYPES:
        raise ConfigError(f"deployment {name}: dtype {deployment.dtype!r} is none of {', '.join(_DTYPES[1:])}")
    for key in ("threads", "context_length", "max_batch"):
        if getattr(deployment, key) < 0:
            raise ConfigError(f"deployment {name}: {key} is {getattr(deployment, key)}; write 0 or more")
    for key, text in deployment.options.items():
        if key not in _OPTIONS:
            raise ConfigError(f"deployment {name}: torch has no option {key!r}; there are {', '.join(_OPTIONS)}")
        if not text.isdecimal() or int(text) < _OPTIONS[key]:
            raise ConfigError(
                f"deployment {name}: option {key} is {text!r}; write a whole number from {_OPTIONS[key]} on"
            )


def _cache_dir() -> Path:
    return (environment.cache_dir() or user_cache_path("terascope")).absolute()


KIND = TorchKind()
