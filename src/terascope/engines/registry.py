"""Which engines there are; one is imported when it is first asked for."""

from importlib import import_module
from typing import cast

from terascope.core.errors import ConfigError
from terascope.engines.contract import EngineKind

_KINDS = {
    "echo": "terascope.engines.echo.adapter",
    "openvino": "terascope.engines.openvino.adapter",
    "remote": "terascope.engines.remote.adapter",
    "torch": "terascope.engines.torch.adapter",
    "vllm": "terascope.engines.vllm.adapter",
}


def engine_kind(name: str) -> EngineKind:
    """Return the kind of engine called `name`: the object `KIND` of its adapter.

    Raises `ConfigError` when there is none.
    """
    if name not in _KINDS:
        raise ConfigError(f"there is no engine {name!r}; choose one of {', '.join(sorted(_KINDS))}")
    return cast(EngineKind, import_module(_KINDS[name]).KIND)
