"""Which launchers there are."""

import re
from collections.abc import Mapping

from terascope.core.clock import Clock
from terascope.core.config import DeploymentConfig, SiteConfig
from terascope.core.errors import ConfigError
from terascope.fleet.launchers.batch.launcher import BatchLauncher
from terascope.fleet.launchers.contract import Launcher
from terascope.fleet.launchers.inprocess import InProcessLauncher
from terascope.fleet.launchers.local import LocalLauncher

IN_PROCESS = "inprocess"
_SITE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,29}"


def all_launchers(clock: Clock, sites: Mapping[str, SiteConfig] | None = None) -> dict[str, Launcher]:
    """Return the launchers of this machine by their names, and those of `sites` by `site_launcher`; starts nothing.

    Raises `ConfigError` when a site says too little.
    """
    found: dict[str, Launcher] = {IN_PROCESS: InProcessLauncher(), "local": LocalLauncher(clock)}
    for name, site in (sites or {}).items():
        if not re.fullmatch(_SITE_NAME, name):
            raise ConfigError(f"a site cannot be called {name[:60]!r}; letters, digits, `.`, `_`, `-`, at most 30")
        found[site_launcher(name)] = BatchLauncher(name, site, clock)
    return found


def site_launcher(site: str) -> str:
    """The name of the launcher of a site."""
    return f"site:{site}"


def launcher_of(deployment: DeploymentConfig) -> str:
    """The name of the launcher that a deployment wants. Raises `ConfigError` when it wants two."""
    if deployment.site and deployment.launcher != "local":
        raise ConfigError(f"a deployment with a `site` is started there; leave out `launcher: {deployment.launcher}`")
    return site_launcher(deployment.site) if deployment.site else deployment.launcher


def choose(launchers: Mapping[str, Launcher], name: str) -> Launcher:
    """Return the launcher of that name. Raises `ConfigError` when there is none."""
    if name not in launchers and name.startswith(site_launcher("")):
        raise ConfigError(f"there is no site {name.removeprefix(site_launcher(''))!r}; add it under `sites:`")
    if name not in launchers:
        raise ConfigError(f"there is no launcher {name!r}; choose one of {', '.join(sorted(launchers))}")
    return launchers[name]
