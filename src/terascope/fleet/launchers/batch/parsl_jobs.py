"""Submitting through Parsl's providers, which know how each batch system wants its scripts.

States are not asked of Parsl: it takes a job that is not listed for one that has completed.
"""

import re
import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from terascope.core.config import SiteConfig
from terascope.core.errors import ConfigError
from terascope.fleet.launchers.batch.commands import told, tried
from terascope.fleet.launchers.batch.contract import Script

_JOB_ID = re.compile(r"[0-9]+(\.[A-Za-z0-9._-]+)?")


def need_parsl() -> None:
    """Raise `ConfigError` where Parsl is not installed."""
    if find_spec("parsl") is None:
        raise ConfigError("jobs on clusters need Parsl: pip install 'terascope[hpc]'")


def submit(provider: Any, script: Script, timeout_s: float) -> str:
    """Submit through `provider`; return the job's id. Raises `OSError` with the batch system's words.

    Its command is run as all others are: Parsl's own way leaves one that takes too long behind.
    """
    from parsl.providers.errors import SubmitException

    provider.script_dir = str(script.directory)
    provider.execute_wait = lambda command, timeout=None: tried(*shlex.split(command), timeout_s=timeout_s)
    try:
        job_id = str(provider.submit(script.body, 1, script.name))
    except SubmitException as error:
        words = told(error.stderr or error.stdout or "")
        raise OSError(f"the job was not taken: {words or 'the batch system does not say why'}") from None
    if not _JOB_ID.fullmatch(job_id):
        raise OSError(f"the batch system answered with no job's id, but with {told(job_id)!r}")
    return job_id


def render(provider: Any, script: Script) -> str:
    """Return what `submit` would hand over: it is made by the same code, with commands that are not run."""
    with TemporaryDirectory() as directory, _harmless(provider):
        provider.script_dir = directory
        provider.submit(script.body, 1, script.name)
        [written] = Path(directory).iterdir()
        return written.read_text().replace(directory, str(script.directory))


@contextmanager
def _harmless(provider: Any) -> Iterator[None]:
    """While this lasts, `provider` runs nothing; every command seems to have taken job 0."""
    provider.execute_wait = lambda command, timeout=None: (0, "Submitted batch job 0\n", "")
    try:
        yield
    finally:
        del provider.execute_wait


def simple_launcher() -> Any:
    """A launcher of Parsl's that leaves the script's lines as they are, on however many nodes."""
    from parsl.launchers.base import Launcher

    class AsItIs(Launcher):  # type: ignore[misc]  # Parsl has no types
        def __call__(self, command: str, tasks_per_node: int, nodes_per_block: int, script_dir: str = "") -> str:
            return command

    return AsItIs()


class ParslScheduler(ABC):
    """What batch systems that Parsl submits to have in common."""

    def __init__(self, site: SiteConfig) -> None:
        """Raises `ConfigError` where Parsl is not installed."""
        need_parsl()
        self._site = site

    def submit(self, script: Script) -> str:
        """Submit `script`; return the job's id. Raises `OSError` with the batch system's words."""
        return submit(self._provider(script), script, self._site.command_timeout_s)

    def render(self, script: Script) -> str:
        """Return what `submit` would hand over."""
        return render(self._provider(script), script)

    @abstractmethod
    def _provider(self, script: Script) -> Any:
        """Parsl's provider for `script`."""
