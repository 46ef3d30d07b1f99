"""A client, the whole gateway, and fault engines behind it: what was asked, what the engine sent, what arrived."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson

from terascope.core.config import Config, DeploymentConfig, ServerConfig
from terascope.engines.contract import Endpoint, Engine, EngineKind, Launch
from terascope.engines.registry import engine_kind
from terascope.engines.upstream import HttpEngine
from terascope.protocol.sse import event_data, split_events
from terascope.testing.faults import FaultEngine, Received, faulty
from terascope.testing.gateway import Served, serving

MODEL = "m@1"
"""Served by every engine, which calls it `m`."""
SAME = "same@1"
"""Served by the first engine, which calls it the same: nothing of its answers needs to be renamed."""
OURS = "ours@1"
"""Served by the first engine, which the gateway takes for a worker of its own."""
_ASKS: Mapping[str, Mapping[str, object]] = {
    "chat/completions": {"messages": [{"role": "user", "content": "hello there"}]},
    "completions": {"prompt": "hello there"},
    "embeddings": {"input": "hello there"},
}


@dataclass(frozen=True, slots=True)
class Got:
    """What the client got: a whole answer, or a stream to its end."""

    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def id(self) -> str:
        """The request's id."""
        return str(self.headers["x-request-id"])

    @property
    def object(self) -> dict[str, Any]:
        """The body of a whole answer."""
        said = orjson.loads(self.body)
        assert isinstance(said, dict), said
        return said

    @property
    def payloads(self) -> list[bytes]:
        """The data of a stream's events."""
        assert self.headers["content-type"].startswith("text/event-stream"), self
        return [data for one in split_events(self.body) if (data := event_data(one))]

    @property
    def done(self) -> bool:
        """Whether a stream says `[DONE]` anywhere."""
        return b"[DONE]" in self.payloads

    @property
    def events(self) -> list[dict[str, Any]]:
        """A stream's events but `[DONE]`; what is not UTF-8 in them is replaced, as clients do."""
        return [orjson.loads(data.decode("utf-8", "replace")) for data in self.payloads if data != b"[DONE]"]

    @property
    def text(self) -> str:
        """What the first choice says, whole or streamed."""
        streamed = self.headers["content-type"].startswith("text/event-stream")
        choices = [choice for one in (self.events if streamed else [self.object]) for choice in one.get("choices", ())]
        return "".join(_said(choice) for choice in choices if choice["index"] == 0)

    @property
    def error(self) -> dict[str, Any]:
        """The error that this must be, in OpenAI's shape: the body, or the last event, after which nothing comes."""
        told = self.object if self.status >= 400 else self.events[-1]
        assert list(told) == ["error"], told
        error: dict[str, Any] = told["error"]
        assert set(error) == {"message", "type", "code", "param", "request_id"}, error
        assert all(isinstance(error[name], str) and error[name] for name in ("message", "type", "code")), error
        assert error["request_id"] == self.id
        assert self.status >= 400 or not self.done, self.body
        return error


@dataclass(frozen=True, slots=True)
class Between:
    """A client `http` with the operator's key, the gateway that it asks, and the engines behind that."""

    gateway: Served
    engines: Sequence[FaultEngine]
    http: httpx.AsyncClient

    @property
    def engine(self) -> FaultEngine:
        """The first engine."""
        return self.engines[0]

    @asynccontextmanager
    async def opened(
        self,
        fault: str = "none",
        /,
        *,
        stream: bool = True,
        endpoint: str = "chat/completions",
        headers: Mapping[str, str] | None = None,
        **fields: object,
    ) -> AsyncIterator[httpx.Response]:
        """Send a request; yield once the answer's headers are there."""
        body = {"model": MODEL, **_ASKS[endpoint], "fault": fault, **({"stream": True} if stream else {}), **fields}
        async with self.http.stream("POST", f"/v1/{endpoint}", json=body, headers=headers) as answer:
            yield answer

    async def ask(self, fault: str = "none", /, **asked: Any) -> Got:
        """Send a request as `opened` does and take in all of its answer."""
        async with self.opened(fault, **asked) as answer:
            return await got(answer)

    def received(self, got: Got | httpx.Response) -> Received:
        """The request as the engine that answered it last received it."""
        found = [one for engine in self.engines for one in engine.received if _id(one.headers) == _id(got.headers)]
        return found[-1]

    def sent(self, got: Got) -> bytes:
        """All that the engine sent for it, byte for byte."""
        return b"".join(self.received(got).sent)

    async def record(self, of: Got | str) -> dict[str, Any]:
        """The run record of a request."""
        answer = await self.http.get(f"/admin/v1/runs/{of if isinstance(of, str) else of.id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


@asynccontextmanager
async def between(
    data_dir: Path,
    *,
    engines: int = 1,
    server: ServerConfig | None = None,
    more: Sequence[DeploymentConfig] = (),
    ill: str = "",
    wait: bool = True,
    max_in_flight: int = 0,
) -> AsyncIterator[Between]:
    """Fault engines in the running event loop, a gateway before them, and a client.

    With `wait` every deployment is ready or has failed on entry. With `ill` the engines say that instead of being
    ready until a test takes it back, and nothing is waited for.
    """
    async with AsyncExitStack() as stack:
        served = [await stack.enter_async_context(faulty()) for _ in range(engines)]
        for one in served:
            one.engine.ill = ill
        common = {"served_name": "m", "max_in_flight": max_in_flight}
        deployments = [remote(MODEL, one.url, name=f"m{n}", **common) for n, one in enumerate(served)]
        deployments += [remote(SAME, served[0].url, served_name=SAME), _ours(served[0].url), *more]
        config = Config(server=server or ServerConfig(), deployments=deployments)
        gateway = await stack.enter_async_context(
            serving(config, data_dir=data_dir, wait=wait and not ill, engine_kind=_kinds)
        )
        http = await stack.enter_async_context(client(gateway))
        yield Between(gateway, [one.engine for one in served], http)


def remote(model: str, url: str, **more: Any) -> DeploymentConfig:
    """A deployment of `model` at an engine that runs already. The adapter tries once: the gateway's tries are seen."""
    more.setdefault("options", {"retries": "0"})
    return DeploymentConfig(model=model, engine="remote", url=url, **more)


class _Ours:
    """How an engine is reached that runs already and is a worker of ours to the gateway."""

    def command(self, launch: Launch, endpoint: Endpoint) -> tuple[str, ...]:
        return ()

    def environment(self, launch: Launch, endpoint: Endpoint) -> Mapping[str, str]:
        return {}

    def connect(self, launch: Launch, endpoint: Endpoint) -> Engine:
        return HttpEngine(Endpoint(launch.deployment.url), served_name=launch.served_name)


def _ours(url: str) -> DeploymentConfig:
    return DeploymentConfig(model=OURS, engine="ours", url=url)


def _kinds(name: str) -> EngineKind:
    return _Ours() if name == "ours" else engine_kind(name)


def client(gateway: Served) -> httpx.AsyncClient:
    """A client with the operator's key that waits as long as it takes; the test's own limit ends a hang."""
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=gateway.url, headers=gateway.headers, timeout=None, limits=limits)  # noqa: S113 - see above


async def got(answer: httpx.Response) -> Got:
    """Take in all of an answer."""
    return Got(answer.status_code, answer.headers, await answer.aread())


def _said(choice: Mapping[str, Any]) -> str:
    said = choice.get("text") or (choice.get("delta") or choice.get("message") or {}).get("content")
    return said or ""


def _id(headers: Mapping[str, str]) -> str:
    return headers["x-request-id"]
