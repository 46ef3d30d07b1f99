"""What can be asked about fine-tuning jobs."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from terascope.client.ask import Ask, Noun, Sender, call
from terascope.protocol.fine_tuning import FineTuningRequest
from terascope.protocol.parse import validate
from terascope.protocol.tuning_views import JobCheckpoints, JobEvents, JobView, JobViews

_JOBS = "/v1/fine_tuning/jobs"


class Tuning(Noun[Sender]):
    """Fine-tuning jobs of projects. Without `project` it is the key's own."""

    @call
    def create(
        self,
        model: str,
        training_file: str,
        method: str = "lora",
        *,
        hyperparameters: Mapping[str, Any] | None = None,
        validation_file: str = "",
        suffix: str = "",
        seed: int | None = None,
        project: str = "",
    ) -> Ask[JobView]:
        """Train `method` beside `model` on an uploaded file of JSON lines; returns before that begins.

        The result is called `suffix`; `method` is `lora`, `soft_prompt` or `projector`. Raises `BadRequest` for another
        one, and for hyperparameters that there are not.
        """
        asked: dict[str, object] = {
            "model": model,
            "training_file": training_file,
            "validation_file": validation_file or None,
            "suffix": suffix or None,
            "seed": seed,
            "method": {"type": method, method: {"hyperparameters": dict(hyperparameters or {})}},
        }
        body = validate(FineTuningRequest, {name: one for name, one in asked.items() if one is not None})
        return Ask("POST", _JOBS, JobView, body, headers=_of(project))

    @call
    def get(self, job: str) -> Ask[JobView]:
        """Return one job."""
        return Ask("GET", _path(job), JobView)

    @call
    def list(self, *, limit: int = 20, after: str = "", project: str = "") -> Ask[JobViews]:
        """Return up to `limit` jobs of a project, newest first, past the id `after`."""
        return Ask("GET", _JOBS, JobViews, query=_page(limit, after), headers=_of(project))

    @call
    def cancel(self, job: str) -> Ask[JobView]:
        """End a job; nothing of it runs on return. Raises `Conflict` when it is over."""
        return Ask("POST", _path(job, "cancel"), JobView)

    @call
    def events(self, job: str, *, limit: int = 100, after: str = "") -> Ask[JobEvents]:
        """Return up to `limit` events of a job, newest first, past the id `after`."""
        return Ask("GET", _path(job, "events"), JobEvents, query=_page(limit, after))

    @call
    def checkpoints(self, job: str, *, limit: int = 10, after: str = "") -> Ask[JobCheckpoints]:
        """Return up to `limit` checkpoints of a job, newest first, past the id `after`."""
        return Ask("GET", _path(job, "checkpoints"), JobCheckpoints, query=_page(limit, after))


def _path(job: str, *more: str) -> str:
    return "/".join([_JOBS, quote(job, safe=""), *more])


def _page(limit: int, after: str) -> dict[str, str | int]:
    return {"limit": limit, **({"after": after} if after else {})}


def _of(project: str) -> Mapping[str, str]:
    return {"x-terascope-project": project} if project else {}
