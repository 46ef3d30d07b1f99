"""Listing and hashing a model directory."""

import asyncio
import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from terascope.catalog.files import digest_of, hash_files, list_files
from terascope.catalog.hashes import HashCache
from terascope.catalog.threads import Stopped, Work
from terascope.core.errors import BadRequest
from terascope.testing.checkpoints import write_files
from terascope.testing.clock import ManualClock


def test_lists_files_and_skips_junk(tmp_path: Path) -> None:
    names = [
        "config.json",
        "sub/deep/x.bin",
        ".git/config",
        ".gitattributes",
        ".cache/huggingface/x",
        "__pycache__/a.pyc",
    ]
    write_files(tmp_path, dict.fromkeys(names, b"x"))
    os.mkfifo(tmp_path / "pipe")
    assert list_files(tmp_path) == ["config.json", "sub/deep/x.bin"]


def test_follows_links_to_files_and_folders_but_not_in_circles(tmp_path: Path) -> None:
    write_files(tmp_path, {"blobs/1": b"one", "model/a.txt": b"a"})
    (tmp_path / "model" / "linked").symlink_to("../blobs/1")
    (tmp_path / "model" / "folder").symlink_to("../blobs")
    (tmp_path / "model" / "circle").symlink_to(".")
    assert list_files(tmp_path / "model") == ["a.txt", "folder/1", "linked"]


def test_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to("../blobs/gone")
    with pytest.raises(BadRequest, match="link to nothing"):
        list_files(tmp_path)


@pytest.mark.parametrize("name", [b"new\nline", b"not-utf8-\xff"])
def test_a_name_that_cannot_be_written_down_is_refused(tmp_path: Path, name: bytes) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()
    with pytest.raises(BadRequest, match="cannot be written down"):
        list_files(tmp_path)


async def test_the_digest_is_what_sha256sum_gives(tmp_path: Path, work: Work) -> None:
    write_files(tmp_path, {"b.bin": b"\0" * 3_000_000, "a/c.json": b"{}", "empty": b""})
    files = hash_files(tmp_path, work)
    shell = "sha256sum $(find . -type f | sed 's|^./||') | LC_ALL=C sort | sha256sum"
    done = await asyncio.to_thread(subprocess.check_output, ["bash", "-c", shell], cwd=tmp_path, text=True)
    assert digest_of(files) == done.split()[0]
    assert [(file.path, file.size) for file in files] == [("a/c.json", 2), ("b.bin", 3_000_000), ("empty", 0)]


async def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, work: Work) -> None:
    (tmp_path / "weights").symlink_to("/proc/self/mem")  # a regular file that gives an I/O error, to root too
    with pytest.raises(BadRequest, match="cannot be read"):
        hash_files(tmp_path, work)


async def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    path = write_files(tmp_path, {"x": b"x" * 10}) / "x"

    class Disturbed(Work):
        def check(self) -> None:
            path.write_bytes(b"y" * 20)

    with pytest.raises(BadRequest, match="changed while it was read"):
        hash_files(tmp_path, Disturbed())


async def test_hashing_can_be_stopped(tmp_path: Path, work: Work) -> None:
    write_files(tmp_path, {"x": b"x"})
    work.stop()
    with pytest.raises(Stopped):
        hash_files(tmp_path, work)


class TestHashCache:
    """Remembers sums; forgets them when a file may have changed."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        return write_files(tmp_path, {"model/weights": b"first"}) / "model" / "weights"

    def _clock(self, file: Path, later: float = 10.0) -> ManualClock:
        return ManualClock(file.stat().st_ctime + later)

    def test_remembers_over_restarts(self, tmp_path: Path, file: Path) -> None:
        cache = HashCache(tmp_path / "hashes.json", self._clock(file))
        cache.put(file, file.stat(), "a" * 64)
        cache.save()
        again = HashCache(tmp_path / "hashes.json", self._clock(file))
        assert again.get(file, file.stat()) == "a" * 64

    async def test_a_known_file_is_not_read_again(self, tmp_path: Path, file: Path, work: Work) -> None:
        cache = HashCache(tmp_path / "hashes.json", self._clock(file))
        first = hash_files(file.parent, work, cache)
        cache.save()
        assert first[0].sha256 == hashlib.sha256(b"first").hexdigest()
        work.stop()  # any reading would raise
        assert hash_files(file.parent, work, cache) == first

    def test_forgets_a_file_that_changed(self, tmp_path: Path, file: Path) -> None:
        cache = HashCache(tmp_path / "hashes.json", self._clock(file))
        cache.put(file, file.stat(), "a" * 64)
        cache.save()
        before = file.stat()
        file.write_bytes(b"other")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # the same size and time of change
        assert cache.get(file, file.stat()) is None

    def test_a_file_that_changed_just_now_is_not_remembered(self, tmp_path: Path, file: Path) -> None:
        cache = HashCache(tmp_path / "hashes.json", self._clock(file, later=1.0))
        cache.put(file, file.stat(), "a" * 64)
        cache.save()
        assert cache.get(file, file.stat()) is None

    def test_two_processes_keep_what_both_know(self, tmp_path: Path, file: Path) -> None:
        other = write_files(tmp_path, {"other": b"x"}) / "other"
        one, two = (HashCache(tmp_path / "hashes.json", self._clock(other)) for _ in range(2))
        one.put(file, file.stat(), "a" * 64)
        two.put(other, other.stat(), "b" * 64)
        one.save()
        two.save()
        known = HashCache(tmp_path / "hashes.json", self._clock(other))
        assert (known.get(file, file.stat()), known.get(other, other.stat())) == ("a" * 64, "b" * 64)

    @pytest.mark.parametrize("damage", [b"", b"not json", b"[]", b'{"x": 1}'])
    def test_a_damaged_cache_is_an_empty_one(self, tmp_path: Path, file: Path, damage: bytes) -> None:
        (tmp_path / "hashes.json").write_bytes(damage)
        assert HashCache(tmp_path / "hashes.json", self._clock(file)).get(file, file.stat()) is None

    def test_a_place_that_cannot_be_written_is_let_be(self, file: Path) -> None:
        cache = HashCache(file / "hashes.json", self._clock(file))  # below a file
        cache.put(file, file.stat(), "a" * 64)
        cache.save()
        assert cache.get(file, file.stat()) == "a" * 64
