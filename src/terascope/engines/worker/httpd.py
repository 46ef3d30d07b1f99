"""The worker's HTTP shell: who may ask, errors in OpenAI's shape, and what it says of itself. Imports no torch."""

import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from aiohttp import web

from terascope.core.errors import (
    BadRequest,
    BodyTooLarge,
    InternalError,
    ModelUnavailable,
    NotAuthenticated,
    NotFound,
    ServiceError,
)
from terascope.core.ids import new_id
from terascope.engines.contract import EngineInfo
from terascope.engines.info import info_json
from terascope.engines.worker.metrics import Metrics
from terascope.protocol.errors import error_body

_log = logging.getLogger(__name__)
_MOST_BODY = 1 << 30  # the gateway has refused what its operator finds too large
BACKLOG = 4096
"""Connections that may wait to be accepted: a Unix socket refuses what is over it at once, in any burst."""
_JSON = "application/json"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ENDPOINTS = (
    "v1/chat/completions",
    "v1/completions",
    "v1/embeddings",
    "v1/traces",
    "v1/traces/sites",
    "tokenize",
    "detokenize",
)
REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)


class Served(Protocol):
    """A model that answers."""

    info: EngineInfo

    async def answer(self, endpoint: str, request: web.Request) -> web.StreamResponse:
        """Answer a request to `endpoint`, a path without its first slash. Raises `ServiceError`."""
        ...

    def stop(self) -> None:
        """End running answers with an error; idempotent."""
        ...

    def join(self, timeout_s: float) -> bool:
        """Wait until computing has ended; return whether it has."""
        ...


class Shell:
    """The worker's HTTP application. It answers from the start; `served` is set when the model is there."""

    def __init__(self, secret: str, metrics: Metrics) -> None:
        """Without a `secret`, whoever can open the socket may ask."""
        self.served: Served | None = None
        self.stage = "starting"
        self._secret = secret
        self._metrics = metrics

    def application(self) -> web.Application:
        """Return the application, with its routes."""
        app = web.Application(middlewares=[self._outermost], client_max_size=_MOST_BODY)
        app.router.add_get("/health", self._health)
        app.router.add_get("/terascope/info", self._info)
        app.router.add_get("/metrics", self._text)
        for endpoint in ENDPOINTS:
            app.router.add_post(f"/{endpoint}", self._answer)
        return app

    @web.middleware
    async def _outermost(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        start = time.perf_counter()
        request_id = request[REQUEST_ID] = _request_id(request)
        response = await self._guarded(request, handler)
        if request.method == "POST":
            endpoint = request.path.lstrip("/") if request.path.lstrip("/") in ENDPOINTS else "other"
            self._metrics.request(endpoint, response.status)
            told = {"request_id": request_id, "endpoint": endpoint, "status": response.status}
            _log.info("request", extra={**told, "seconds": round(time.perf_counter() - start, 4)})
        return response

    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._admit(request)
            return await handler(request)
        except ServiceError as error:
            if error.detail:
                _log.error(error.code, extra={"request_id": request[REQUEST_ID], "detail": error.detail})
            return _error(error, request[REQUEST_ID])
        except web.HTTPRequestEntityTooLarge:
            return _error(BodyTooLarge(f"the body is over {_MOST_BODY} bytes"), request[REQUEST_ID])
        except web.HTTPException as error:
            return _error(_unrouted(error, request), request[REQUEST_ID], error.status)
        except Exception:  # noqa: BLE001 - the edge of a request: it fails, the worker goes on
            _log.exception("request failed", extra={"request_id": request[REQUEST_ID]})
            return _error(InternalError("the engine failed while it answered this request"), request[REQUEST_ID])

    def _admit(self, request: web.Request) -> None:
        given = request.headers.get("Authorization", "").encode()
        if self._secret and not hmac.compare_digest(given, f"Bearer {self._secret}".encode()):
            raise NotAuthenticated("this replica answers only to its gateway")

    async def _health(self, _: web.Request) -> web.Response:
        if self.served is None:
            return web.json_response({"status": "loading", "message": self.stage}, status=503)
        return web.json_response({"status": "ok"})

    async def _info(self, _: web.Request) -> web.Response:
        return web.Response(body=info_json(self._ready().info), content_type=_JSON)

    async def _text(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.text(), content_type="text/plain", charset="utf-8")

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        return await self._ready().answer(request.path.lstrip("/"), request)

    def _ready(self) -> Served:
        if self.served is None:
            raise ModelUnavailable(f"the model is being loaded: {self.stage}", retry_after=1)
        return self.served


def _error(error: ServiceError, request_id: str, status: int | None = None) -> web.Response:
    headers = {"X-Request-Id": request_id}
    if error.retry_after is not None:
        headers["Retry-After"] = f"{error.retry_after:.0f}"
    body = error_body(error, request_id)
    return web.Response(status=status or error.status, body=body, content_type=_JSON, headers=headers)


def _unrouted(error: web.HTTPException, request: web.Request) -> ServiceError:
    if error.status == 404:
        return NotFound(f"there is nothing at {request.path[:100]}")
    return BadRequest(f"{request.method} {request.path[:100]}: {error.reason}")


def _request_id(request: web.Request) -> str:
    given = request.headers.get("X-Request-Id", "")
    return given if 0 < len(given) <= 128 and given.isascii() and given.isprintable() else new_id("req")
