"""One job from its description to its result."""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch

from terascope.core.errors import BadRequest
from terascope.core.tuning import TuningMethod
from terascope.engines.torch.embeds import width_of
from terascope.engines.torch.tuning.base import Base, load_base
from terascope.engines.torch.tuning.data import Lines, Order
from terascope.engines.torch.tuning.examples import ExampleReader
from terascope.engines.torch.tuning.job import CHECKPOINTS, DONE, RESULT, STOPPED, TuningJob
from terascope.engines.torch.tuning.lines import at_line, raw_lines, read_line, vectors_of
from terascope.engines.torch.tuning.progress import Progress
from terascope.engines.torch.tuning.saves import Saves
from terascope.engines.torch.tuning.trainees import Trainee, make_trainee
from terascope.engines.torch.tuning.training import Data, Training
from terascope.internals.artefacts import MOST_BYTES
from terascope.protocol.embeds import PART

_HEADERS = 1 << 16  # bytes of a result besides its numbers, at most
_log = logging.getLogger(__name__)


def run(job: TuningJob, directory: Path, progress: Progress, stopped: Callable[[], bool]) -> int:
    """Carry out `job`; return the exit status, `DONE` or `STOPPED`. Raises what is wrong with job, data or machine."""
    torch.use_deterministic_algorithms(True)
    if job.threads:
        torch.set_num_threads(job.threads)

    def report(stage: str) -> None:
        _log.info("training", extra={"stage": stage})

    base = load_base(job, report)
    width = _vector_width(job)
    trainee = make_trainee(job, base, width)
    _check_size(job, trainee)
    with ExitStack() as stack:
        data = _data(job, base, trainee, width, stack, report)
        saves = Saves(directory / CHECKPOINTS, f"{job.fingerprint} {data.trained.digest} {data.measured.digest}")
        training = Training(base, trainee, data, job.settings, job.seed, saves, progress)
        if not training.run(stopped):
            return STOPPED
        _finish(job, training, trainee, data, directory, progress)
    return DONE


def _check_size(job: TuningJob, trainee: Trainee) -> None:
    """Raise `BadRequest` for what could not be registered once it is trained."""
    size = sum(one.numel() * one.element_size() for one in trainee.parameters().values()) + _HEADERS
    if job.method is not TuningMethod.LORA and size > MOST_BYTES:
        what = "vectors" if job.method is TuningMethod.SOFT_PROMPT else "hidden"
        raise BadRequest(f"{what}: the result would have {size:,} bytes; it may have {MOST_BYTES:,}", param=what)


def _data(
    job: TuningJob, base: Base, trainee: Trainee, width: int, stack: ExitStack, report: Callable[[str], None]
) -> Data:
    reader = ExampleReader(base, trainee.before, width)

    def checked(path: str, name: str) -> Lines:
        lines = stack.enter_context(Lines(Path(path), name, job.method, reader))
        lines.check(lambda count: report(f"{name}: {count} lines"))
        return lines

    trained = checked(job.training_file, "training_file")
    if not job.validation_file:
        order = Order(len(trained), job.settings.held_out_share, job.settings.batch_size, job.seed)
        return Data(trained, order, trained, order.held_out)
    measured = checked(job.validation_file, "validation_file")
    order = Order(len(trained), 0.0, job.settings.batch_size, job.seed)
    return Data(trained, order, measured, list(range(len(measured))))


def _vector_width(job: TuningJob) -> int:
    """The width of a projector's input: that of the first vectors. Raises `BadRequest`."""
    if job.method is not TuningMethod.PROJECTOR:
        return 0
    with Path(job.training_file).open("rb") as file:
        for raw in raw_lines(file):
            try:
                return width_of(vectors_of(read_line(raw.text, job.method))[0], PART)
            except BadRequest as error:
                raise at_line(raw.number, error) from None
    raise BadRequest("training_file has no lines", param="training_file")


def _finish(
    job: TuningJob, training: Training, trainee: Trainee, data: Data, directory: Path, progress: Progress
) -> None:
    result = directory / RESULT
    result.mkdir(exist_ok=True)
    files = trainee.save(result, job.about(data.trained.digest))
    progress.tell(
        "done",
        step=training.standing.step,
        tokens=training.standing.tokens,
        held_out_tokens=training.standing.measured,
        files=list(files),
        data_digest=data.trained.digest,
    )
