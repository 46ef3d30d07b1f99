"""The contract between Terascope and whatever runs a model.

An engine speaks OpenAI's HTTP surface, and its bytes are passed on as they are. So the contract is small: send
one JSON body to one endpoint, get a status and a stream of bytes. `terascope.testing.check_engine` is the
conformance suite that every implementation passes.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from terascope.core.config import DeploymentConfig, EngineConfig
from terascope.core.models import Capabilities, ModelVersion
from terascope.engines.adapter_files import AdapterFiles

HEAD = "{head}"
"""A word of a command: the address of the first node of a replica, filled in where it runs."""
PORT = "{port}"
"""A word of a command: a port at which the first node waits for the others."""


@dataclass(frozen=True, slots=True)
class EngineCall:
    """One request to an engine.

    `endpoint` is a path below `/v1` (`chat/completions`, `completions`, `embeddings`, `traces`, `traces/sites`), or
    `tokenize` or `detokenize`. `body` is JSON whose `model` is the engine's served name. `scope` says who may share
    computed prefixes with whom: an engine that keeps them gives them only to calls of the same scope. It is opaque,
    ASCII, at most 128 characters; "" is the scope of those who chose to share with everybody. `priority` says whose
    turn comes first where requests wait for each other inside the engine: 0 is urgent, 1 interactive, 2 batch. An
    engine may ignore it; it changes when an answer comes and never what it says. `limits` are the most that a trace may
    take, by the names of `core.config.InternalsConfig`; an engine that takes traces refuses what is over them, and
    answers one with `dry_run` with its cost, as `TraceResult.estimate`, without running it. `adapter` is what is to
    be added to the model; it is named only to engines with the feature `adapters`.
    """

    request_id: str
    endpoint: str
    body: bytes
    scope: str = ""
    priority: int = 1
    limits: Mapping[str, int] = field(default_factory=dict)
    adapter: AdapterFiles | None = None


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine says about itself once it answers; goes into run records.

    `slots` is how many requests it works on at once, 0 when it does not say; what is over waits inside it. `extra`
    is how many requests of priority 0 and 1 it works on beside those.
    """

    engine: str
    version: str
    capabilities: Capabilities
    context_length: int = 0
    dtype: str = ""
    device: str = ""
    details: tuple[tuple[str, str], ...] = ()
    slots: int = 0
    extra: int = 0


class Headers(dict[str, str]):
    """HTTP headers of an answer: names in lower case, the values of equal names joined by a comma."""


class EngineAnswer(Protocol):
    """One answer, from its status line on.

    Iterate it once for the body. `chunks` are cut where the network cut them: neither at events nor at
    characters. Leaving it early is allowed only through `aclose`.
    """

    @property
    def status(self) -> int:
        """HTTP status of the engine."""
        ...

    @property
    def headers(self) -> Headers:
        """The engine's response headers, names in lower case."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes.

        Returns only when the engine ended its answer properly (a whole Content-Length, the last chunk).
        Raises `EngineLost` when the connection ended before that.
        """
        ...

    async def aclose(self) -> None:
        """End the answer: if it is unfinished, the engine stops working on it within a second. Idempotent."""
        ...


class Engine(Protocol):
    """An adapter to one running engine. Safe for concurrent use from one event loop."""

    async def generate(self, call: EngineCall) -> EngineAnswer:
        """Send `call`; return once the engine's status and headers are known.

        Any status is returned, not raised. Raises `EngineUnreachable` when no answer began; the call may then
        be sent elsewhere. Raises `EngineError` when what came is no answer. On cancellation the connection is
        closed, which stops the engine's work.
        """
        ...

    async def probe(self) -> EngineInfo:
        """Ask the engine whether it can answer requests now, and what it is.

        Raises `EngineUnreachable` while it cannot.
        """
        ...

    async def metrics(self) -> str:
        """Return the engine's own metrics in Prometheus' text format, empty when it has none.

        Raises `EngineUnreachable`.
        """
        ...

    async def aclose(self) -> None:
        """Release connections; running answers are cut. Idempotent."""
        ...


_Speaker = TypeVar("_Speaker", bound=asyncio.Protocol)


class Dial(Protocol):
    """Connects to an engine in its own way."""

    def __call__(self, protocol: Callable[[], _Speaker], /) -> Awaitable[tuple[asyncio.Transport, _Speaker]]:
        """Make a protocol and give it a connection. Raises `OSError` and `EngineUnreachable`."""
        ...


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a replica is reached: `unix:/path` or `http(s)://host:port[/prefix]`, and the secret it demands.

    `tunnel:NAME` is reached by `dial` alone.
    """

    url: str
    secret: str = field(default="", repr=False)
    dial: "Dial | None" = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Launch:
    """What one replica is to run: a deployment's settings and the model version they resolved to.

    `program` says how the engine is started where the replica runs. `rank` is the node that a command is for, where a
    replica has several: the first, 0, answers; `HEAD` and `PORT` may be among the words.
    """

    deployment: DeploymentConfig
    version: ModelVersion
    program: EngineConfig = field(default_factory=EngineConfig)
    rank: int = 0

    @property
    def served_name(self) -> str:
        """The model's name in the engine's own requests and answers; a remote server knows no versions of ours."""
        default = self.version.name if self.deployment.engine == "remote" else self.version.public_name
        return self.deployment.served_name or default


class EngineKind(Protocol):
    """One kind of engine, as the registry holds it: how to start its server and how to talk to it."""

    def command(self, launch: Launch, endpoint: Endpoint) -> tuple[str, ...]:
        """Return the command line that serves `launch` at `endpoint`; empty when nothing is to be started.

        The endpoint's secret is not on it: the launcher passes it in `TERASCOPE_REPLICA_SECRET`. Raises
        `ConfigError` when the deployment's settings are impossible.
        """
        ...

    def environment(self, launch: Launch, endpoint: Endpoint) -> Mapping[str, str]:
        """Return variables that the server needs besides `TERASCOPE_REPLICA_SECRET`; secrets may be among them."""
        ...

    def connect(self, launch: Launch, endpoint: Endpoint) -> Engine:
        """Return an adapter to the engine at `endpoint`; makes no connection yet."""
        ...
