"""The torch worker: `python -m terascope.engines.torch.worker`. One process, one model, one HTTP endpoint.

It answers /health from its first moment, loads in a thread, and ends at SIGTERM or SIGINT: running answers get an
error, then the process is gone. It ends by itself when the model cannot be loaded (2) or computing broke down (3).
"""

import asyncio
import logging
import os
import signal
import sys
import threading

from aiohttp import web

from terascope.core import environment
from terascope.core.errors import ServiceError
from terascope.engines.torch import heap, logs
from terascope.engines.torch.httpd import BACKLOG, Shell
from terascope.engines.torch.metrics import Metrics
from terascope.engines.torch.settings import WorkerSettings, parse_arguments

_log = logging.getLogger(__name__)
_NOT_LOADED = 2
_CRASHED = 3
_GRACE_S = 2.0  # that answers and the last step have to end
_PRIVATE = 0o177  # umask of a socket that only we may open


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to end; return the exit status."""
    heap.keep()
    settings = parse_arguments(arguments)
    logs.configure()
    secret = environment.replica_secret()
    if not settings.socket and not secret:
        _log.critical("a port needs TERASCOPE_REPLICA_SECRET, or everybody on this machine could ask the model")
        return _NOT_LOADED
    loop = asyncio.new_event_loop()
    # not asyncio.run: at its end it waits for threads, minutes if one is loading or reading a long prompt
    return loop.run_until_complete(serve(settings, secret))


async def serve(settings: WorkerSettings, secret: str) -> int:
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
        await _listen(runner, settings)
        work = (settings, loop, ended, metrics, shell)
        threading.Thread(target=_load, args=work, name="load", daemon=True).start()
        return await ended
    finally:
        if shell.served is not None:
            shell.served.stop()
        await runner.cleanup()
        if shell.served is not None:
            await asyncio.to_thread(shell.served.join, _GRACE_S)
        _log.info("ended")


async def _listen(runner: web.AppRunner, settings: WorkerSettings) -> None:
    if settings.socket:
        before = os.umask(_PRIVATE)
        try:
            await web.UnixSite(runner, settings.socket, backlog=BACKLOG).start()
        finally:
            os.umask(before)
    else:
        await web.TCPSite(runner, settings.host, settings.port, backlog=BACKLOG).start()
    _log.info("listening", extra={"at": [str(address) for address in runner.addresses]})


def _load(
    settings: WorkerSettings,
    loop: asyncio.AbstractEventLoop,
    ended: "asyncio.Future[int]",
    metrics: Metrics,
    shell: Shell,
) -> None:
    """Load in a thread of its own, so that /health answers meanwhile."""

    def report(stage: str) -> None:
        shell.stage = stage
        _log.info("loading", extra={"stage": stage})

    def crashed(_: BaseException) -> None:
        _end(ended, _CRASHED)

    try:
        report("importing torch")
        # Threads that wait for each other spin for about 0.1 ms, then sleep: sleeping at once costs a third of a step,
        # spinning on makes everything many times slower as soon as anything else runs on the machine.
        environment.prefer("OMP_WAIT_POLICY", "passive")
        environment.prefer("GOMP_SPINCOUNT", "10000")
        from terascope.engines.torch.serving import load

        served = load(settings, loop, crashed, metrics, report)
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


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code)  # a thread that is in the middle of loading could hold up an ordinary exit for minutes
