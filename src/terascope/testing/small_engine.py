"""The smallest engine: it can only say whether it is ready. Real programs on real sockets, for tests of the fleet."""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path

from terascope.core.config import DeploymentConfig
from terascope.core.errors import EngineUnreachable
from terascope.core.models import Capabilities, ModelVersion, Task
from terascope.engines.contract import Endpoint, Engine, EngineAnswer, EngineCall, EngineInfo, EngineKind, Launch

_SERVER = """
import os, signal, socket, sys, time
path, behaviour, gate = sys.argv[1:]
secret = os.environ["TERASCOPE_REPLICA_SECRET"]
print("engine starts", flush=True)
if behaviour == "dies" and not os.path.exists(gate):
    raise RuntimeError("the weights are not there, whispers " + secret)
while behaviour == "fills" and not os.path.exists(gate):
    with open(os.environ["XDG_CACHE_HOME"] + "/cache", "ab") as cache: cache.write(bytes(4096))
if behaviour == "family" and os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True: time.sleep(60)
while behaviour == "never": time.sleep(60)
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
while True:
    connection, _ = listener.accept()
    with connection:
        if connection.recv(100).decode() == secret:
            loading = behaviour == "loads" and not os.path.exists(gate)
            connection.sendall(b"loads weights, 40 %" if loading else b"ready")
"""


class SmallEngine:
    """Adapter to one such program."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._path = endpoint.url.removeprefix("unix:")
        self._secret = endpoint.secret

    async def probe(self) -> EngineInfo:
        try:
            reader, writer = await asyncio.open_unix_connection(self._path)
        except OSError:
            raise EngineUnreachable("does not listen yet") from None
        try:
            writer.write(self._secret.encode())
            said = (await reader.read()).decode()
        except OSError:
            said = ""
        finally:
            writer.close()
        if said != "ready":
            raise EngineUnreachable(said or "closed the connection")
        return _INFO

    async def generate(self, call: EngineCall) -> EngineAnswer:
        raise EngineUnreachable("this engine only says whether it is ready")

    async def metrics(self) -> str:
        return ""

    async def aclose(self) -> None:
        return


class SmallKind:
    """Its behaviour is the deployment's option `behaviour`.

    `serves`; `family` (with a child that ignores SIGTERM in a session of its own); `never` (runs, does not
    answer); `fills` (its XDG_CACHE_HOME, and dies of that), `dies` or `loads` until the file named by the option
    `gate` exists.
    """

    def command(self, launch: Launch, endpoint: Endpoint) -> tuple[str, ...]:
        options = launch.deployment.options
        words = (endpoint.url.removeprefix("unix:"), options.get("behaviour", "serves"), options.get("gate", ""))
        return (sys.executable, "-I", "-S", "-c", _SERVER, *words)

    def environment(self, launch: Launch, endpoint: Endpoint) -> Mapping[str, str]:
        return launch.program.environment

    def connect(self, launch: Launch, endpoint: Endpoint) -> Engine:
        return SmallEngine(endpoint)


class OutsideEngine:
    """Somebody else's server: there while the file `path` exists."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def probe(self) -> EngineInfo:
        if not self._path.exists():
            raise EngineUnreachable("connection refused")
        return _INFO

    async def generate(self, call: EngineCall) -> EngineAnswer:
        raise EngineUnreachable("this engine only says whether it is ready")

    async def metrics(self) -> str:
        return ""

    async def aclose(self) -> None:
        return


class OutsideKind:
    """An engine that is not ours to start; the deployment's `url` is the file that says whether it is there."""

    def command(self, launch: Launch, endpoint: Endpoint) -> tuple[str, ...]:
        return ()

    def environment(self, launch: Launch, endpoint: Endpoint) -> Mapping[str, str]:
        return {}

    def connect(self, launch: Launch, endpoint: Endpoint) -> Engine:
        return OutsideEngine(Path(endpoint.url))


def small_kinds(name: str) -> EngineKind:
    """Stands in for the registry: `outside`, else `SmallKind`."""
    return OutsideKind() if name == "outside" else SmallKind()


def small_deployment(
    name: str = "small", *, replicas: int = 1, engine: str = "small", url: str = "", **options: str
) -> tuple[DeploymentConfig, ModelVersion]:
    """A deployment of a small engine, and its model `NAME@1`."""
    config = DeploymentConfig(name=name, model=name, engine=engine, url=url, replicas=replicas, options=options)
    return config, ModelVersion(name, "1", "0" * 64, "path:/nowhere", "/nowhere", Task.GENERATE, 1024)


_INFO = EngineInfo("small", "1.0", Capabilities(frozenset({"completions"}), frozenset({"seed"})), context_length=512)
