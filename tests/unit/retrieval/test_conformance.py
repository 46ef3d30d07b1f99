"""Collections keep their contract."""

from collections.abc import Callable
from pathlib import Path

import pytest

from terascope.retrieval.lance import LanceCollections
from terascope.testing.collections import COLLECTION_CHECKS, NewCollections


@pytest.mark.parametrize("check", COLLECTION_CHECKS, ids=lambda check: check.__name__)
def test_lance(check: Callable[[NewCollections], None], tmp_path: Path) -> None:
    check(lambda: LanceCollections(tmp_path / "collections"))
