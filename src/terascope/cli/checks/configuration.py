"""The configuration: does every name in it mean something?"""

import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from terascope.access.issuers import checked_issuers
from terascope.catalog.sources.path import PathSource
from terascope.catalog.sources.registry import parse_source
from terascope.cli import settings
from terascope.cli.checks.finding import Finding, error, ok, warning
from terascope.client import Client
from terascope.core.clock import SystemClock
from terascope.core.config import AuthConfig, Config, DeploymentConfig, ServerConfig
from terascope.core.errors import ServiceError
from terascope.core.models import Mode, ModelName, ModelVersion, Task
from terascope.engines.contract import Endpoint, Launch
from terascope.engines.registry import engine_kind
from terascope.fleet.deployed import Programs
from terascope.fleet.launchers.registry import all_launchers, choose, launcher_of

_ADVICE = ("pip install 'terascope[torch]'", "name the Python that has vLLM in `engines.vllm.python`")
Bind = Callable[[str, int], None]
"""Binds a host and port for a moment; raises a `ServiceError` when they cannot be had."""


def read_configuration(path: Path | None) -> tuple[Config | None, Finding]:
    """Read the configuration that `serve` would, and say how that went."""
    about = str(path) if path else "default"
    try:
        config = settings.load(path)
    except ServiceError as problem:
        return None, error(about, problem.message, "mend it; docs/reference/configuration.md lists the keys")
    return config, ok(about, f"{len(config.models)} models, {len(config.deployments)} deployments")


def check_configuration(config: Config, cache_dir: Path) -> Iterator[Finding]:
    """Look at every issuer, model and deployment; nothing is fetched or started."""
    if config.auth.issuers:
        yield _issuers(config.auth)
    for name in config.models:
        yield _model(config, name, cache_dir)
    for deployment in config.deployments:
        yield _deployment(config, deployment)
    if not config.deployments:
        yield warning("deployments", "there is none", "nothing will be served; add one under `deployments:`")


def check_port(server: ServerConfig, bind: Bind) -> Finding:
    """Look whether the gateway could listen, or already does."""
    about = f"port {server.port}"
    try:
        bind(server.host, server.port)
    except ServiceError as problem:
        if _is_gateway(server):
            return ok(about, "a Terascope gateway listens there")
        return error(about, problem.message, "stop what uses it, or choose another with --port or `server.port`")
    return ok(about, f"free at {server.host}")


def _issuers(auth: AuthConfig) -> Finding:
    try:
        names = [one.name for one in checked_issuers(auth.issuers)]
    except ServiceError as problem:
        return error("issuers", problem.message, "docs/how-to/single-sign-on.md shows how they are configured")
    return ok("issuers", ", ".join(names))


def _is_gateway(server: ServerConfig) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)
    try:
        with Client(f"http://{f'[{host}]' if ':' in host else host}:{server.port}{server.root_path}") as client:
            return client.health().status == "ok"
    except ServiceError:
        return False


def _model(config: Config, name: str, cache_dir: Path) -> Finding:
    about, model = f"model {name}", config.models[name]
    try:
        ModelName.parse(name)
        source = parse_source(model.source, cache_dir, SystemClock())
    except ServiceError as problem:
        return error(about, problem.message, f"mend `models.{name}`")
    if isinstance(source, PathSource):
        if not source.directory.is_dir():
            return error(about, f"there is no directory {source.directory}", f"mend `models.{name}.source`")
    elif not source.pinned:
        return warning(about, f"{source.text} may mean other files tomorrow", "name the revision by its 40 hex digits")
    return ok(about, source.text)


def _deployment(config: Config, deployment: DeploymentConfig) -> Finding:
    about = f"deployment {deployment.name or deployment.model}"
    try:
        ModelName.parse(deployment.model)
        program = Programs(config.engines, config.sites).of(deployment)
        launch = Launch(deployment, _stand_in(config, deployment), program)
        command = engine_kind(deployment.engine).command(launch, Endpoint("unix:/tmp/doctor.sock"))
        choose(all_launchers(SystemClock(), config.sites), launcher_of(deployment))
    except ServiceError as problem:
        return error(about, problem.message, "mend it under `deployments:`")
    if unknown := sorted(set(deployment.modes) - set(Mode)):
        return error(about, f"there is no mode {unknown[0]!r}", f"choose from {', '.join(Mode)}")
    if missing := _missing(command):
        return error(about, f"its engine needs {missing}, which is not installed", _ADVICE[deployment.engine == "vllm"])
    if deployment.engine in ("torch", "vllm") and deployment.model.partition("@")[0] not in config.models:
        advice = "add it under `models:`, or see that `terascope models list` has it"
        return warning(about, f"{deployment.model} is not among `models:`", advice)
    return ok(about, f"{deployment.engine}, started by {launcher_of(deployment)}" if command else deployment.engine)


def _stand_in(config: Config, deployment: DeploymentConfig) -> ModelVersion:
    """A version to build a command line with: what the catalogue will hold is not known before it is fetched."""
    name = ModelName.parse(deployment.model)
    source = config.models[name.name].source if name.name in config.models else ""
    return ModelVersion(name.name, name.version or "any", "", source, str(Path.cwd()), Task.GENERATE, 0)


def _missing(command: tuple[str, ...]) -> str:
    """What of a command line is not there: its program, or the module that Python is to run."""
    if not command:
        return ""
    if shutil.which(command[0]) is None:
        return command[0]
    if command[0] != sys.executable:  # what another Python has is not looked into here
        return ""
    return command[2] if command[1:2] == ("-m",) and not _installed(command[2]) else ""


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it would be in
        return False
