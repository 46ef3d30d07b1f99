"""Answers of the worker's routes: JSON, and the headers that all have."""

from collections.abc import AsyncIterator, Callable
from urllib.parse import quote

import orjson
from aiohttp import web

from terascope.core.errors import ServiceError
from terascope.engines.worker.httpd import REQUEST_ID
from terascope.protocol.errors import error_body
from terascope.protocol.openai import Wire
from terascope.protocol.parse import ignored_fields
from terascope.protocol.sse import event

_MOST_IGNORED = 20  # names of ignored fields told in a header
Headers = dict[str, str]


def json_reply(value: object, headers: Headers) -> web.Response:
    """Return an answer that is JSON."""
    return web.Response(body=orjson.dumps(value), content_type="application/json", headers=headers)


def json_event(value: object) -> bytes:
    """Return a server-sent event that is JSON."""
    return event(orjson.dumps(value))


def event_stream(headers: Headers) -> web.StreamResponse:
    """Return an answer of server-sent events, which is to be prepared."""
    response = web.StreamResponse(headers=headers | {"Cache-Control": "no-cache"})
    response.content_type = "text/event-stream"
    return response


async def send_events(
    request: web.Request,
    response: web.StreamResponse,
    first: bytes,
    parts: AsyncIterator[bytes],
    last: Callable[[], bytes],
) -> web.StreamResponse:
    """Send `first`, the `parts` as they come, and `last`; an error among the parts takes the place of what is left.

    A client that leaves ends it without a word.
    """
    try:
        await response.prepare(request)
        await response.write(first)
        try:
            async for part in parts:
                await response.write(part)
            end = last()
        except ServiceError as error:
            end = event(error_body(error, request[REQUEST_ID]))
        await response.write(end)
        await response.write_eof()
    except ConnectionResetError:
        pass  # the client has left
    return response


def id_header(request: web.Request) -> Headers:
    """Return the header that says which request is answered."""
    return {"X-Request-Id": request[REQUEST_ID]}


def ignored(asked: Wire) -> Headers:
    """Return the header that lists fields of the request that are not known here, if there are any."""
    names = [quote(name[:64]) for name in ignored_fields(asked)[:_MOST_IGNORED]]
    return {"X-Terascope-Ignored": ",".join(names)} if names else {}


def applied(what: object) -> Headers:
    """Return the header that says what was applied, defaults included."""
    return {"X-Terascope-Applied": orjson.dumps(what).decode()}
