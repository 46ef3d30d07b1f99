"""What can be asked about files; their content is read with `Client.content`."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from terascope.client.ask import Ask, Noun, Sender, Upload, call
from terascope.core.errors import BadRequest, Conflict, GatewayUnreachable
from terascope.protocol.files import FileDeleted, FileObject, FileObjects

_FILES = "/v1/files"


class Files(Noun[Sender]):
    """The files of projects. Without `project` it is the key's own."""

    @call
    def add(
        self, path: str | Path, purpose: str = "user_data", *, lasts_s: int | None = None, project: str = ""
    ) -> Ask[FileObject]:
        """Upload a file of this machine, for `lasts_s` seconds (an hour to 30 days) or for ever.

        It is read while it is sent. Raises `BadRequest` when it cannot be read.
        """
        fields = {"purpose": purpose}
        if lasts_s is not None:
            fields |= {"expires_after[anchor]": "created_at", "expires_after[seconds]": str(lasts_s)}
        upload = Upload(Path(path), Path(path).name, fields)
        return Ask("POST", _FILES, FileObject, patient=True, upload=upload, headers=_of(project))

    @call
    def get(self, file_id: str) -> Ask[FileObject]:
        """Return one file, without its content."""
        return Ask("GET", file_path(file_id), FileObject)

    @call
    def list(
        self, *, limit: int = 100, purpose: str = "", after: str = "", order: str = "desc", project: str = ""
    ) -> Ask[FileObjects]:
        """Return up to `limit` files, newest first or in `order` `asc`; of one purpose, past the id `after`."""
        asked: dict[str, str | int] = {"limit": limit, "purpose": purpose, "after": after, "order": order}
        query = {name: value for name, value in asked.items() if value != ""}
        return Ask("GET", _FILES, FileObjects, query=query, headers=_of(project))

    @call
    def remove(self, file_id: str) -> Ask[FileDeleted]:
        """Delete a file and its content."""
        return Ask("DELETE", file_path(file_id), FileDeleted)


def file_path(file_id: str, *more: str) -> str:
    """The path of a file, or of something below it."""
    return "/".join([_FILES, quote(file_id, safe=""), *more])


def range_header(start: int, stop: int | None) -> dict[str, str]:
    """What asks for the bytes from `start` to before `stop`; nothing for the whole."""
    if stop is not None and stop <= start:
        raise BadRequest("`stop` must be after `start`", param="stop")
    return {} if not start and stop is None else {"range": f"bytes={start}-{'' if stop is None else stop - 1}"}


@contextmanager
def opened(upload: Upload | None) -> Iterator[BinaryIO | None]:
    """The file that goes with a request. Raises `BadRequest` when it cannot be read."""
    if upload is None:
        yield None
        return
    try:
        file = upload.path.open("rb")
    except OSError as error:
        raise BadRequest(f"cannot read {upload.path}: {error.strerror}", param="file") from None
    with file:
        yield file


class Saving:
    """Writes a content beside `path`, and makes it the file there once it is whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._beside = path.with_name(f".{path.name}.{os.getpid()}")
        self._sum = hashlib.sha256()

    @contextmanager
    def written(self, etag: str) -> Iterator["Saving"]:
        """Take content until the block ends, whose sha256 `etag` names; on any raise nothing of it is left.

        Raises `Conflict` when it cannot be written, `GatewayUnreachable` when what came is not what was kept.
        """
        try:
            with self._beside.open("wb") as self._file:
                yield self
            if etag.strip('"') != self._sum.hexdigest():
                raise GatewayUnreachable("the content did not come as it was kept; try again")
            self._beside.replace(self._path)
        except OSError as error:
            raise Conflict(f"cannot write {self._path}: {error.strerror}") from error
        finally:
            self._beside.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        """Append `data`."""
        self._file.write(data)
        self._sum.update(data)


def _of(project: str) -> Mapping[str, str]:
    return {"x-terascope-project": project} if project else {}
