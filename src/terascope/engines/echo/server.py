"""The echo engine as a program: `python -m terascope.engines.echo.server --socket PATH --served-name NAME`.

It demands the secret in TERASCOPE_REPLICA_SECRET of whoever talks to it, when there is one. Once it listens it
says so in one line on its standard output: `listening on URL`.
"""

import argparse
import asyncio
import hmac
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import orjson

from terascope.core import environment
from terascope.core.errors import BadRequest, NotAuthenticated, NotFound, ServiceError
from terascope.core.ids import new_id
from terascope.engines.contract import EngineCall
from terascope.engines.echo.adapter import info
from terascope.engines.echo.httpd import Exchange, HttpServer
from terascope.engines.echo.model import CAPABILITIES, CONTEXT_LENGTH, Settings, answer
from terascope.engines.info import info_json
from terascope.protocol.errors import error_body


class EchoServer:
    """Answers OpenAI's endpoints, `/health`, `/v1/models` and `/terascope/info`."""

    def __init__(self, settings: Settings | None = None, *, secret: str = "", delay_s: float = 0.0) -> None:
        self._settings = settings or Settings()
        self._expected = f"Bearer {secret}".encode() if secret else b""
        self._delay_s = delay_s

    async def handle(self, exchange: Exchange) -> None:
        """Answer one request."""
        request = exchange.request
        request_id = request.headers.get("x-request-id") or new_id("req")
        try:
            if request.path != "/health":
                self._check_secret(request.headers.get("authorization", ""))
            if request.method == "GET":
                await exchange.reply(200, self._told(request.path))
            elif request.method == "POST":
                await self._generate(exchange, EngineCall(request_id, _endpoint(request.path), request.body))
            else:
                raise BadRequest(f"{request.method}: use GET or POST")
        except ServiceError as error:
            await exchange.reply(error.status, error_body(error, request_id))

    async def _generate(self, exchange: Exchange, call: EngineCall) -> None:
        echo = answer(self._settings, call, int(time.time()))
        if not echo.stream:
            await asyncio.sleep(self._delay_s * echo.tokens)
            return await exchange.reply(echo.status, b"".join(echo.parts), echo.content_type)
        await exchange.begin(echo.status, echo.content_type)
        for part in echo.parts:
            await asyncio.sleep(self._delay_s)
            await exchange.chunk(part)
        return await exchange.end()

    def _told(self, path: str) -> bytes:
        if path == "/health":
            return b'{"status":"ok"}'
        if path == "/terascope/info":
            return info_json(info(self._settings))
        if path == "/v1/models":
            name = self._settings.served_name or "echo"
            model = {"id": name, "object": "model", "created": 0, "owned_by": "terascope"}
            listed = [model | {"max_model_len": self._settings.context_length}]
            return orjson.dumps({"object": "list", "data": listed})
        raise NotFound(f"there is no {path[:100]}")

    def _check_secret(self, given: str) -> None:
        if self._expected and not hmac.compare_digest(given.encode(), self._expected):
            raise NotAuthenticated("this engine answers only those who know its secret")


def _endpoint(path: str) -> str:
    endpoint = path.removeprefix("/v1/") if path.startswith("/v1/") else path.removeprefix("/")
    if endpoint not in CAPABILITIES.endpoints:
        raise NotFound(f"there is no {path[:100]}")
    return endpoint


async def serve(server: EchoServer, *, path: Path | None, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    http = HttpServer(server.handle)
    await http.listen(path=path, host=host, port=port)
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    sys.stdout.write(f"listening on {http.url}\n")
    sys.stdout.flush()
    try:
        await stop.wait()
    finally:
        await http.aclose()


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m terascope.engines.echo.server", description=__doc__)
    parser.add_argument("--socket", type=Path, help="Unix socket to listen on, mode 0600")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 takes a free one")
    parser.add_argument("--served-name", default="", help="the model's name in requests; empty answers to any")
    parser.add_argument("--context-length", type=int, default=CONTEXT_LENGTH, help="in words")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="time for each token")
    given = parser.parse_args(arguments)
    settings = Settings(given.served_name, given.context_length)
    server = EchoServer(settings, secret=environment.replica_secret(), delay_s=given.delay_ms / 1000)
    asyncio.run(serve(server, path=given.socket, host=given.host, port=given.port))


if __name__ == "__main__":
    main()
