"""A worker as a process: one model, one HTTP endpoint.

It answers /health from its first moment, loads in a thread, and ends at SIGTERM or SIGINT: running answers get an
error, then the process is gone. It ends by itself when the model cannot be loaded (2) or computing broke down (3).
"""

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from aiohttp import web

from terascope.core import environment
from terascope.core.errors import ServiceError
from terascope.engines.worker import logs
from terascope.engines.worker.httpd import BACKLOG, Served, Shell
from terascope.engines.worker.metrics import Metrics

_log = logging.getLogger(__name__)
_NOT_LOADED = 2
_CRASHED = 3
_GRACE_S = 2.0  # that answers and the last step have to end
_PRIVATE = 0o177  # umask of a socket that only we may open

Report = Callable[[str], None]
Load = Callable[[asyncio.AbstractEventLoop, Callable[[BaseException], None], Metrics, Report], Served]
"""Loads the model and starts computing; called in a thread. Tells how far it is; the second is told of a break-down."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker listens: the Unix socket `socket`, else a port."""

    socket: str = ""
    host: str = "127.0.0.1"
    port: int = 0


def main(place: Place, load: Load) -> int:
    """Serve until told to end; return the exit status."""
    logs.configure()
    secret = environment.replica_secret()
    if not place.socket and not secret:
        _log.critical("a port needs TERASCOPE_REPLICA_SECRET, or everybody on this machine could ask the model")
        return _NOT_LOADED
    loop = asyncio.new_event_loop()
    # not asyncio.run: at its end it waits for threads, minutes if one is loading or reading a long prompt
    return loop.run_until_complete(serve(place, load, secret))


def leave(code: int) -> NoReturn:
    """End the process: a thread that is in the middle of loading could hold up an ordinary exit for minutes."""
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code)


async def serve(place: Place, load: Load, secret: str) -> int:
    """Serve until a signal or a failure; return the exit status."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _end, ended, 0)
    metrics = Metrics()
    shell = Shell(secret, metrics)
    runner = web.AppRunner(
        shell.application(), handler_cancellation=True, access_log=None, shutdown_timeout=_GRACE_S / 2
    )
    await runner.setup()
    try:
        await _listen(runner, place)
        work = (load, loop, ended, metrics, shell)
        threading.Thread(target=_load, args=work, name="load", daemon=True).start()
        return await ended
    finally:
        if shell.served is not None:
            shell.served.stop()
        await runner.cleanup()
        if shell.served is not None:
            await asyncio.to_thread(shell.served.join, _GRACE_S)
        _log.info("ended")


async def _listen(runner: web.AppRunner, place: Place) -> None:
    if place.socket:
        before = os.umask(_PRIVATE)
        try:
            await web.UnixSite(runner, place.socket, backlog=BACKLOG).start()
        finally:
            os.umask(before)
    else:
        await web.TCPSite(runner, place.host, place.port, backlog=BACKLOG).start()
    _log.info("listening", extra={"at": [str(address) for address in runner.addresses]})


def _load(
    load: Load, loop: asyncio.AbstractEventLoop, ended: "asyncio.Future[int]", metrics: Metrics, shell: Shell
) -> None:
    """Load in a thread of its own, so that /health answers meanwhile."""

    def report(stage: str) -> None:
        shell.stage = stage
        _log.info("loading", extra={"stage": stage})

    def crashed(_: BaseException) -> None:
        _end(ended, _CRASHED)

    try:
        served = load(loop, crashed, metrics, report)
    except Exception as error:  # noqa: BLE001 - the edge of loading: whatever it is, the process ends and says why
        words = error.message if isinstance(error, ServiceError) else f"{type(error).__name__}: {error}"
        _log.critical("the model cannot be loaded", exc_info=error, extra={"reason": words})
        loop.call_soon_threadsafe(_end, ended, _NOT_LOADED)
        return
    shell.served = served
    info = served.info
    _log.info("ready", extra={"device": info.device, "dtype": info.dtype, **dict(info.details)})


def _end(ended: "asyncio.Future[int]", status: int) -> None:
    if not ended.done():
        ended.set_result(status)
