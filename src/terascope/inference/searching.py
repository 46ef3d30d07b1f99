"""What a chat that searches files needs of the room above: the passages, put into the request."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from terascope.access.principal import Grant
from terascope.core.models import ModelVersion
from terascope.protocol.request import ModelRequest


@dataclass(frozen=True, slots=True)
class Asker:
    """On whose behalf files are searched: for a request that was admitted already.

    `deadline_s` is in seconds from now; `gone` says whether the client has left.
    """

    grant: Grant
    version: ModelVersion
    deadline_s: float | None = None
    gone: Callable[[], bool] = lambda: False


class Searches(Protocol):
    """Finds what a chat is to read."""

    async def searched(self, request: ModelRequest, asker: Asker) -> ModelRequest:
        """Return `request` with what was found before its question, and without the tool that asked for it.

        Its `labels` say for the record what was found, its `annotations` for the client. Raises `BadRequest`,
        `NotFound` for stores and versions that the caller may not use or that are gone, and what embedding raises.
        """
        ...
