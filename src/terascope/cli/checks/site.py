"""A cluster, as it is seen from its login node: would a job be taken, and would its nodes find what they need?"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from terascope.cli.checks.finding import Finding, error, ok, warning
from terascope.core.clock import SystemClock
from terascope.core.config import Config, EngineConfig, SiteConfig
from terascope.core.errors import ServiceError
from terascope.fleet.launchers.batch.launcher import BatchLauncher

_COMMANDS = {"slurm": ("sbatch", "squeue", "scancel"), "pbs": ("qsub", "qstat", "qdel")}
_MODULES = {"vllm": "vllm", "torch": "torch", "openvino": "openvino_genai", "echo": "terascope"}
_OF_ONE_NODE = ("/tmp", "/var", "/dev", "/run", "/local", "/scratch/local")  # noqa: S108 - names to warn of
_PATIENCE_S = 60


def check_site(config: Config, name: str) -> Iterator[Finding]:
    """Look at the site `name`; nothing is submitted or made."""
    if (site := config.sites.get(name)) is None:
        known = ", ".join(sorted(config.sites)) or "none"
        yield error("name", f"there is no site {name!r}; there is {known}", "add it under `sites:`")
        return
    missing = [one for one in _COMMANDS[site.scheduler] if shutil.which(one) is None]
    if missing:
        advice = "run this on a login node, or load the module that has the batch system's commands"
        yield error("commands", f"{', '.join(missing)} not found on PATH", advice)
    else:
        yield ok("commands", ", ".join(_COMMANDS[site.scheduler]))
        yield _trial(name, site)
    yield from _directories(site)
    engines = {one.engine for one in config.deployments if one.site == name} | site.engines.keys()
    for engine in sorted(engines & _MODULES.keys()):
        yield _python(engine, site.engines.get(engine) or config.engines.get(engine) or EngineConfig())


def _trial(name: str, site: SiteConfig) -> Finding:
    try:
        words = BatchLauncher(name, site, SystemClock()).trial()
    except (ServiceError, OSError) as problem:
        text = problem.message if isinstance(problem, ServiceError) else str(problem)
        return error("a job", text, f"mend account, partition, qos, constraint or directives of `sites.{name}`")
    return ok("a job", words or "would be taken")


def _directories(site: SiteConfig) -> Iterator[Finding]:
    for about, path, written in (
        ("logs", site.logs, True),
        ("caches", site.caches, True),
        ("weights", site.weights, False),
    ):
        if path:
            yield _directory(about, Path(path), written=written)
        elif about == "logs":
            yield error("logs", "says no directory", "name one that nodes and gateway see: `logs:`")


def _directory(about: str, path: Path, *, written: bool) -> Finding:
    if not path.is_absolute():
        return error(about, f"{path} is no absolute path", "write the whole path")
    existing = next(one for one in (path, *path.parents) if one.exists())
    if not os.access(existing, (os.W_OK | os.X_OK) if written else (os.R_OK | os.X_OK)):
        return error(about, f"{existing} cannot be {'written' if written else 'read'}", "choose another directory")
    if not written and existing != path:
        return error(about, f"there is no {path}", "make it, and put the models there")
    if path.is_relative_to(Path.home()) and Path.home() != Path("/"):
        advice = "homes are small and slow, and some nodes do not have them: choose a project or scratch directory"
        return warning(about, f"{path} is in your home", advice)
    if str(path).startswith(tuple(f"{one}/" for one in _OF_ONE_NODE)):
        return warning(about, f"{path} looks like a directory of this machine alone", "nodes must see the same files")
    return ok(about, f"{path}, {shutil.disk_usage(existing).free / 1e9:,.0f} GB free")


def _python(engine: str, program: EngineConfig) -> Finding:
    about, python, module = f"engine {engine}", program.python or sys.executable, _MODULES[engine]
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, timeout=_PATIENCE_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as problem:
        words = getattr(problem, "strerror", None) or "it does not answer"
        return error(about, f"{python} cannot be run: {words}", "name its Python under `engines:` of the site")
    if done.returncode:
        return error(about, f"{python} has no {module}", f"install it there, or name another Python for {engine}")
    return ok(about, python)
