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
from terascope.fleet.logs import last_words, log_of_rank

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
        words = self.guarded(program.listen, self.log, python=python, address=address)
        command = " ".join(map(shlex.quote, [*words, *program.arguments]))
        return "\n".join(["umask 077", *setup, self.variables, f"exec {command}"])

    @property
    def variables(self) -> str:
        """The line of the job that reads the program's variables; a job that nobody waits for any more ends there."""
        return f". {shlex.quote(str(self.path / _ENVIRONMENT))} || exit 1"

    def guarded(self, listen: str, log: Path, *, python: str, address: str) -> list[str]:
        """The words that stand before a program on its node."""
        return [python, "-I", "-S", str(self.path / "node.py"), str(self.path), listen, address, str(log)]

    def log_of(self, rank: int) -> Path:
        """What the program prints on one of its nodes."""
        return log_of_rank(self.log, rank)

    def allow(self, grace_s: float) -> None:
        """Say how long the program may take to end, before it is told to."""
        with suppress(FileNotFoundError):
            (self.path / "grace").write_text(f"{grace_s:g}\n")

    def ended(self) -> Observation | None:
        """What a node said of the program's end; None while none has. Of several nodes it is the first that ended."""
        try:
            first, *where = (self.path / "ended").read_text().splitlines()
            code = int(first)
        except (OSError, ValueError):
            return None
        return Observation(
            Sight.GONE, code, self._of_node(where[0].split(), describe(code)) if where else describe(code)
        )

    def _of_node(self, where: list[str], how: str) -> str:
        """How one of several nodes ended; the others' last words are in the reason that follows."""
        rank, nodes, name = where
        words = last_words(self.log_of(int(rank)), self._secrets()) if rank != "0" else ""
        return f"rank {rank} of {nodes}, on node {name}, {how}" + (f" ({words})" if words else "")

    def _secrets(self) -> list[str]:
        try:
            lines = (self.path / _ENVIRONMENT).read_text().splitlines()
        except OSError:
            return []
        pairs = [line.removeprefix("export ").partition("=") for line in lines]
        return [shlex.split(value)[0] for name, _, value in pairs if name.endswith(("SECRET", "KEY")) and value]

    def close(self) -> None:
        """The job is gone: forget its secrets, and the oldest of the launches beside it."""
        (self.path / _ENVIRONMENT).unlink(missing_ok=True)
        others = [one for one in self.path.parent.iterdir() if one.is_dir() and not (one / _ENVIRONMENT).exists()]
        for old in sorted(others, key=lambda one: one.stat().st_mtime)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
