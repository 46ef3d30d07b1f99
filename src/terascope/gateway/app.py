"""The ASGI application: one table of paths.

Requests to models go straight from here to the one page of `inference`; everything else is FastAPI's.
"""

import logging
from typing import cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from terascope._version import __version__
from terascope.access.principal import Principal
from terascope.core.audit import Actor, acting_as
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
    named,
    read_body,
    replayed,
)
from terascope.gateway.openapi import describe
from terascope.gateway.routes import (
    admin_adapters,
    admin_allocations,
    admin_artefacts,
    admin_audit,
    admin_deployments,
    admin_keys,
    admin_models,
    admin_projects,
    admin_reservations,
    admin_runs,
    admin_service_accounts,
    admin_status,
    console,
    files,
    fine_tuning,
    health,
    identity,
    models,
    vector_store_files,
    vector_stores,
)
from terascope.gateway.routes.inference import ModelRoute
from terascope.gateway.routes.tunnel import TunnelRoute
from terascope.gateway.services import Services
from terascope.protocol.errors import error_body
from terascope.protocol.parse import bad_request
from terascope.protocol.request import ENDPOINTS

log = logging.getLogger(__name__)
_PARTS = (
    health, identity, models, files, fine_tuning, vector_stores, vector_store_files, admin_models,
    admin_deployments, admin_status, admin_adapters, admin_keys, admin_service_accounts, admin_projects,
    admin_allocations, admin_reservations, admin_artefacts, admin_audit, admin_runs, console,
)  # fmt: skip
_KEYED = ("/v1/", "/admin/")
_LARGE = "/admin/v1/artefacts/"  # paths that take as much as a model does
_MOST_BODY = 1 << 20  # bytes of a request that is not to a model
_READ_AS_THEY_COME = {("POST", "/v1/files")}  # by their routes, which know how much they take


class Gateway:
    """The application that uvicorn runs."""

    def __init__(self, services: Services) -> None:
        self._most = services.config.server.max_requests
        self._running = 0
        self._most_body = services.config.server.max_body_bytes
        self._access = services.access
        services.metrics.in_flight.set_function(lambda: self._running)
        self._other = _rest(services)
        self._tunnel = TunnelRoute(services.fleet.gate)
        self._models = {
            path: ModelRoute(endpoint, mode, services.inference, services.config.server)
            for path, (endpoint, mode) in ENDPOINTS.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._tunnel(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        root = scope.get("root_path", "")
        if root and scope["path"].startswith(f"{root}{root}/"):  # from a proxy that keeps its prefix, or from none
            scope["path"] = scope["path"].removeprefix(root)
        request_id = scope["terascope.request_id"] = new_id("req")
        route = self._models.get(scope["path"].removeprefix(root))
        if route is None:
            await self._rest(scope, receive, send)
        elif scope["method"] != "POST":
            await HttpReply(send, request_id).fail(_wrong_method(scope["path"], scope["method"], "POST"))
        elif self._running >= self._most:
            busy = Overloaded(f"this server already answers {self._most} requests, its most", retry_after=5)
            await HttpReply(send, request_id).fail(busy)
        else:
            self._running += 1
            try:
                await route(scope, receive, send)
            finally:
                self._running -= 1

    async def _rest(self, scope: Scope, receive: Receive, send: Send) -> None:
        """FastAPI reads and parses a body before it looks at who sent it: here the key and the size come first."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        try:
            if "\0" in path:
                raise NotFound("the path has a NUL character in it, which nothing here is named by")
            who = await self._access.identify(header(scope, b"authorization")) if path.startswith(_KEYED) else None
            if (scope["method"], path) not in _READ_AS_THEY_COME:
                most = self._most_body if path.startswith(_LARGE) else _MOST_BODY
                receive = replayed(await read_body(scope, receive, most=most), receive)
        except ServiceError as error:
            await HttpReply(send, scope["terascope.request_id"]).fail(error)
        except ClientLeft:
            log.info("the client left", extra={"request_id": scope["terascope.request_id"]})
        else:
            with acting_as(_actor(who, scope)):
                await self._other(scope, receive, named(send, scope["terascope.request_id"]))


def _actor(who: Principal | None, scope: Scope) -> Actor:
    """The address is that of whoever is connected: of a proxy, where one stands before us."""
    address = str((scope.get("client") or ("",))[0])
    return Actor(who.user_id, who.key_id, address) if who else Actor("nobody", address=address)


def _wrong_method(path: str, method: str, allow: str) -> MethodNotAllowed:
    error = MethodNotAllowed(f"{path[:200]} takes {allow}, not {method}; see /docs")
    error.allow = allow
    return error


def _allowed(request: Request) -> str:
    """The methods of every route at this path; the framework would name those of the first alone."""
    routes = [route for part in _PARTS for route in part.router.routes if isinstance(route, APIRoute)]
    there = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for route in there for method in route.methods or ()}))


def _rest(services: Services) -> FastAPI:
    app = FastAPI(
        title="Terascope", version=__version__, redirect_slashes=False, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.state.services = services
    for part in _PARTS:
        app.include_router(part.router)
    app.add_exception_handler(ClientDisconnect, _gone)
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
    headers = {name.decode(): value.decode() for name, value in error_headers(told)}
    return Response(error_body(told, request_id), status_code=told.status, headers=headers)


async def _gone(request: Request, error: Exception) -> Response:
    """Nobody is there any more to take an answer."""
    log.info("the client left", extra={"request_id": request.scope["terascope.request_id"]})
    return Response(status_code=499)


def _as_service_error(error: Exception, request: Request) -> ServiceError:
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    if isinstance(error, HTTPException):
        return _http_error(error, request)
    return InternalError("something went wrong here; the log has the reason under this request id")


def _invalid(error: RequestValidationError) -> BadRequest:
    """What is wrong with a request; in a body, the likeliest of what could have been meant."""
    inside = [
        dict(one) | {"loc": one["loc"][1:]} for one in error.errors() if one["loc"][0] == "body" and one["loc"][1:]
    ]
    if inside and isinstance(error.body, dict):
        return bad_request(cast("list[ErrorDetails]", inside), error.body)
    first = error.errors()[0]
    where = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    return BadRequest(f"{'.'.join(where) or 'the body'}: {first['msg']}", param=".".join(where) or None)


def _http_error(error: HTTPException, request: Request) -> ServiceError:
    if error.status_code == 404:
        return NotFound(f"there is nothing at {request.method} {request.url.path[:200]}; see /docs")
    if error.status_code == 405:
        return _wrong_method(request.url.path, request.method, _allowed(request))
    told = BadRequest(str(error.detail))
    told.status = error.status_code
    return told
