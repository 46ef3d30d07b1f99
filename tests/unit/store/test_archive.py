"""A backup's file is whole or not there; what is not whole, not ours or newer is refused with the reason."""

import json
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from zipfile import ZipFile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from terascope.core.errors import BackupUnusable, Conflict
from terascope.store.archive import MANIFEST, Archive, new_archive, opened_archive

LINES = [b'["a", 1]\n', b'["b", 2]\n', b"\n"]


def written(path: Path, lines: list[bytes] = LINES) -> Path:
    with new_archive(path, version="1.2", schema="0001", time=5.5) as archive:
        with archive.part("tables/x.jsonl") as part:
            part.write(lines[:1])
            part.write(lines[1:])
        with archive.part("tables/empty.jsonl"):
            pass
    return path


def read(path: Path) -> Archive:
    with opened_archive(path) as archive:
        archive.check()
    return archive


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return written(tmp_path / "backup.zip")


def test_what_was_written_is_read(whole: Path) -> None:
    with opened_archive(whole) as archive:
        archive.check()
        assert list(archive.lines("tables/x.jsonl")) == LINES
        assert list(archive.lines("tables/empty.jsonl")) == []
        manifest = archive.manifest
    assert (manifest.version, manifest.schema, manifest.time) == ("1.2", "0001", 5.5)
    part = manifest.parts[0]
    assert (part.lines, part.bytes, part.sha256) == (3, 19, sha256(b"".join(LINES)).hexdigest())
    assert stat.S_IMODE(whole.stat().st_mode) == 0o600
    assert list(whole.parent.iterdir()) == [whole]


def test_a_file_that_is_there_is_not_touched(tmp_path: Path) -> None:
    for name in ("file", "link"):
        path = tmp_path / name
        path.write_text("mine") if name == "file" else path.symlink_to("nowhere")
        with pytest.raises(Conflict, match="is there already"), new_archive(path, version="", schema="", time=0):
            pass
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(Conflict, match="No such file or directory"):
        written(tmp_path / "no such directory" / "x")


def written_and_raised(path: Path, error: type[BaseException]) -> None:
    with new_archive(path, version="", schema="", time=0) as archive, archive.part("a") as part:
        part.write(LINES)
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_of_what_was_not_finished(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        written_and_raised(tmp_path / "x", error)
    assert list(tmp_path.iterdir()) == []


@contextmanager
def files_up_to(length: int) -> Iterator[None]:
    """To write more to a file fails as on a full disk, but for the error's number."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [0, 30, 200, 4000])
def test_without_room_nothing_is_left(tmp_path: Path, room: int) -> None:
    lines = [json.dumps(sha256(bytes([n])).hexdigest()).encode() + b"\n" for n in range(250)]
    with files_up_to(room), pytest.raises(Conflict, match=r"cannot write .*x: File too large"):
        written(tmp_path / "x", lines)
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_file_that_was_cut_short_is_refused(whole: Path, data: st.DataObject) -> None:
    content = whole.read_bytes()
    path = whole.with_name("cut")
    path.write_bytes(content[: data.draw(st.integers(2, len(content) - 1))])
    with pytest.raises(BackupUnusable, match=r"is damaged .*was it copied to its end"):
        read(path)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_flipped_bit_is_found_or_means_nothing(whole: Path, data: st.DataObject) -> None:
    """Some bits of a zip say nothing, such as the times of its parts."""
    content = bytearray(whole.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = whole.with_name("flipped")
    path.write_bytes(content)
    with suppress(BackupUnusable), opened_archive(path) as archive:
        archive.check()
        assert list(archive.lines("tables/x.jsonl")) == LINES


def test_a_part_that_was_exchanged_is_found(whole: Path) -> None:
    forged = whole.with_name("forged")
    with ZipFile(whole) as old, ZipFile(forged, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b'"a"', b'"A"'))
    with pytest.raises(BackupUnusable, match=r"x\.jsonl has another sha256"):
        read(forged)


def manifest(**other: object) -> bytes:
    known = {"version": "1", "schema": "0001", "time": 1.0, "parts": [], "format": 1, "kind": "terascope-backup"}
    return json.dumps(known | other).encode()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (manifest(format=2), "newer Terascope"),
        (manifest(kind="something else"), "is damaged .*manifest"),
        (manifest(time="then"), "is damaged .*manifest"),
        (manifest(parts=[{"name": "tables/x.jsonl"}]), "is damaged .*manifest"),
        (manifest(parts=[{"name": "gone", "lines": 1, "bytes": 1, "sha256": ""}]), "is damaged .*gone"),
        (b"[]", "is damaged .*manifest"),
        (b"\xff", "is damaged .*manifest"),
        (b"", "is damaged .*manifest"),
    ],
)
def test_a_manifest_that_is_not_ours(tmp_path: Path, text: bytes, told: str) -> None:
    path = tmp_path / "x"
    with ZipFile(path, "w") as zipped:
        zipped.writestr(MANIFEST, text)
    with pytest.raises(BackupUnusable, match=told):
        read(path)


def test_files_that_are_no_backup(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.zip"
    with ZipFile(foreign, "w") as zipped:
        zipped.writestr("readme", "hello")
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").write_text("")
    for name in ("foreign.zip", "text", "empty"):
        with pytest.raises(BackupUnusable, match="is no backup of Terascope"):
            read(tmp_path / name)
    for name in ("not there", "."):
        with pytest.raises(BackupUnusable, match="cannot read"):
            read(tmp_path / name)
