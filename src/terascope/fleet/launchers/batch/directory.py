"""The directory of one launch: its script, its log, and what gateway and node tell each other through files."""

import json
import shlex
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from terascope.fleet.launchers import guard as guard_program
from terascope.fleet.launchers import node as node_program
from terascope.fleet.launchers.contract import Observation, Program, Sight
from terascope.fleet.launchers.local import describe

KEPT = 50
"""Launches that have ended are kept, the newest so many."""
_ENVIRONMENT = "environment"


class LaunchDirectory:
    """Files of one launch, in a directory of mode 0700 that the nodes see."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def log(self) -> Path:
        """What the program prints."""
        return self.path / "output.log"

    @property
    def address(self) -> Path:
        """Where the program is reached, once it runs."""
        return self.path / "address"

    def make(self, program: Program, agent: tuple[str, ...] = ()) -> None:
        """Write what the job needs; `agent` is run beside the program. Raises `OSError`; then nothing is left."""
        self.path.mkdir(mode=0o700, parents=True)
        try:
            for module in (guard_program, node_program):
                source = Path(str(module.__file__))
                shutil.copy(source, self.path / source.name)
            self._write_environment(program.environment)
            if agent:
                (self.path / "agent").write_text(json.dumps(agent))
            if program.log and program.log != self.log:
                program.log.unlink(missing_ok=True)
                program.log.symlink_to(self.log)
        except BaseException:
            shutil.rmtree(self.path, ignore_errors=True)
            raise

    def _write_environment(self, variables: Mapping[str, str]) -> None:
        """Secrets are in it: it is ours alone from the first moment, and removed when the job has ended."""
        path = self.path / _ENVIRONMENT
        path.touch(mode=0o600, exist_ok=False)
        path.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()))

    def body(self, program: Program, *, python: str, address: str, setup: "tuple[str, ...]") -> str:
        """The lines of the job: the site's set-up, then the program behind its guard."""
        words = [python, "-I", "-S", str(self.path / "node.py"), str(self.path), program.listen, address, str(self.log)]
        command = " ".join(map(shlex.quote, [*words, *program.arguments]))
        return "\n".join(["umask 077", *setup, f". {shlex.quote(str(self.path / _ENVIRONMENT))}", f"exec {command}"])

    def allow(self, grace_s: float) -> None:
        """Say how long the program may take to end, before it is told to."""
        with suppress(FileNotFoundError):
            (self.path / "grace").write_text(f"{grace_s:g}\n")

    def ended(self) -> Observation | None:
        """What the node said of the program's end; None while it has said nothing."""
        try:
            code = int((self.path / "ended").read_text())
        except (OSError, ValueError):
            return None
        return Observation(Sight.GONE, code, describe(code))

    def close(self) -> None:
        """The job is gone: forget its secrets, and the oldest of the launches beside it."""
        (self.path / _ENVIRONMENT).unlink(missing_ok=True)
        others = [one for one in self.path.parent.iterdir() if one.is_dir() and not (one / _ENVIRONMENT).exists()]
        for old in sorted(others, key=lambda one: one.stat().st_mtime)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
