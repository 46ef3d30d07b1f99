"""What a batch job runs on its node: the program behind its guard, and a door to it for the gateway.

Run by its path, with the standard library of Python 3.10 or newer only, from a copy beside the job's script, as

    node.py DIRECTORY LISTEN ADDRESS LOG PROGRAM [ARGUMENT...]

DIRECTORY is the launch's own, seen by nodes and gateway alike. The program is started by the copy of `guard.py` there,
so that nothing of it is left when the job ends. LISTEN is the path of the Unix socket at which the program will listen,
in a directory that is made here for this user alone; or empty for a program that nobody talks to. With it, a TCP port
of this node leads to that socket, for whoever names the secret in TERASCOPE_REPLICA_SECRET in the first request of a
connection. Where that port is stands in the file `address` of DIRECTORY, in the words of ADDRESS with this node's name
in place of `{node}`. Where DIRECTORY has a file `agent`, the command in it, a list in JSON, runs in place of the port
as long as the program does, and it alone has the variables TERASCOPE_AGENT_...; what it says goes to `agent.log`. When
the program has ended, its exit code stands in the file `ended`.

Where the program has several nodes, TERASCOPE_RANK says which of them this is (`1/2`: the second of two). What runs
there ends together: the first that ends writes `ended`, its rank, their number and its node's name on a second line,
and the others end their parts when they see it.

SIGTERM ends it, with the grace in seconds that the file `grace` says, else 10.
"""

import asyncio
import hmac
import json
import os
import shutil
import signal
import socket
import sys
from pathlib import Path

_SECRET = "TERASCOPE_REPLICA_SECRET"  # noqa: S105 - the name of a variable
_OF_AGENTS = "TERASCOPE_AGENT_"
_AGENT_PAUSE_S = 5.0  # before an agent that ended is started again
_MOST_HEAD = 64 * 1024
_PIECE = 64 * 1024
_GRACE_S = 10.0
_NEVER_STARTED = 127
_LOOK_S = 1.0
_ERROR = '{"error": {"message": "%s", "type": "server_error", "code": null, "param": null}}'


class Door:
    """A TCP port that leads to the program's socket, connection by connection."""

    def __init__(self, path: str, secret: str) -> None:
        self._path = path
        self._expected = b"bearer " + secret.encode()
        self._server: asyncio.Server | None = None

    async def open(self) -> int:
        """Listen on a free port of all interfaces, and return it."""
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        listening = socket.create_server(("", 0), family=family, dualstack_ipv6=both, backlog=1024)
        self._server = await asyncio.start_server(self._serve, sock=listening, limit=_MOST_HEAD)
        return int(listening.getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if not self._known(head):
                await _refuse(writer, "401 Unauthorized", "the secret of this replica is another")
                return
            try:
                inner, outer = await asyncio.open_unix_connection(self._path)
            except OSError:
                await _refuse(writer, "503 Service Unavailable", "the engine has not opened its socket yet")
                return
            outer.write(head)
            await _join((reader, outer), (inner, writer))
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return  # whoever called has gone, or speaks no HTTP
        finally:
            writer.close()

    def _known(self, head: bytes) -> bool:
        """Whether the first request names the secret. Later ones of its connection come from the same caller."""
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"authorization":
                word, _, secret = value.strip().partition(b" ")
                return hmac.compare_digest(word.lower() + b" " + secret, self._expected)
        return False


class Agent:
    """What reaches the gateway from here; started again whenever it ends."""

    def __init__(self, directory: Path, command: "list[str]") -> None:
        guard, log = str(directory / "guard.py"), str(directory / "agent.log")
        self._command = [sys.executable, "-I", "-S", guard, "1", log, *command]
        self._variables = dict(os.environ)
        for name in [name for name in os.environ if name.startswith(_OF_AGENTS)]:
            del os.environ[name]  # they are none of the program's business

    async def run(self) -> None:
        """Run for ever; on cancellation nothing of it is left."""
        while True:
            guard = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
                start_new_session=True, env=self._variables,
            )  # fmt: skip
            try:
                _say(guard, "go")
                await guard.wait()
            finally:
                _say(guard, "stop 1")
                await guard.wait()
            await asyncio.sleep(_AGENT_PAUSE_S)


class Node:
    """One program on this node, from its start to its end."""

    def __init__(
        self, directory: Path, listen: str, address: str, log: str, program: "list[str]", rank: str = "0/1"
    ) -> None:
        self._rank, _, self._nodes = rank.partition("/")
        self._directory = directory
        self._listen = listen
        self._address = address
        guard = str(directory / "guard.py")
        self._command = [sys.executable, "-I", "-S", guard, str(_GRACE_S), log, *program]
        self._code = _NEVER_STARTED

    async def run(self) -> int:
        """Run the program; return its exit code once nothing of it is left."""
        agent = self._agent()
        guard = await asyncio.create_subprocess_exec(
            *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, guard)
        place = Path(self._listen).parent if self._listen else None
        reaching = None
        try:
            if place:
                place.mkdir(mode=0o700)
                if agent:
                    reaching = asyncio.ensure_future(agent.run())
                else:
                    await self._open_door()
            _say(guard, "go")
            others = asyncio.ensure_future(self._end_with_others(guard))
            await self._hear(guard)
            others.cancel()
        finally:
            _say(guard, "stop 0")
            await guard.wait()
            if reaching:
                reaching.cancel()
                await asyncio.gather(reaching, return_exceptions=True)
            if place:
                shutil.rmtree(place, ignore_errors=True)
        self._tell_end()
        return self._code if self._code >= 0 else 128 - self._code

    async def _end_with_others(self, guard: asyncio.subprocess.Process) -> None:
        """End the program when another of its nodes has ended."""
        while self._nodes != "1":
            if (self._directory / "ended").exists():
                self._stop(guard)
                return
            await asyncio.sleep(_LOOK_S)

    def _tell_end(self) -> None:
        if self._nodes == "1":
            self._write("ended", str(self._code))
            return
        draft = self._directory / f".ended-{self._rank}"
        draft.write_text(f"{self._code}\n{self._rank} {self._nodes} {os.uname().nodename}\n")
        try:
            os.link(draft, self._directory / "ended")
        except FileExistsError:  # another node was first, and knows why
            return
        finally:
            draft.unlink()

    def _agent(self) -> "Agent | None":
        path = self._directory / "agent"
        return Agent(self._directory, json.loads(path.read_text())) if path.exists() else None

    async def _open_door(self) -> None:
        port = await Door(self._listen, os.environ[_SECRET]).open()
        self._write("address", f"{self._address.replace('{node}', os.uname().nodename)}:{port}")

    def _stop(self, guard: asyncio.subprocess.Process) -> None:
        try:
            grace_s = float((self._directory / "grace").read_text())
        except (OSError, ValueError):
            grace_s = _GRACE_S
        _say(guard, f"stop {grace_s}")

    async def _hear(self, guard: asyncio.subprocess.Process) -> None:
        """Take in what the guard says, until nothing of the program is left."""
        assert guard.stdout is not None  # noqa: S101 - it is a pipe
        while line := await guard.stdout.readline():
            word, *numbers = line.decode().split()
            if word == "ended":
                self._code = int(numbers[0])
            elif word == "failed":
                print(f"the program cannot be started: {os.strerror(int(numbers[0]))}", file=sys.stderr)  # noqa: T201 - it goes to the log of the job

    def _write(self, name: str, text: str) -> None:
        """Write a file whole or not at all; whoever looks over a network file system sees it so, too."""
        draft = self._directory / f".{name}"
        draft.write_text(text + "\n")
        draft.replace(self._directory / name)


def _say(guard: asyncio.subprocess.Process, line: str) -> None:
    if guard.stdin is not None and not guard.stdin.is_closing():
        guard.stdin.write(f"{line}\n".encode())


async def _refuse(writer: asyncio.StreamWriter, status: str, message: str) -> None:
    body = (_ERROR % message).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
    await writer.drain()


_Way = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _join(there: _Way, back: _Way) -> None:
    """Copy both ways until either side ends; then both are closed, so that who leaves stops the work."""
    ways = {asyncio.ensure_future(_copy(*there)), asyncio.ensure_future(_copy(*back))}
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        there[1].close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_PIECE):
        writer.write(data)
        await writer.drain()


if __name__ == "__main__":
    os.umask(0o077)
    _, directory, listen, address, log, *program = sys.argv
    rank = os.environ.get("TERASCOPE_RANK", "0/1")
    sys.exit(asyncio.run(Node(Path(directory), listen, address, log, program, rank).run()))
