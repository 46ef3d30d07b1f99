"""A safetensors answer that becomes a file: whole or not at all, told with what is in it."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from terascope.access.principal import Grant, Principal
from terascope.core.config import FilesConfig
from terascope.core.errors import EngineError, EngineLost, ServiceError
from terascope.core.models import Mode
from terascope.files.blobs import Blobs
from terascope.files.directory import DirectoryShelf
from terascope.files.files import Files
from terascope.inference.keeping import PURPOSE, Keeping
from terascope.inference.run import Run
from terascope.internals.arrays import DType
from terascope.internals.packing import Layout, Spec
from terascope.store.database import Database
from terascope.testing.clock import ManualClock
from terascope.testing.databases import new_sqlite

ADA = Principal("key_1", "ada", frozenset(), "ada")
ERRORS = Spec("errors", DType.U8, (4096,))


@dataclass
class Kept:
    files: Files
    directory: Path
    run: Run

    async def keep(self, *pieces: bytes) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(await Keeping(self.files, self.run, "m@1").keep(_chunks(*pieces)))
        return found

    @property
    def there(self) -> list[str]:
        return [path.name for path in self.directory.iterdir()]


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Kept]:
    clock = ManualClock()
    database = await Database.open(new_sqlite(tmp_path / "test.db"))
    blobs = Blobs(DirectoryShelf(tmp_path / "files"))
    run = Run("req_1", "traces", ADA, clock)
    run.grant = Grant(ADA, Mode.INTERNALS, "m@1", "local")
    yield Kept(Files(database, blobs, FilesConfig(), clock), tmp_path / "files", run)
    await blobs.aclose()
    await database.aclose()


async def _chunks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def file(rows: Sequence[dict[str, Any]], specs: Sequence[Spec], failures: dict[str, str] | None = None) -> bytes:
    """What an engine sends: arrays of zeros, and at the end the failures that it learned of on the way."""
    end = [] if failures is None else [ERRORS]
    head = Layout.of([*specs, *end], {"rows": orjson.dumps(rows).decode()}).head
    data = head + b"".join(bytes(spec.nbytes) for spec in specs)
    return data if failures is None else data + orjson.dumps(failures).ljust(4096)


ROWS = [{"name": "0", "tokens": [1, 2]}, {"name": "1", "tokens": [3]}]
SPECS = [Spec("0/a", DType.F32, (2, 3), ("token", "channel")), Spec("1/a", DType.BF16, (1, 3), ("token", "channel"))]


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("failures", [None, {}])
async def test_what_is_told_of_it(kept: Kept, size: int, failures: dict[str, str] | None) -> None:
    data = file(ROWS, SPECS, failures)
    told = await kept.keep(*(data[start : start + size] for start in range(0, len(data), size)))
    assert (told["id"], told["object"], told["model"], told["rows"]) == ("req_1", "trace", "m@1", ROWS)
    about = told["file"]
    assert (about["bytes"], about["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert about["arrays"] == {
        "0/a": {"dtype": "F32", "shape": [2, 3], "axes": ["token", "channel"]},
        "1/a": {"dtype": "BF16", "shape": [1, 3], "axes": ["token", "channel"]},
    }
    row = await kept.files.get(about["id"])
    assert (row.project, row.user_id, row.purpose, row.filename) == ("local", "ada", PURPOSE, "req_1.safetensors")
    assert row.expires == row.created + 30 * 86_400
    content = b"".join([piece async for piece in await kept.files.content(row, 0, row.bytes)])
    assert content == data


async def test_a_row_that_fails_is_told_beside_the_others(kept: Kept) -> None:
    told = await kept.keep(file(ROWS, SPECS, {"1": "it became infinite"}))
    assert [row.get("error", {}).get("message") for row in told["rows"]] == [None, "it became infinite"]
    assert len(kept.there) == 1


@pytest.mark.parametrize("early", [True, False])
async def test_when_every_row_fails_nothing_is_kept(kept: Kept, early: bool) -> None:
    error = {"message": "it became infinite", "type": "server_error", "code": "engine_nan", "param": None}
    rows = [row | {"error": error} for row in ROWS] if early else ROWS
    failures = None if early else {"0": error["message"] or "", "1": error["message"] or ""}
    with pytest.raises(ServiceError, match="infinite"):
        await kept.keep(file(rows, [] if early else SPECS, failures))
    assert kept.there == []


@pytest.mark.parametrize(
    "data", [b"", b"1234", b"\xff" * 8, (9).to_bytes(8, "little") + b"{nothing}", file(ROWS, SPECS)[:-1]]
)
async def test_what_is_no_file_is_not_kept(kept: Kept, data: bytes) -> None:
    with pytest.raises(EngineError):
        await kept.keep(data)
    assert kept.there == []


async def test_an_engine_that_is_lost_in_the_middle(kept: Kept) -> None:
    async def lost() -> AsyncIterator[bytes]:
        yield file(ROWS, SPECS)[:-4]
        raise EngineLost("gone")

    with pytest.raises(EngineLost):
        await Keeping(kept.files, kept.run, "m@1").keep(lost())
    assert kept.there == []


async def test_a_header_that_is_too_long_is_not_told_again(kept: Kept) -> None:
    rows = [{"name": "0", "pieces": "x" * (33 << 20)}]
    data = file(rows, SPECS)
    told = await kept.keep(*(data[start : start + (1 << 20)] for start in range(0, len(data), 1 << 20)))
    assert (told["rows"], told["file"]["arrays"], told["file"]["bytes"]) == ([], {}, len(data))
