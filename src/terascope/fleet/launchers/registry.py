"""Which launchers there are."""

from collections.abc import Mapping

from terascope.core.clock import Clock
from terascope.core.errors import ConfigError
from terascope.fleet.launchers.contract import Launcher
from terascope.fleet.launchers.inprocess import InProcessLauncher
from terascope.fleet.launchers.local import LocalLauncher

IN_PROCESS = "inprocess"


def all_launchers(clock: Clock) -> dict[str, Launcher]:
    """Return one launcher of each kind, by name; nothing is started."""
    return {IN_PROCESS: InProcessLauncher(), "local": LocalLauncher(clock)}


def choose(launchers: Mapping[str, Launcher], name: str) -> Launcher:
    """Return the launcher of that name. Raises `ConfigError` when there is none."""
    if name not in launchers:
        raise ConfigError(f"there is no launcher {name!r}; choose one of {', '.join(sorted(launchers))}")
    return launchers[name]
