"""`python -m terascope.catalog.sources.hub_program org/name revision`: fetch one revision from the Hugging Face Hub.

A program of its own, so that a fetch of a terabyte can be cancelled and leaves nothing in the gateway's memory.
It prints one JSON object a line: `{"done": BYTES, "total": BYTES}` as it goes, at the end `{"directory": PATH}` or
`{"error": KIND, "message": TEXT}`. It ends when its standard input closes, which is when the gateway is gone.
"""

import json
import os
import sys
import threading
from typing import Any

from huggingface_hub import snapshot_download
from tqdm import tqdm  # type: ignore[import-untyped]  # it ships no types

_KINDS = {
    "GatedRepoError": "gated",
    "RepositoryNotFoundError": "repository",
    "RevisionNotFoundError": "revision",
    "HFValidationError": "name",
    "IncompleteSnapshotError": "incomplete",
    "LocalEntryNotFoundError": "unreachable",
    "HfHubHTTPError": "unreachable",
    "OSError": "disk",
}
"""By the names of the library's errors, since not every version has all of them."""


class _Bars(tqdm):  # type: ignore[misc]  # as above
    """Progress bars that print bytes as JSON; bars that count other things stay silent."""

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        if self.unit == "B" and self.total:
            _say({"done": int(self.n), "total": int(self.total)})
        return True


def main(repository: str, revision: str) -> int:
    """Fetch, print what became of it, and return the exit code."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        directory = snapshot_download(repository, revision=revision or None, tqdm_class=_Bars)
    except Exception as error:  # noqa: BLE001 - the edge of a process: whatever it is goes to the parent as one line
        kind = next((_KINDS[one.__name__] for one in type(error).__mro__ if one.__name__ in _KINDS), "other")
        _say({"error": kind, "message": f"{type(error).__name__}: {error}", "errno": getattr(error, "errno", None)})
        return 1
    _say({"directory": directory})
    return 0


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _end_with_parent() -> None:
    while os.read(0, 4096):  # not sys.stdin: its lock would be held by this thread when Python shuts down
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
