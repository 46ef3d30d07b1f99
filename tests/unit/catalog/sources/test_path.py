"""`path:DIR`."""

from pathlib import Path

import pytest

from terascope.catalog.sources.path import PathSource
from terascope.core.errors import BadRequest


def _silent(_message: str, _fraction: float | None) -> None:
    pass


async def test_a_directory_is_used_where_it_is(tmp_path: Path) -> None:
    fetched = await PathSource.parse(str(tmp_path)).fetch(_silent)
    assert (fetched.source, fetched.directory) == (f"path:{tmp_path}", tmp_path)


async def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadRequest, match="there is no directory"):
        await PathSource.parse(str(tmp_path / "none")).fetch(_silent)
    with pytest.raises(BadRequest, match="is a file"):
        await PathSource.parse(str(tmp_path / "file")).fetch(_silent)
