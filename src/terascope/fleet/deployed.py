"""A deployment with all that is needed to make replicas of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path

from terascope.core.config import DeploymentConfig, EngineConfig, SiteConfig
from terascope.core.errors import ConfigError
from terascope.core.models import ModelVersion
from terascope.core.projects import Qos
from terascope.engines.contract import Endpoint, EngineKind, Launch
from terascope.fleet.launchers.contract import Launcher
from terascope.fleet.launchers.registry import IN_PROCESS, choose, launcher_of
from terascope.fleet.node import Need, Node
from terascope.fleet.reconciler import Limits

Wanted = Sequence[tuple[DeploymentConfig, ModelVersion]]
_AFTER_GAP_S = 30.0  # that an engine has to answer once its tunnel is given up
SPANS_NODES = ("vllm",)
"""Engines whose replicas may have several nodes."""
EngineKinds = Callable[[str], EngineKind]


@dataclass(frozen=True, slots=True)
class Programs:
    """How engines are started on this machine, and on the sites."""

    engines: Mapping[str, EngineConfig] = field(default_factory=dict)
    sites: Mapping[str, SiteConfig] = field(default_factory=dict)
    node: Node = field(default_factory=Node)

    def of(self, deployment: DeploymentConfig) -> EngineConfig:
        """Return how the engine of a deployment is started where that runs."""
        here, engine = self.engines.get(deployment.engine, EngineConfig()), deployment.engine
        there = self.sites[deployment.site].engines.get(engine, here) if deployment.site in self.sites else here
        return replace(there, environment={**there.environment, **deployment.environment})

    def gap_s(self, deployment: DeploymentConfig) -> float:
        """Return how long a replica may be unheard of for no fault of its own: while its tunnel is mended."""
        site = self.sites.get(deployment.site)
        return site.tunnel_grace_s if site and site.reach == "tunnel" else 0.0

    def need(self, deployment: DeploymentConfig, version: ModelVersion) -> Need:
        """Return what a replica takes of this machine; nothing where it runs elsewhere."""
        if deployment.site or deployment.launcher != "local":
            return Need()
        return self.node.need(deployment, version, self.of(deployment).environment)

    def check(self, deployment: DeploymentConfig, version: ModelVersion) -> None:
        """Raise `ConfigError` when a replica fits on no machine, or its site may not see the files."""
        if deployment.site in self.sites:
            _check_nodes(deployment, self.sites[deployment.site])
        elif deployment.layout.nodes > 1:
            raise ConfigError(
                f"layout.nodes is {deployment.layout.nodes}: a replica of several nodes is a job; name its `site`"
            )
        self.node.check(deployment.name or version.name, self.need(deployment, version))
        weights = self.sites[deployment.site].weights if deployment.site in self.sites else ""
        if weights and version.directory and not Path(version.directory).is_relative_to(weights):
            raise ConfigError(
                f"the files of {version.public_name} are in {version.directory}, which the nodes of site "
                f"{deployment.site} may not see; put them below {weights}, and add the model from there"
            )


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

    def commands(self, endpoint: Endpoint) -> tuple[tuple[str, ...], ...]:
        """The command line of a replica for each of its nodes, the one that answers first."""
        ranks = range(self.launch.deployment.layout.nodes)
        return tuple(self.kind.command(replace(self.launch, rank=rank), endpoint) for rank in ranks)


def _check_nodes(deployment: DeploymentConfig, site: SiteConfig) -> None:
    """Raise `ConfigError` when a layout does not fit the nodes of its site."""
    layout, has = deployment.layout, site.gpus_per_node
    if layout.nodes > 1 and deployment.engine not in SPANS_NODES:
        raise ConfigError(
            f"layout.nodes is {layout.nodes}, and engine {deployment.engine} runs on one node; of several nodes are "
            f"replicas of {', '.join(SPANS_NODES)}"
        )
    sizes = f"tensor {layout.tensor} x pipeline {layout.pipeline} x data {layout.data} = {layout.devices} GPUs"
    if has and layout.nodes > 1 and layout.devices != layout.nodes * has:
        raise ConfigError(
            f"{sizes}, and {layout.nodes} nodes of site {deployment.site} have {layout.nodes} x {has} = "
            f"{layout.nodes * has}; make them equal"
        )
    if has and layout.devices > layout.nodes * has:
        raise ConfigError(
            f"{sizes}, and a node of site {deployment.site} has {has}; write layout.nodes: {-(-layout.devices // has)}"
        )


def prepare(
    wanted: Wanted,
    kinds: EngineKinds,
    launchers: Mapping[str, Launcher],
    limits: Limits,
    programs: Programs,
) -> tuple[Deployed, ...]:
    """Return the deployments in order; starts nothing.

    Raises `ConfigError` for names that stand twice and for settings that are impossible.
    """
    first = [_prepare(config, version, kinds, launchers, limits, programs) for config, version in wanted]
    names = [one.name for one in first]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"two deployments are called {', '.join(sorted(twice))}; give each a `name` of its own")
    return tuple(first)


def check_numbers(name: str, config: DeploymentConfig) -> None:
    """Raise `ConfigError` when a deployment's numbers of replicas contradict each other, or its classes are none."""
    bounds = config.bounds
    if not 0 <= bounds.least <= bounds.most:
        raise ConfigError(f"deployment {name}: `min` is {bounds.least} and `max` {bounds.most}; write 0 <= min <= max")
    if not 0 <= bounds.hot <= bounds.most:
        raise ConfigError(f"deployment {name}: `hot` is {bounds.hot}; write 0 to {bounds.most}, which is its most")
    if not 0 < bounds.idle_s < inf:
        raise ConfigError(f"deployment {name}: `idle_s` is {bounds.idle_s:g}; write a number of seconds above 0")
    if unknown := set(config.qos) - set(Qos):
        raise ConfigError(f"deployment {name}: there is no QOS {min(unknown)!r}; choose from {', '.join(Qos)}")


def _prepare(
    config: DeploymentConfig,
    version: ModelVersion,
    kinds: EngineKinds,
    launchers: Mapping[str, Launcher],
    limits: Limits,
    programs: Programs,
) -> Deployed:
    name = config.name or version.name
    check_numbers(name, config)
    programs.check(config, version)
    launch, kind = Launch(replace(config, name=name), version, programs.of(config)), kinds(config.engine)
    external = not kind.command(launch, Endpoint("unix:/endpoint"))
    launcher = IN_PROCESS if external else launcher_of(config)
    if launcher == IN_PROCESS and not external:
        raise ConfigError(f"deployment {name}: engine {config.engine} runs in a process; choose launcher `local`")
    if external:
        patience = limits.external_s
        limits = replace(limits, start_s=patience, silent_s=patience, last_pause_s=limits.external_pause_s, most_lost=0)
    else:
        pause = limits.remote_pause_s if config.site else limits.last_pause_s
        silent = max(limits.silent_s, programs.gap_s(config) + _AFTER_GAP_S)
        limits = replace(limits, start_s=config.start_timeout_s, last_pause_s=pause, silent_s=silent)
    return Deployed(name, launch, kind, launcher, choose(launchers, launcher), limits, external)
