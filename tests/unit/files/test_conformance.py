"""Every kind of shelf does what the contract says."""

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest

from terascope.files.contract import Shelf
from terascope.files.directory import DirectoryShelf
from terascope.files.remote import FsspecShelf
from terascope.testing.shelves import SHELF_CHECKS, NewShelf

KINDS = ("directory", "fsspec memory", "fsspec local")


@pytest.fixture(params=KINDS)
def new(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Shelf]]:
    place = uuid4().hex
    makers: dict[str, NewShelf] = {
        "directory": lambda: DirectoryShelf(tmp_path / "deep" / "files"),
        "fsspec memory": lambda: FsspecShelf(f"memory://{place}/files", {}),
        "fsspec local": lambda: FsspecShelf(f"file://{tmp_path}/files", {}),
    }
    yield makers[request.param]
    if request.param == "fsspec memory" and (memory := fsspec.filesystem("memory")).exists(f"/{place}"):
        memory.rm(f"/{place}", recursive=True)


@pytest.mark.parametrize("check", SHELF_CHECKS, ids=lambda check: check.__name__)
def test_the_contract(check: Callable[[NewShelf], None], new: NewShelf) -> None:
    check(new)
