"""Artefacts and their bytes, on every kind of database."""

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from terascope.core.artefacts import ArtefactKind
from terascope.core.errors import Conflict, NotFound
from terascope.store.artefacts import ArtefactRow, ArtefactStore
from terascope.store.audit import AuditStore
from terascope.store.blobs import Blobs
from terascope.store.database import Database
from terascope.store.projects import ProjectRow, ProjectStore

SOFT = ArtefactKind.SOFT_PROMPT
ROW = ArtefactRow("lab", SOFT, "tone", "1", "m@1", "d" * 64, 9, (3, 4), "", (), "kind words", 1.0, "ada")


async def test_versions_from_the_first_to_their_end(database: Database) -> None:
    for name in ("lab", "sea"):
        await ProjectStore(database).add(ProjectRow(name, "", 0.0))
    store = ArtefactStore(database)
    second = replace(ROW, version="2", created=2.0)
    other = replace(ROW, kind=ArtefactKind.PROJECTOR, shape=(8, 16, 4), activation="gelu")
    for one in (second, ROW, other):
        await store.add(one)
    with pytest.raises(Conflict, match="lab/tone@1 is there already"):
        await store.add(replace(ROW, digest="e" * 64))
    assert await store.all(SOFT) == [ROW, second]
    assert await store.all(SOFT, "other") == []
    assert await store.all(ArtefactKind.PROJECTOR, "tone") == [other]

    await store.share(ROW, ["sea"])
    assert [one.shared_with for one in await store.all(SOFT)] == [("sea",), ("sea",)]
    assert (await store.all(ArtefactKind.PROJECTOR))[0].shared_with == ()
    with pytest.raises(NotFound, match="nowhere"):
        await store.share(ROW, ["nowhere"])

    assert not await store.remove(ROW)  # others have the same bytes
    assert not await store.remove(second)
    assert await store.remove(other)
    with pytest.raises(NotFound, match="lab/tone@1"):
        await store.remove(ROW)
    actions = {one.action for one in await AuditStore(database).newest(20)}
    assert actions >= {"softprompt.add", "softprompt.share", "softprompt.remove", "projector.remove"}


async def test_for_projects_that_there_are(database: Database) -> None:
    with pytest.raises(NotFound, match="no project 'lab'"):
        await ArtefactStore(database).add(ROW)


def test_bytes_are_kept_by_what_they_are(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    digest = blobs.put(b"abc")
    assert blobs.put(b"abc") == digest
    assert blobs.get(digest) == b"abc"
    files = [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
    assert [path.name for path in files] == [digest]
    assert stat.S_IMODE(files[0].stat().st_mode) == 0o600
    files[0].write_bytes(b"abd")
    with pytest.raises(NotFound, match="changed"):
        blobs.get(digest)
    for _ in range(2):
        blobs.remove(digest)
    with pytest.raises(NotFound, match="gone"):
        blobs.get(digest)
