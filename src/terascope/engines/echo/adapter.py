"""The echo engine as the gateway sees it: inside its own process, or as a server."""

import asyncio
import math
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from terascope._version import __version__
from terascope.core.errors import ConfigError, EngineLost, EngineUnreachable
from terascope.engines.contract import Endpoint, Engine, EngineCall, EngineInfo, Headers, Launch
from terascope.engines.echo.model import CAPABILITIES, CONTEXT_LENGTH, Echo, Settings, answer
from terascope.engines.upstream import Address, HttpEngine


class EchoAnswer:
    """An answer that is made while it is iterated, in `delay_s` for each token."""

    def __init__(self, echo: Echo, delay_s: float, ended: Callable[["EchoAnswer"], None]) -> None:
        self.status = echo.status
        self.headers = Headers({"content-type": echo.content_type})
        self._echo = echo
        self._delay_s = delay_s
        self._ended = ended
        self._closed = asyncio.Event()

    async def chunks(self) -> AsyncIterator[bytes]:
        if not self._echo.stream:
            await self._pause(self._delay_s * self._echo.tokens)
        for part in self._echo.parts:
            await self._pause(self._delay_s if self._echo.stream else 0)
            yield part
        self._ended(self)

    async def aclose(self) -> None:
        self._closed.set()
        self._ended(self)

    async def _pause(self, seconds: float) -> None:
        """Let others run, for `seconds`. Raises `EngineLost` when the answer is closed meanwhile."""
        if seconds:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._closed.wait()
        else:
            await asyncio.sleep(0)
        if self._closed.is_set():
            raise EngineLost("the answer was closed before its end")


class EchoEngine:
    """The echo engine in this process: no weights, no server, no connection."""

    def __init__(self, settings: Settings | None = None, *, delay_s: float = 0.0) -> None:
        self._settings = settings or Settings()
        self._delay_s = delay_s
        self._closed = False
        self._running: set[EchoAnswer] = set()

    async def generate(self, call: EngineCall) -> EchoAnswer:
        self._check_open()
        running = EchoAnswer(answer(self._settings, call, int(time.time())), self._delay_s, self._running.discard)
        self._running.add(running)
        return running

    async def probe(self) -> EngineInfo:
        self._check_open()
        return info(self._settings)

    async def metrics(self) -> str:
        self._check_open()
        return ""

    async def aclose(self) -> None:
        self._closed = True
        for running in tuple(self._running):
            await running.aclose()

    def _check_open(self) -> None:
        if self._closed:
            raise EngineUnreachable("the engine is closed")


def info(settings: Settings) -> EngineInfo:
    """What the echo engine says of itself."""
    named = (("served_name", settings.served_name),) if settings.served_name else ()
    return EngineInfo("echo", __version__, CAPABILITIES, settings.context_length, details=named)


@dataclass(frozen=True, slots=True)
class EchoKind:
    """How to start and reach an echo engine. `options.delay_ms` is the time it takes for each token."""

    def command(self, launch: Launch, endpoint: Endpoint) -> tuple[str, ...]:
        settings, delay_ms = _settings(launch), _delay_ms(launch)
        if launch.deployment.launcher == "inprocess":
            return ()
        address = Address.parse(endpoint.url)
        where = ("--socket", address.path) if address.path else ("--host", address.host, "--port", str(address.port))
        program = (launch.program.python or sys.executable, "-m", "terascope.engines.echo.server", *where)
        context = ("--context-length", str(settings.context_length))
        return (*program, "--served-name", settings.served_name, *context, "--delay-ms", f"{delay_ms:g}")

    def environment(self, launch: Launch, endpoint: Endpoint) -> Mapping[str, str]:
        return launch.program.environment

    def connect(self, launch: Launch, endpoint: Endpoint) -> Engine:
        if launch.deployment.launcher == "inprocess":
            return EchoEngine(_settings(launch), delay_s=_delay_ms(launch) / 1000)
        return HttpEngine(endpoint, served_name=launch.served_name)


KIND = EchoKind()
"""What the registry finds."""


def _settings(launch: Launch) -> Settings:
    length = launch.deployment.context_length or launch.version.context_length or CONTEXT_LENGTH
    return Settings(launch.served_name, length)


def _delay_ms(launch: Launch) -> float:
    options = dict(launch.deployment.options)
    text = options.pop("delay_ms", "0")
    if options:
        raise ConfigError(f"the echo engine has no option {min(options)!r}; it has delay_ms")
    try:
        delay = float(text)
    except ValueError:
        delay = math.nan
    if not 0 <= delay < math.inf:
        raise ConfigError(f"delay_ms must be milliseconds, not {text!r}")
    return delay
