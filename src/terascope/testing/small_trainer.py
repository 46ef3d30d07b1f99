"""A trainer without torch, for tests of what is around it: `python -m terascope.testing.small_trainer DIRECTORY`.

It does what the prompt of the first training line says, word by word: `steps` tells of two steps and a checkpoint,
`hang` waits to be told to stop, `die` kills itself, `die-once` the first time only, `fail` tells an error, `crash` ends
without a word, `done` leaves a soft prompt of two vectors.
"""

import json
import os
import signal
import struct
import sys
from pathlib import Path
from types import FrameType

from terascope.engines.torch.tuning.job import DONE, FAILED, PROGRESS, PROMPT_FILE, RESULT, STOPPED, TuningJob
from terascope.internals.arrays import Array, DType
from terascope.internals.packing import pack

WIDTH = 4
"""How many numbers each vector of its soft prompt has."""


class SmallTrainer:
    """One life of it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lives = directory / "lives"
        self._lives.write_text(self._lives.read_text() + "x" if self._lives.exists() else "x")

    def run(self) -> int:
        """Do what is said; return the exit status."""
        with Path(TuningJob.read(self._directory).training_file).open() as file:
            words = json.loads(file.readline())["prompt"].split()
        for word in words:
            status = self._do(word)
            if status is not None:
                return status
        return DONE

    def _do(self, word: str) -> int | None:
        if word == "steps":
            self._steps()
        elif word == "hang":
            signal.pause()
        elif word == "die" or (word == "die-once" and self._lives.read_text() == "x"):
            os.kill(os.getpid(), signal.SIGKILL)
        elif word == "fail":
            self._tell("error", code="invalid_request", message="it was told to fail", param="training_file")
            return FAILED
        elif word == "crash":
            sys.stderr.write("the last line of its log\n")
            return FAILED
        elif word == "done":
            self._finish()
        return None

    def _steps(self) -> None:
        self._tell("started", step=0, steps=2, epochs=1, steps_in_epoch=2)
        self._tell("held_out", step=0, loss=3.0, tokens=5)
        for step in (1, 2):
            self._tell("step", step=step, loss=2.0 / step, lr=0.1, tokens=10 * step, norm=1.0, seconds=0.5)
        self._tell("checkpoint", step=2, tokens=20)

    def _finish(self) -> None:
        result = self._directory / RESULT
        result.mkdir(exist_ok=True)
        numbers = struct.pack(f"<{2 * WIDTH}f", *range(2 * WIDTH))
        (result / PROMPT_FILE).write_bytes(pack({"prompt": Array(DType.F32, (2, WIDTH), numbers)}))
        self._tell("done", step=2, tokens=20, held_out_tokens=5, files=[PROMPT_FILE], data_digest="")

    def _tell(self, kind: str, **told: object) -> None:
        with (self._directory / PROGRESS).open("a") as file:
            print(json.dumps({"kind": kind, **told}), file=file)


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(STOPPED)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    sys.exit(SmallTrainer(Path(sys.argv[1])).run())
