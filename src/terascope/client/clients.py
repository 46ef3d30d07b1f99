"""The two clients: how a request is sent, and nothing else."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from terascope._version import __version__
from terascope.client import logins
from terascope.client.allocations import Allocations, Audit, UsageReports
from terascope.client.artefacts import Artefacts
from terascope.client.ask import Ask, Sender, Sends, SendsLater
from terascope.client.auth import LoginAuth
from terascope.client.chat import CHAT, AsyncChatStream, ChatStream, Message, chat_body
from terascope.client.deployments import Deployments
from terascope.client.errors import error_from, stranger, told
from terascope.client.files import Files, Saving, file_path, opened, range_header
from terascope.client.flow import AsyncFlow, Flow, Item, Reader
from terascope.client.identity import Identity, ServiceAccounts
from terascope.client.nouns import Adapters, Catalog, Gateway, Keys, Models, Runs
from terascope.client.projects import Members, Projects
from terascope.client.reservations import Reservations
from terascope.client.traces import Traces, Tracing
from terascope.client.tuning import Tuning
from terascope.client.vector_stores import VectorStores
from terascope.client.words import Words
from terascope.core import environment
from terascope.core.errors import ConfigError
from terascope.core.urls import is_loopback
from terascope.protocol.traces import TraceRequest

T = TypeVar("T")
DEFAULT_URL = "http://127.0.0.1:8000"
_TIMEOUT_S = 60.0
_CONNECT_S = 10.0
_JSON = {"content-type": "application/json"}
TRACES = "/v1/traces"


class _Root(Gateway[Sender]):
    """What both clients have: an address and the nouns below it."""

    def __init__(self, client: Sender, url: str, key: str) -> None:
        super().__init__(client)
        self.url = checked_url(url or environment.url() or DEFAULT_URL)
        self.models = Models(client)
        self.catalog = Catalog(client)
        self.deployments = Deployments(client)
        self.adapters = Adapters(client)
        self.keys = Keys(client)
        self.runs = Runs(client)
        self.projects = Projects(client)
        self.members = Members(client)
        self.allocations = Allocations(client)
        self.reservations = Reservations(client)
        self.artefacts = Artefacts(client)
        self.files = Files(client)
        self.tuning = Tuning(client)
        self.vector_stores = VectorStores(client)
        self.trace = Tracing(client)
        self.traces = Traces(client)
        self.words = Words(client)
        self.usage = UsageReports(client)
        self.audit = Audit(client)
        self.identity = Identity(client)
        self.service_accounts = ServiceAccounts(client)
        self._options = _options(self.url, key or environment.api_key())


class Client(_Root[Sends]):
    """A client that blocks. Use it in a `with`, or call `close`."""

    def __init__(self, url: str = "", key: str = "") -> None:
        """Ask the gateway at `url` with `key`; by default those of TERASCOPE_URL and TERASCOPE_API_KEY.

        Without a key it is the token of `terascope login` at that gateway, if there is one, renewed when it is about to
        expire. Makes no connection yet. Raises `ConfigError` for something that is no URL or no key.
        """
        super().__init__(self, url, key)
        self._http = httpx.Client(**self._options)

    def send(self, ask: Ask[T]) -> T:
        """Send `ask` and return its answer. Raises the `ServiceError` that the gateway gave."""
        with opened(ask.upload) as file, told(self.url):
            response = self._http.send(_request(self._http, ask, file))
        return _read(ask, response, self.url)

    @contextmanager
    def content(self, file_id: str, start: int = 0, stop: int | None = None) -> Iterator[Iterator[bytes]]:
        """The content of a file from `start` to before `stop`, in pieces as they come. Raises as `send`."""
        with self._content(file_id, start, stop) as response, told(self.url):
            yield response.iter_bytes()

    def save_file(self, file_id: str, path: str | Path) -> None:
        """Write the content of a file to `path`: whole and with the sha256 that it was kept with, or not at all.

        Raises as `send`, and `Conflict` when it cannot be written.
        """
        with (
            self._content(file_id, 0, None) as response,
            told(self.url),
            Saving(Path(path)).written(response.headers.get("etag", "")) as saving,
        ):
            for piece in response.iter_bytes():
                saving.write(piece)

    @contextmanager
    def _content(self, file_id: str, start: int, stop: int | None) -> Iterator[httpx.Response]:
        request = _content_request(self._http, file_id, start, stop)
        with told(self.url):
            response = self._http.send(request, stream=True)
        try:
            if not response.is_success:
                with told(self.url):
                    response.read()
                raise error_from(response, self.url)
            yield response
        finally:
            response.close()

    @contextmanager
    def chat(self, model: str, messages: Sequence[Message], **fields: Any) -> Iterator[ChatStream]:
        """Ask `model`; `fields` are further fields of the API, such as `temperature=0.2`.

        Returns once the answer begins. Leaving the `with` before its end cancels it on the engine.
        """
        with self._opened(_chat_request(self._http, model, messages, fields)) as response:
            yield ChatStream(response, self.url)

    def flow(self, ask: Ask[Any], reader: Reader[Item]) -> Flow[Item]:
        """Return what `reader` makes of the answer to `ask`, as it comes; sent when the first item is asked for."""
        request = _request(self._http, ask)
        return Flow(lambda: self._opened(request), reader, self.url)

    @contextmanager
    def _opened(self, request: httpx.Request) -> Iterator[httpx.Response]:
        """The answer to `request` once it begins; closed on leaving. Raises the `ServiceError` that it is."""
        with told(self.url):
            response = self._http.send(request, stream=True)
        try:
            if not response.is_success:
                with told(self.url):
                    response.read()
                raise error_from(response, self.url)
            yield response
        finally:
            response.close()

    def close(self) -> None:
        """Close the connections; idempotent."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(_Root[SendsLater]):
    """A client to be awaited, for one event loop. Use it in an `async with`, or await `close`."""

    def __init__(self, url: str = "", key: str = "") -> None:
        """See `Client`."""
        super().__init__(self, url, key)
        self._http = httpx.AsyncClient(**self._options)

    async def send(self, ask: Ask[T]) -> T:
        """Send `ask` and return its answer. Raises the `ServiceError` that the gateway gave."""
        with opened(ask.upload) as file, told(self.url):
            response = await self._http.send(_request(self._http, ask, file))
        return _read(ask, response, self.url)

    @asynccontextmanager
    async def content(
        self, file_id: str, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """See `Client.content`."""
        async with self._content(file_id, start, stop) as response:
            with told(self.url):
                yield response.aiter_bytes()

    async def save_file(self, file_id: str, path: str | Path) -> None:
        """See `Client.save_file`."""
        async with self._content(file_id, 0, None) as response:
            with told(self.url), Saving(Path(path)).written(response.headers.get("etag", "")) as saving:
                async for piece in response.aiter_bytes():
                    saving.write(piece)

    @asynccontextmanager
    async def trace_file(
        self, plan: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The safetensors file that a plan with that `format` gives, in pieces as they come. Raises as `send`."""
        body = TraceRequest.model_validate(plan).model_dump_json(by_alias=True, exclude_unset=True)
        request = self._http.build_request(
            "POST", TRACES, content=body, headers=dict(headers or {}) | _JSON, timeout=_timeout(None)
        )
        async with self._opened(request) as response:
            with told(self.url):
                yield response.aiter_bytes()

    @asynccontextmanager
    async def _content(self, file_id: str, start: int, stop: int | None) -> AsyncIterator[httpx.Response]:
        async with self._opened(_content_request(self._http, file_id, start, stop)) as response:
            yield response

    @asynccontextmanager
    async def chat(self, model: str, messages: Sequence[Message], **fields: Any) -> AsyncIterator[AsyncChatStream]:
        """See `Client.chat`."""
        async with self._opened(_chat_request(self._http, model, messages, fields)) as response:
            yield AsyncChatStream(response, self.url)

    def flow(self, ask: Ask[Any], reader: Reader[Item]) -> AsyncFlow[Item]:
        """See `Client.flow`."""
        request = _request(self._http, ask)
        return AsyncFlow(lambda: self._opened(request), reader, self.url)

    @asynccontextmanager
    async def _opened(self, request: httpx.Request) -> AsyncIterator[httpx.Response]:
        with told(self.url):
            response = await self._http.send(request, stream=True)
        try:
            if not response.is_success:
                with told(self.url):
                    await response.aread()
                raise error_from(response, self.url)
            yield response
        finally:
            await response.aclose()

    async def close(self) -> None:
        """Close the connections; idempotent."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def checked_url(text: str) -> str:
    """Return the gateway's URL without a last `/` or `/v1`. Raises `ConfigError` when it is no URL of HTTP."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(f"{text[:200]!r} is not a gateway's URL; write one like {DEFAULT_URL}")
    return text.rstrip("/").removesuffix("/v1").rstrip("/")


def _options(url: str, key: str) -> dict[str, Any]:
    headers = {"user-agent": f"terascope/{__version__}"}
    if key:
        headers["authorization"] = f"Bearer {_checked_key(key)}"
    login = None if key else logins.load(url)
    return {
        "base_url": url,
        "headers": headers,
        "auth": LoginAuth(login) if login else None,
        "timeout": _timeout(_TIMEOUT_S),
        "trust_env": not is_loopback(url),  # a proxy of the environment cannot reach this machine's own address
    }


def _checked_key(key: str) -> str:
    if not (key := key.strip()).isascii() or not key.isprintable():
        raise ConfigError("the API key has characters that no key has; copy it again")
    return key


def _timeout(seconds: float | None) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=_CONNECT_S)


def _request(http: httpx.Client | httpx.AsyncClient, ask: Ask[Any], file: BinaryIO | None = None) -> httpx.Request:
    form: dict[str, Any] = {}
    if ask.upload and file:
        form = {"data": dict(ask.upload.fields), "files": {"file": (ask.upload.filename, file)}}
    return http.build_request(
        ask.method,
        ask.path,
        params=dict(ask.query) or None,
        content=ask.body.model_dump_json(by_alias=True) if ask.body else None,
        headers=dict(ask.headers) | (_JSON if ask.body else {}),
        timeout=_timeout(None if ask.patient else _TIMEOUT_S),
        **form,
    )


def _content_request(
    http: httpx.Client | httpx.AsyncClient, file_id: str, start: int, stop: int | None
) -> httpx.Request:
    # as it is: a compressed answer could not be a part of it
    headers = {"accept-encoding": "identity"} | range_header(start, stop)
    return http.build_request("GET", file_path(file_id, "content"), headers=headers)


def _chat_request(
    http: httpx.Client | httpx.AsyncClient, model: str, messages: Sequence[Message], fields: dict[str, Any]
) -> httpx.Request:
    body = chat_body(model, messages, fields)
    return http.build_request("POST", CHAT, content=body, headers=_JSON, timeout=_timeout(None))


def _read(ask: Ask[T], response: httpx.Response, url: str) -> T:
    if response.is_success and not issubclass(ask.answer, BaseModel):
        return ask.answer()
    if response.is_success or response.status_code in ask.also:
        try:
            return ask.answer.model_validate_json(response.content)  # type: ignore[attr-defined,no-any-return] # a model
        except ValidationError:
            if response.is_success:
                raise stranger(url, f"an unknown answer to {ask.method} {ask.path}") from None
    raise error_from(response, url)
