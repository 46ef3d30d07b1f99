"""The losses of a job as a file of its project, as OpenAI's `result_files` has them."""

import logging
from collections.abc import AsyncIterator

from terascope.core.errors import ServiceError
from terascope.files.files import Files
from terascope.store.tuning import JobRow, TuningStore

_log = logging.getLogger(__name__)
_PURPOSE, _NAME = "fine-tune-results", "step_metrics.csv"
_COLUMNS = ("step", "train_loss", "valid_loss", "learning_rate", "trained_tokens")
_PAGE = 1000


async def kept_metrics(row: JobRow, store: TuningStore, files: Files) -> str:
    """Keep the losses that a job's events tell of as a CSV file; return its id.

    A project that has no room for it gets none, and the job is none the worse: then the id is empty.
    """
    try:
        async with files.draft(row.project, row.user_id, row.key_id) as draft:
            await draft.fill(_lines(row.id, store))
            return (await draft.keep(_PURPOSE, _NAME)).id
    except ServiceError as error:
        _log.warning("the losses of %s could not be kept: %s", row.id, error.message)
        return ""


async def _lines(job: str, store: TuningStore) -> AsyncIterator[bytes]:
    yield (",".join(_COLUMNS) + "\n").encode()
    after = ""
    while page := await store.events(job, _PAGE, after=after, kind="metrics", oldest_first=True):
        rows = (",".join(str(one.data.get(name, "")) for name in _COLUMNS) for one in page)
        yield "".join(f"{line}\n" for line in rows).encode()
        after = page[-1].id
