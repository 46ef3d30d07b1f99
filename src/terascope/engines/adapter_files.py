"""How an engine is told of a LoRA adapter: where its files are, and what must be in them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from terascope.core.errors import InternalError

HEADER = "X-Terascope-Adapter"
"""The request header that names an adapter to an engine of ours."""


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """Where an adapter's files are, and what they must be: `sha256` by file name, `digest` over all of them."""

    name: str
    digest: str
    directory: Path
    sha256: Mapping[str, str]

    @classmethod
    def read(cls, header: str) -> "AdapterFiles | None":
        """Read what `header` wrote; None for an empty text. Raises `InternalError` when it is something else."""
        if not header:
            return None
        try:
            said = json.loads(unquote(header))
            return cls(str(said["name"]), str(said["digest"]), Path(said["directory"]), dict(said["sha256"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InternalError("the gateway named an adapter in words not known here", detail=repr(error)) from None

    @property
    def header(self) -> str:
        """The value of `HEADER`: ASCII on one line, whatever the names are."""
        said = {"name": self.name, "digest": self.digest, "directory": str(self.directory)}
        return quote(json.dumps(said | {"sha256": dict(self.sha256)}))
