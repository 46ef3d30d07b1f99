"""The ASGI application: one table of paths.

Requests to models go straight from here to the one page of `inference`; everything else is FastAPI's.
"""

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from terascope._version import __version__
from terascope.core.errors import BadRequest, InternalError, MethodNotAllowed, NotFound, Overloaded, ServiceError
from terascope.core.ids import new_id
from terascope.gateway.asgi import (
    ClientLeft,
    HttpReply,
    Receive,
    Scope,
    Send,
    error_headers,
    header,
    read_body,
    replayed,
)
from terascope.gateway.openapi import describe
from terascope.gateway.routes import admin_keys, admin_models, admin_runs, console, health, models
from terascope.gateway.routes.inference import ModelRoute
from terascope.gateway.services import Services
from terascope.protocol.errors import error_body
from terascope.protocol.request import ENDPOINTS

log = logging.getLogger(__name__)
_KEYED = ("/v1/", "/admin/")
_MOST_BODY = 1 << 20  # bytes of a request that is not to a model


class Gateway:
    """The application that uvicorn runs."""

    def __init__(self, services: Services) -> None:
        self._most = services.config.server.max_requests
        self._running = 0
        self._access = services.access
        services.metrics.in_flight.set_function(lambda: self._running)
        self._other = _rest(services)
        self._models = {
            path: ModelRoute(endpoint, mode, services.inference, services.config.server)
            for path, (endpoint, mode) in ENDPOINTS.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        request_id = scope["terascope.request_id"] = new_id("req")
        if self._running >= self._most:
            busy = Overloaded(f"this server already answers {self._most} requests, its most", retry_after=5)
            await HttpReply(send, request_id).fail(busy)
            return
        self._running += 1
        try:
            route = self._models.get(scope["path"].removeprefix(scope.get("root_path", "")))
            if route is None:
                await self._rest(scope, receive, send)
            elif scope["method"] == "POST":
                await route(scope, receive, send)
            else:
                await HttpReply(send, request_id).fail(_only_post(scope))
        finally:
            self._running -= 1

    async def _rest(self, scope: Scope, receive: Receive, send: Send) -> None:
        """FastAPI reads and parses a body before it looks at who sent it: here the key and the size come first."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        try:
            if path.startswith(_KEYED):
                await self._access.identify(header(scope, b"authorization"))
            body = await read_body(scope, receive, most=_MOST_BODY)
        except ServiceError as error:
            await HttpReply(send, scope["terascope.request_id"]).fail(error)
        except ClientLeft:
            log.info("the client left", extra={"request_id": scope["terascope.request_id"]})
        else:
            await self._other(scope, replayed(body, receive), send)


def _only_post(scope: Scope) -> MethodNotAllowed:
    return MethodNotAllowed(f"{scope['path']} takes POST, not {scope['method']}; see /docs")


def _rest(services: Services) -> FastAPI:
    app = FastAPI(title="Terascope", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.services = services
    for part in (health, models, admin_models, admin_keys, admin_runs, console):
        app.include_router(part.router)
    for kind in (ServiceError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _tell)
    describe(app)
    return app


async def _tell(request: Request, error: Exception) -> Response:
    """Any error of a FastAPI route, in OpenAI's shape."""
    request_id = request.scope["terascope.request_id"]
    told = _as_service_error(error, request)
    if isinstance(told, InternalError):
        log.error("unexpected error", exc_info=error, extra={"request_id": request_id})
    headers = {name.decode(): value.decode() for name, value in error_headers(told)} | {"x-request-id": request_id}
    if isinstance(error, HTTPException) and error.headers:
        headers |= dict(error.headers)
    return Response(error_body(told, request_id), status_code=told.status, headers=headers)


def _as_service_error(error: Exception, request: Request) -> ServiceError:
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
        return BadRequest(f"{'.'.join(where) or 'the body'}: {first['msg']}", param=".".join(where) or None)
    if isinstance(error, HTTPException):
        return _http_error(error, request)
    return InternalError("something went wrong here; the log has the reason under this request id")


def _http_error(error: HTTPException, request: Request) -> ServiceError:
    if error.status_code == 404:
        return NotFound(f"there is nothing at {request.method} {request.url.path[:200]}; see /docs")
    if error.status_code == 405:
        return MethodNotAllowed(f"{request.url.path[:200]} does not take {request.method}; see /docs")
    told = BadRequest(str(error.detail))
    told.status = error.status_code
    return told
