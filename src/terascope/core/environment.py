"""Every environment variable that Terascope reads, and nothing else reads the environment (a test sees to it)."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

REPLICA_SECRET = "TERASCOPE_REPLICA_SECRET"  # noqa: S105 - the name of a variable
AGENT_TOKEN = "TERASCOPE_AGENT_TOKEN"  # noqa: S105 - the name of a variable
AGENT_DEPLOYMENT = "TERASCOPE_AGENT_DEPLOYMENT"


def replica_secret() -> str:
    """The secret a replica demands of whoever talks to it; set by the launcher."""
    return os.environ.get(REPLICA_SECRET, "")


def agent_token() -> str:
    """The token that an agent shows to the gateway; set by the launcher."""
    return os.environ.get(AGENT_TOKEN, "")


def agent_deployment() -> str:
    """The deployment whose engine an agent is beside; set by the launcher."""
    return os.environ.get(AGENT_DEPLOYMENT, "")


def url() -> str:
    """Where the gateway is, for the CLI and the SDK."""
    return os.environ.get("TERASCOPE_URL", "")


def api_key() -> str:
    """The key the CLI and the SDK use."""
    return os.environ.get("TERASCOPE_API_KEY", "")


def data_dir() -> Path | None:
    """The data directory, when `--data-dir` does not say."""
    return _path("TERASCOPE_DATA_DIR")


def cache_dir() -> Path | None:
    """Where fetched models are kept, shared by all data directories."""
    return _path("TERASCOPE_CACHE_DIR")


def config_file() -> Path | None:
    """The configuration, when `--config` does not say."""
    return _path("TERASCOPE_CONFIG")


def secret(name: str) -> str:
    """A secret that the configuration names by its variable, such as `api_key_env`; empty when it is not set."""
    return os.environ.get(name, "")


def visible_gpus() -> list[str] | None:
    """The GPUs that CUDA shows to programs here, when somebody has chosen them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if chosen is None else [one.strip() for one in chosen.split(",") if one.strip()]


def prefer(name: str, value: str) -> None:
    """Set a variable that a library reads when it is loaded, unless the user has set it."""
    os.environ.setdefault(name, value)


@contextmanager
def preferred(values: Mapping[str, str]) -> Iterator[None]:
    """`prefer` those for what is started within this; on leaving the environment is as it was."""
    before = dict(os.environ)
    for name, value in values.items():
        prefer(name, value)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def for_child() -> dict[str, str]:
    """The environment that a program started by Terascope inherits."""
    return dict(os.environ)


def _path(name: str) -> Path | None:
    return Path(value) if (value := os.environ.get(name)) else None
