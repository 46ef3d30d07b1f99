"""A deployment with all that is needed to make replicas of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from terascope.core.config import DeploymentConfig, EngineConfig
from terascope.core.errors import ConfigError
from terascope.core.models import ModelVersion
from terascope.engines.contract import Endpoint, EngineKind, Launch
from terascope.fleet.launchers.contract import Launcher
from terascope.fleet.launchers.registry import IN_PROCESS, choose
from terascope.fleet.reconciler import Limits

Wanted = Sequence[tuple[DeploymentConfig, ModelVersion]]
EngineKinds = Callable[[str], EngineKind]


@dataclass(frozen=True, slots=True)
class Deployed:
    """`external`: its engine needs no process, so nothing is launched; its launcher is then the in-process one."""

    name: str
    launch: Launch
    kind: EngineKind
    launcher_name: str
    launcher: Launcher
    limits: Limits
    external: bool

    @property
    def model(self) -> str:
        """`name@version`."""
        return self.launch.version.public_name


def prepare(
    wanted: Wanted,
    kinds: EngineKinds,
    launchers: Mapping[str, Launcher],
    limits: Limits,
    engines: Mapping[str, EngineConfig],
) -> tuple[Deployed, ...]:
    """Return the deployments in order; starts nothing.

    Raises `ConfigError` for names that stand twice and for settings that are impossible.
    """
    first = [_prepare(config, version, kinds, launchers, limits, engines) for config, version in wanted]
    names = [one.name for one in first]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"two deployments are called {', '.join(sorted(twice))}; give each a `name` of its own")
    return tuple(first)


def _prepare(
    config: DeploymentConfig,
    version: ModelVersion,
    kinds: EngineKinds,
    launchers: Mapping[str, Launcher],
    limits: Limits,
    engines: Mapping[str, EngineConfig],
) -> Deployed:
    name = config.name or version.name
    program = engines.get(config.engine, EngineConfig())
    launch, kind = Launch(replace(config, name=name), version, program), kinds(config.engine)
    external = not kind.command(launch, Endpoint("unix:/endpoint"))
    launcher = IN_PROCESS if external else config.launcher
    if launcher == IN_PROCESS and not external:
        raise ConfigError(f"deployment {name}: engine {config.engine} runs in a process; choose launcher `local`")
    if external:
        patience = limits.external_s
        limits = replace(limits, start_s=patience, silent_s=patience, last_pause_s=limits.external_pause_s)
    else:
        limits = replace(limits, start_s=config.start_timeout_s)
    return Deployed(name, launch, kind, launcher, choose(launchers, launcher), limits, external)
