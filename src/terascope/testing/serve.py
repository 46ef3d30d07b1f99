"""A real `terascope serve` in a process of its own, for tests that look at it from outside."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from terascope.core.clock import SystemClock
from terascope.fleet.launchers.processes import Process

ECHO = {"model": "echo", "engine": "echo", "launcher": "inprocess"}
"""A deployment of the echo engine inside the gateway's process."""
LOCAL_ECHO = ECHO | {"launcher": "local"}
"""The same as a server, a child process of the gateway."""
_END_S = 30.0


class ServeProcess:
    """`python -m terascope serve` on a free port; killed on leaving `with`.

    `directory` gets the configuration, the data directory `data` and what goes to stderr, in `log`. `arguments`
    are further options; the configuration is the echo engine unless `config` says more.
    """

    def __init__(self, directory: Path, *arguments: str, config: Mapping[str, Any] | None = None) -> None:
        self.data_dir = directory / "data"
        self.log = directory / "log"
        self.lines: list[str] = []
        """What it has printed so far, as far as it was read."""
        self.url = ""
        self._arguments = arguments
        self._config = directory / "terascope.yaml"
        self._config.write_text(yaml.safe_dump({"server": {"port": 0}, "deployments": [ECHO]} | dict(config or {})))
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        """The id of its process."""
        return self._running.pid

    @property
    def _running(self) -> subprocess.Popen[str]:
        assert self._process is not None, "not started"
        return self._process

    @property
    def operator(self) -> dict[str, str]:
        """What `operator.json` says: `url` and `key`."""
        found: dict[str, str] = json.loads((self.data_dir / "operator.json").read_text())
        return found

    @property
    def headers(self) -> dict[str, str]:
        """What a request with the operator's key carries."""
        return {"Authorization": f"Bearer {self.operator['key']}"}

    @property
    def command(self) -> list[str]:
        """How it is started."""
        program = [sys.executable, "-m", "terascope", "serve", "--config", str(self._config)]
        return [*program, "--data-dir", str(self.data_dir), *self._arguments]

    def start(self) -> "ServeProcess":
        """Start it, in a session of its own as a shell's job is, and return when it listens."""
        self.lines = []
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                self.command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )
        self.url = self.until(r"Terascope listens on (\S+)")[1]
        return self

    def until(self, pattern: str) -> re.Match[str]:
        """Read what it prints up to a line that matches. Raises `AssertionError` when it ends without one."""
        assert self._running.stdout is not None
        for line in self._running.stdout:
            self.lines.append(line.rstrip("\n"))
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"ended without {pattern!r}:\n{self.printed()}\n{self.log.read_text()}")

    def ready(self) -> "ServeProcess":
        """Return when every deployment is ready or has failed."""
        self.until("^Ready: ")
        return self

    def printed(self) -> str:
        """All that was read of what it printed."""
        return "\n".join(self.lines)

    def children(self, words: str = "") -> list[Process]:
        """Its living descendants whose command line has `words` in it."""
        gateway = Process.find(self.pid)
        below = gateway.tree()[1:] if gateway else []
        return [process for process in below if words in command_line(process.pid)]

    def send(self, number: signal.Signals, *, group: bool = False) -> None:
        """Send a signal to it, or to its whole process group as Ctrl-C in a terminal does."""
        os.killpg(self.pid, number) if group else os.kill(self.pid, number)

    def ended(self) -> int:
        """Wait for its end, read what it printed last, return its exit status."""
        assert self._running.stdout is not None
        self.lines += self._running.stdout.read().splitlines()
        self._running.stdout.close()
        return self._running.wait(_END_S)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end."""
        self.send(number)
        return self.ended()

    def __enter__(self) -> "ServeProcess":
        return self if self._process else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running.poll() is None:
            self.stop(signal.SIGKILL)
        elif self._running.stdout is not None:
            self._running.stdout.close()


def all_ended(processes: Iterable[Process], seconds: float = _END_S) -> None:
    """Return when they have all ended. Raises `TimeoutError` after `seconds`."""

    async def wait() -> None:
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(process.ended(SystemClock()) for process in processes))

    asyncio.run(wait())


def command_line(pid: int) -> str:
    """The command line of a process, empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
