"""`path:DIR`: a directory that is already on this machine."""

from dataclasses import dataclass
from pathlib import Path

from terascope.catalog.sources.contract import Fetched, Progress
from terascope.core.errors import BadRequest


@dataclass(frozen=True, slots=True)
class PathSource:
    """A directory; it is used where it is, and nothing is copied."""

    directory: Path
    pinned = False

    @classmethod
    def parse(cls, rest: str) -> "PathSource":
        """Read a path; a relative one is taken from the working directory of this process."""
        return cls(Path(rest).expanduser().absolute())

    @property
    def text(self) -> str:
        return f"path:{self.directory}"

    async def fetch(self, progress: Progress) -> Fetched:
        if not self.directory.exists():
            raise BadRequest(f"there is no directory {self.directory} on the gateway's machine", param="source")
        if not self.directory.is_dir():
            raise BadRequest(f"{self.directory} is a file; give the directory the model is in", param="source")
        return Fetched(self.text, self.directory)
