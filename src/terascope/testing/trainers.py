"""The trainer as a process that has its libraries already: a copy of one that loaded them for all of a run.

Loading PyTorch and PEFT takes a second process five seconds; most jobs of tests take less than one.
"""

import sys
from functools import cache
from multiprocessing import forkserver, get_context
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from terascope.core import environment
from terascope.engines.torch import trainer

_OVER_S = 280


def started(directory: Path) -> ForkServerProcess:
    """Start the trainer on the job in `directory`; whoever starts it waits for it or kills it."""
    process = _loaded().Process(target=_work, args=(str(directory),))
    process.start()
    return process


def trained(directory: Path) -> int:
    """Let the trainer carry out the job in `directory`; return its exit status."""
    process = started(directory)
    try:
        return over(process)
    finally:
        process.kill()


def over(process: ForkServerProcess) -> int:
    """Wait for the end of a trainer; return its exit status. Raises `TimeoutError`."""
    process.join(_OVER_S)
    if process.exitcode is None:
        raise TimeoutError(f"the trainer was not done after {_OVER_S} s")
    return process.exitcode


@cache
def _loaded() -> ForkServerContext:
    """What starts processes as copies of one that has loaded all that the trainer uses; it ends with this one."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["terascope.engines.torch.tuning.run"])
    with environment.preferred(trainer.ENVIRONMENT):
        forkserver.ensure_running()
    return context


def _work(directory: str) -> None:
    sys.exit(trainer.main([directory]))
