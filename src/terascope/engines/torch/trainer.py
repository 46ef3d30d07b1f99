"""The trainer: `python -m terascope.engines.torch.trainer DIRECTORY`. One process, one job, then it ends.

It reads `job.json` of the directory, tells how it goes in `progress.jsonl`, and leaves its result in `result`. At
SIGTERM it writes a checkpoint and ends (3); killed at any moment and started again, it ends with the same result.
"""

import argparse
import errno
import logging
import os
import signal
import sys
from pathlib import Path

from terascope.core import environment
from terascope.core.errors import ServiceError
from terascope.core.loading import lasting
from terascope.engines.torch.tuning.job import FAILED, PROGRESS, TuningJob
from terascope.engines.torch.tuning.progress import Progress
from terascope.engines.worker import logs

ENVIRONMENT = {"OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
"""What libraries read when they are loaded; what the process was given stands before it."""

_log = logging.getLogger(__name__)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main(arguments: list[str] | None = None) -> int:
    """Train until the job is done or cannot go on; return the exit status."""
    parser = argparse.ArgumentParser("terascope.engines.torch.trainer", description="Carry out one fine-tuning job.")
    parser.add_argument("directory", type=Path, help="where job.json is, and where everything is written")
    directory: Path = parser.parse_args(arguments).directory
    logs.configure()
    stop = _Stop()
    try:
        with Progress(directory / PROGRESS) as progress:
            return _train(directory, progress, stop)
    except OSError as error:
        _log.critical("the job's directory cannot be written", extra={"reason": error.strerror})
        return FAILED


class _Stop:
    """Whether the process was told to stop."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, self._ask)

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True

    def __call__(self) -> bool:
        return self.asked


def _train(directory: Path, progress: Progress, stop: _Stop) -> int:
    try:
        for name, value in ENVIRONMENT.items():
            environment.prefer(name, value)
        with lasting():
            from terascope.engines.torch.tuning.run import run

        return run(TuningJob.read(directory), directory, progress, stop)
    except Exception as error:  # noqa: BLE001 - the edge of the process: whatever it is, the job ends and says why
        _log.critical("the job has failed", exc_info=error)
        progress.tell("error", **_told(error))
        return FAILED


def _told(error: Exception) -> dict[str, object]:
    """What the job's owner is told."""
    if isinstance(error, ServiceError):
        return {"code": error.code, "message": error.message, "param": error.param}
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return {
            "code": "storage_full",
            "message": "the disk of the gateway's machine is full; the last checkpoint stays",
        }
    from terascope.engines.torch import memory

    if memory.was_too_little(error):
        told = "memory did not suffice; set a lower micro_batch_tokens or batch_size, or shorten the lines"
        return {"code": "engine_out_of_memory", "message": told}
    return {"code": "internal_error", "message": f"the trainer failed ({type(error).__name__}); its log says where"}


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code)
