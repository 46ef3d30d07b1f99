"""The torch worker: `python -m terascope.engines.torch.worker`; see `worker.process`."""

import asyncio
from collections.abc import Callable

from terascope.core import environment
from terascope.core.loading import lasting
from terascope.engines.torch.settings import WorkerSettings, parse_arguments
from terascope.engines.worker import process
from terascope.engines.worker.httpd import Served
from terascope.engines.worker.metrics import Metrics


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to end; return the exit status."""
    settings = parse_arguments(arguments)
    place = process.Place(settings.socket, settings.host, settings.port)
    return process.main(place, lambda *told: _load(settings, *told))


def _load(
    settings: WorkerSettings,
    loop: asyncio.AbstractEventLoop,
    crashed: Callable[[BaseException], None],
    metrics: Metrics,
    report: process.Report,
) -> Served:
    report("importing torch")
    # Threads that wait for each other spin for about 0.1 ms, then sleep: sleeping at once costs a third of a step,
    # spinning on makes everything many times slower as soon as anything else runs on the machine.
    environment.prefer("OMP_WAIT_POLICY", "passive")
    environment.prefer("GOMP_SPINCOUNT", "10000")
    with lasting():
        from terascope.engines.torch.serving import load

    return load(settings, loop, crashed, metrics, report)


if __name__ == "__main__":
    process.leave(main())
