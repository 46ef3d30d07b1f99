"""A service that sells answers, as the gateway meets it: keys, limits, bad days, and no patience with unknown fields.

Its answers are those of the echo engine. As a program, `python -m terascope.testing.commercial --key KEY --model NAME`,
it says where it listens in one line on its standard output.
"""

import argparse
import asyncio
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import orjson

from terascope.core.clock import Clock, SystemClock
from terascope.core.ids import new_id
from terascope.engines.echo.httpd import Exchange, HttpServer, Request
from terascope.engines.echo.model import Settings
from terascope.engines.echo.server import EchoServer
from terascope.protocol.errors import error_json

_UNKNOWN = (
    "top_k",
    "min_p",
    "repetition_penalty",
    "ignore_eos",
    "min_tokens",
    "cache_salt",
    "priority",
    "reproducible",
)
"""Fields that others have and it refuses."""
_MINUTE_S = 60.0
_WORDS = {
    401: ("Incorrect API key provided.", "invalid_request_error", "invalid_api_key"),
    404: ("There is nothing here.", "invalid_request_error", None),
    429: ("Rate limit reached for requests.", "requests", "rate_limit_exceeded"),
    500: ("The server had an error while processing your request.", "server_error", None),
    503: ("The engine is currently overloaded, please try again later.", "server_error", None),
}
_SPENT = ("You exceeded your current quota, please check your plan.", "insufficient_quota", "insufficient_quota")


class CommercialApi:
    """The service. `received` are the requests that carried a right key, oldest first."""

    def __init__(
        self,
        *,
        keys: Iterable[str],
        model: str,
        per_minute: int = 0,
        clock: Clock | None = None,
    ) -> None:
        """Take `keys`; `per_minute` 0 limits nothing."""
        self.received: list[Request] = []
        self.failures: deque[tuple[int, dict[str, str]]] = deque()
        """Statuses and headers that the next requests for answers get, one each."""
        self.spent = False
        """True once the account has nothing left."""
        self._keys = {f"Bearer {key}" for key in keys}
        self._model = model
        self._per_minute = per_minute
        self._clock = clock or SystemClock()
        self._times: deque[float] = deque()
        self._echo = EchoServer(Settings(model))

    async def handle(self, exchange: Exchange) -> None:
        """Answer one request."""
        request = exchange.request
        if request.headers.get("authorization") not in self._keys:
            return await _refuse(exchange, 401)
        self.received.append(request)
        if request.method == "GET" and request.path == "/v1/models":
            listed = [{"id": self._model, "object": "model", "created": 0, "owned_by": "system"}]
            return await exchange.reply(200, orjson.dumps({"object": "list", "data": listed}))
        if request.method != "POST" or not request.path.startswith("/v1/"):
            return await _refuse(exchange, 404)
        return await self._answer(exchange)

    async def _answer(self, exchange: Exchange) -> None:
        if self.failures:
            status, headers = self.failures.popleft()
            return await _refuse(exchange, status, headers)
        if self.spent:
            return await exchange.reply(429, error_json(_SPENT[0], _SPENT[1], _SPENT[2], None, new_id("req")))
        if (wait_s := self._wait_s()) > 0:
            return await _refuse(exchange, 429, {"Retry-After": f"{wait_s:.0f}"})
        if unknown := _unknown(exchange.request.body):
            words = f"Unrecognized request argument supplied: {unknown}"
            return await exchange.reply(400, error_json(words, "invalid_request_error", None, unknown, new_id("req")))
        return await self._echo.handle(exchange)

    def _wait_s(self) -> float:
        """How long until another request is taken; this one counts if that is now."""
        now = self._clock.monotonic()
        while self._times and self._times[0] <= now - _MINUTE_S:
            self._times.popleft()
        if self._per_minute and len(self._times) >= self._per_minute:
            return max(1.0, self._times[0] + _MINUTE_S - now)
        self._times.append(now)
        return 0.0


@asynccontextmanager
async def listening(api: CommercialApi, port: int = 0) -> AsyncIterator[str]:
    """Serve `api` in the running event loop; yields its URL."""
    server = HttpServer(api.handle)
    await server.listen(port=port)
    try:
        yield server.url
    finally:
        await server.aclose()


async def _refuse(exchange: Exchange, status: int, headers: dict[str, str] | None = None) -> None:
    words, kind, code = _WORDS.get(status, _WORDS[500])
    body = error_json(words, kind, code, None, new_id("req"))
    await exchange.reply(status, body, headers=(headers or {}).items())


def _unknown(body: bytes) -> str:
    """A field that it does not know; it looks at what the gateway might have added."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    return next((name for name in _UNKNOWN if isinstance(fields, dict) and name in fields), "")


async def _serve(api: CommercialApi, port: int) -> None:
    async with listening(api, port) as url:
        sys.stdout.write(f"listening on {url}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and serve until killed."""
    parser = argparse.ArgumentParser(prog="python -m terascope.testing.commercial", description=__doc__)
    parser.add_argument("--key", action="append", required=True, help="a key that is taken; may be repeated")
    parser.add_argument("--model", required=True, help="the model's name")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--per-minute", type=int, default=0, help="most requests in a minute; 0: any number")
    given = parser.parse_args(arguments)
    asyncio.run(_serve(CommercialApi(keys=given.key, model=given.model, per_minute=given.per_minute), given.port))


if __name__ == "__main__":
    main()
