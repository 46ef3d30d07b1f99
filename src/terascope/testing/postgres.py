"""A real PostgreSQL server for tests: a cluster of its own in a temporary directory, reached by a Unix socket."""

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
from itertools import count
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Any

from sqlalchemy import URL

from terascope.core import environment
from terascope.store.database import Database

_START_S = 60
_numbers = count()


def find_program(name: str) -> Path | None:
    """Where a program of PostgreSQL is: on PATH, or where Debian keeps each version's; the newest. None without it."""
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=_version)
    return places[-1] if places else next((Path(found) for found in [shutil.which(name)] if found), None)


def _version(path: Path) -> float:
    text = path.parent.parent.name
    return float(text) if text.replace(".", "", 1).isdecimal() else 0.0


class PostgresCluster:
    """A server without a network port, whose superuser is `terascope`; stopped and removed on leaving `with`.

    Only with `fsync` it waits for the disk: most tests kill processes, not machines.
    It runs as another user when the test runs as root, which PostgreSQL refuses to. Raises `FileNotFoundError` when
    PostgreSQL is not installed.
    """

    def __init__(self, *, fsync: bool = False) -> None:
        self._programs = {name: _found(name) for name in ("initdb", "postgres", "psql")}
        self._user = _other_user() if os.geteuid() == 0 else None
        self._root = Path(mkdtemp(prefix="terascope-pg-", dir="/tmp"))  # the path of a socket must be short
        self._server: subprocess.Popen[bytes] | None = None
        self._migrated = ""
        self._fsync = "on" if fsync else "off"
        if self._user:
            os.chown(self._root, self._user.pw_uid, self._user.pw_gid)
        options = ("--username", "terascope", "--auth", "trust", "--encoding", "UTF8", "--no-sync")
        self._run("initdb", "--pgdata", self._root / "data", *options)

    def url(self, name: str) -> str:
        """The URL of the database `name`, as `database.url` takes it."""
        url = URL.create("postgresql", username="terascope", database=name, query={"host": str(self._root)})
        return url.render_as_string()

    def create(self, template: str = "template0") -> str:
        """Make a database, empty or a copy of another that nobody is connected to; return its name."""
        name = f"test_{next(_numbers)}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def create_migrated(self) -> str:
        """Make a database as a first start leaves it, with every table; return its name. Not in an event loop."""
        if not self._migrated:
            name = self.create()
            asyncio.run(_migrate(self.url(name)))
            self._migrated = name
        return self.create(self._migrated)

    def drop(self, name: str) -> None:
        """Remove a database, whoever is connected."""
        self.sql(f"DROP DATABASE {name} WITH (FORCE)")

    def sql(self, statement: str, name: str = "postgres") -> str:
        """Run a statement as superuser and return what it prints, without headings."""
        return self._run(
            "psql", "--host", self._root, "--username", "terascope", "--dbname", name, "-XqAt", "-v", "ON_ERROR_STOP=1",
            "--command", statement,
        )  # fmt: skip

    def start(self) -> "PostgresCluster":
        """Start the server and return once it takes connections. Raises `RuntimeError` with its log."""
        settings = ("listen_addresses=", f"fsync={self._fsync}", "max_connections=100", "log_min_messages=warning")
        options = [word for setting in settings for word in ("-c", setting)]
        command: list[str | Path] = [self._programs["postgres"], "-D", self._root / "data", "-k", self._root, *options]
        with (self._root / "log").open("wb") as log:
            server = self._server = subprocess.Popen(command, stdout=log, stderr=log, **self._as_user())
        asking: list[str | Path] = [self._programs["initdb"].with_name("pg_isready"), "-q", "-h", self._root]
        for _ in range(_START_S * 10):
            if server.poll() is None and subprocess.run(asking, check=False).returncode == 0:
                return self
            if _ended(server, 0.1):
                break
        raise RuntimeError((self._root / "log").read_text())

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Send a signal to the server, by default the one that drops connections and ends cleanly; wait for its end."""
        if self._server is not None:
            self._server.send_signal(number)
            self._server.wait(_START_S)
            self._server = None

    def __enter__(self) -> "PostgresCluster":
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            shutil.rmtree(self._root)

    def _run(self, program: str, *arguments: str | Path) -> str:
        command: list[str | Path] = [self._programs[program], *arguments]
        done = subprocess.run(command, capture_output=True, check=False, **self._as_user())
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr.decode().strip()}")
        return bytes(done.stdout).decode().strip()

    def _as_user(self) -> dict[str, Any]:
        inherited = {name: value for name, value in environment.for_child().items() if not name.startswith("PG")}
        who = {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []} if self._user else {}
        return {"env": inherited | {"LC_ALL": "C"}, "cwd": self._root, **who}


async def _migrate(url: str) -> None:
    database = await Database.open(url)
    await database.aclose()


def _found(name: str) -> Path:
    path = find_program(name)
    if path is None:
        raise FileNotFoundError(f"{name} is not installed; as root: apt-get install postgresql")
    return path


def _other_user() -> pwd.struct_passwd:
    names = {one.pw_name: one for one in pwd.getpwall()}
    return names.get("postgres") or names["nobody"]


def _ended(server: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait that long for the server's end; return whether it came."""
    try:
        server.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True
