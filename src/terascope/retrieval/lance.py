"""Collections as LanceDB tables in a directory.

A row has the versions from which on and up to which it is there, `added` and `removed`. Lance has versions of its own,
but each lasts only as a whole with all its files: so a pinned one would keep every one after it, compaction included.
Here a version costs nothing, a search of an old one reads the newest table, and a passage is erased once no version
that is kept has it. Every change of a table is one commit of Lance: whole or not at all, whatever is killed.
"""

import json
import math
import threading
from collections.abc import Iterable, Sequence
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from terascope.core.errors import Conflict, UnsupportedFeature
from terascope.retrieval.contract import Attributes, Found, Passage, Placed

_STILL = 2**62  # `removed` of what is still there
_COLUMNS = ("file_id", "index", "start", "end", "text", "digest", "filename", "attributes")
_TIDY_EVERY = 64  # changes
_STILL_READ = timedelta(minutes=10)
"""How long a search may take that began before a change: so long the table of before is kept."""


class LanceCollection:
    """One table. Opened anew for each search, so that a change beside it does not matter."""

    def __init__(self, database: Any, name: str, width: int) -> None:
        self._database, self._name, self._width = database, name, width
        self._changes = 1  # there may be some of before

    def put(self, placed: Sequence[Placed], version: int) -> None:
        self.remove(sorted({one.passage.file_id for one in placed}), version)
        if placed:
            self._table().add(_rows(placed, version, self._width))
            self._changed()

    def remove(self, file_ids: Sequence[str], version: int) -> None:
        where = f"removed = {_STILL} AND added < {version} AND file_id IN ({_quoted(file_ids)})"
        table = self._table()
        if file_ids and table.count_rows(where):
            table.update(where=where, values={"removed": version})
            self._changed()

    def set_attributes(self, file_id: str, attributes: Attributes, version: int) -> None:
        of_it = f"removed = {_STILL} AND added < {version} AND file_id IN ({_quoted([file_id])})"
        rows = self._table().search().where(of_it).limit(None).to_arrow()
        self.remove([file_id], version)
        if rows.num_rows:
            self._table().add(_with(rows, {"attributes": _json(attributes), "added": version, "removed": _STILL}))
            self._changed()

    def undo(self, after: int) -> None:
        table = self._table()
        if table.count_rows(f"added > {after}"):
            table.delete(f"added > {after}")
        if table.count_rows(f"removed > {after} AND removed < {_STILL}"):
            table.update(where=f"removed > {after} AND removed < {_STILL}", values={"removed": _STILL})

    def search(self, vector: bytes, version: int, limit: int, among: Sequence[str] | None = None) -> list[Found]:
        where = _at(version) + ("" if among is None else f" AND file_id IN ({_quoted(among)})")
        if not limit or (among is not None and not among):
            return []
        query = self._table().search(_numbers(vector)).distance_type("cosine").where(where, prefilter=True)
        query = query.select([*_COLUMNS, "_distance"]).bypass_vector_index()
        asked = limit + 1
        rows = query.limit(asked).to_list()
        while len(rows) == asked and rows[-1]["_distance"] == rows[limit - 1]["_distance"]:
            asked *= 2  # Lance leaves open which of equally near ones it returns
            rows = query.limit(asked).to_list()
        near = [(row, 1.0 - row["_distance"]) for row in rows]
        found = [Found(_passage(row), score) for row, score in near if not math.isnan(score)]  # of a vector of zeros
        return sorted(found, key=lambda one: (-one.score, one.passage.file_id, one.passage.index))[:limit]

    def passages(self, file_id: str, version: int, start: int, limit: int) -> list[Passage]:
        inside = f'"index" >= {start} AND "index" < {start + limit}'
        query = self._table().search().where(f"{_at(version)} AND file_id IN ({_quoted([file_id])}) AND {inside}")
        rows = query.select([*_COLUMNS]).limit(limit).to_list()
        return sorted((_passage(row) for row in rows), key=lambda one: one.index)

    def attributes(self, version: int) -> dict[str, Any]:
        query = self._table().search().where(f'{_at(version)} AND "index" = 0').select(["file_id", "attributes"])
        found = query.limit(None).to_arrow().to_pydict()
        return {one: json.loads(text) for one, text in zip(found["file_id"], found["attributes"], strict=True)}

    def purge(self, before: int) -> None:
        table = self._table()
        if table.count_rows(f"removed <= {before}"):
            table.delete(f"removed <= {before}")
            self._changes += 1
        if self._changes:
            self._tidy()

    def _changed(self) -> None:
        self._changes += 1
        if self._changes >= _TIDY_EVERY:
            self._tidy()

    def _tidy(self) -> None:
        """Put the small pieces together that changes leave, and erase what the table had before."""
        self._table().optimize(cleanup_older_than=_STILL_READ)
        self._changes = 0

    def _table(self) -> Any:
        return self._database.open_table(self._name)


class LanceCollections:
    """Tables below one directory; LanceDB is loaded when the first is opened."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._database: Any = None

    def open(self, name: str, width: int) -> LanceCollection:
        database = self._opened()
        with self._lock:
            if name not in self.names():
                database.create_table(name, schema=_schema(width))
        there = database.open_table(name).schema.field("vector").type.list_size
        if there != width:
            raise Conflict(f"the passages of this store have vectors of {there} numbers, not of {width}")
        return LanceCollection(database, name, width)

    def drop(self, name: str) -> None:
        if name in self.names():
            self._opened().drop_table(name)

    def names(self) -> list[str]:
        """The directory knows it, without LanceDB."""
        return sorted(path.stem for path in self._directory.glob("*.lance"))

    def _opened(self) -> Any:
        with self._lock:
            if self._database is None:
                check_installed()
                import lancedb

                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._database = lancedb.connect(str(self._directory))
            return self._database


def check_installed() -> None:
    """Raise `UnsupportedFeature` that says what to install where LanceDB is not there; loads nothing."""
    if find_spec("lancedb") is None:
        raise UnsupportedFeature(
            "vector stores need LanceDB; the operator has to install `terascope[retrieval]` where the gateway runs"
        )


def _schema(width: int) -> Any:
    import pyarrow as pa

    texts = [(name, pa.string()) for name in ("file_id", "text", "digest", "filename", "attributes")]
    numbers = [(name, pa.int64()) for name in ("index", "start", "end", "added", "removed")]
    return pa.schema([*texts, *numbers, ("vector", pa.list_(pa.float32(), width))])


def _rows(placed: Sequence[Placed], version: int, width: int) -> Any:
    import numpy as np
    import pyarrow as pa

    flat = np.frombuffer(b"".join(one.vector for one in placed), "<f4")
    columns: dict[str, Any] = {
        name: [getattr(one.passage, name) for one in placed] for name in _COLUMNS if name != "attributes"
    }
    columns["attributes"] = [_json(one.passage.attributes) for one in placed]
    columns |= {"added": [version] * len(placed), "removed": [_STILL] * len(placed)}
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), width)
    return pa.table({name: columns[name] for name in _schema(width).names}, schema=_schema(width))


def _with(rows: Any, values: dict[str, Any]) -> Any:
    """The rows with those values in all of them."""
    import pyarrow as pa

    for name, value in values.items():
        place = rows.schema.get_field_index(name)
        column = pa.array([value] * rows.num_rows, rows.schema.field(name).type)
        rows = rows.set_column(place, rows.schema.field(name), column)
    return rows


def _json(attributes: Attributes) -> str:
    return json.dumps(dict(attributes), sort_keys=True)


def _numbers(vector: bytes) -> Any:
    import numpy as np

    return np.frombuffer(vector, "<f4")


def _passage(row: dict[str, Any]) -> Passage:
    shown = {name: row[name] for name in _COLUMNS}
    return Passage(**shown | {"attributes": json.loads(row["attributes"])})


def _at(version: int) -> str:
    return f"added <= {version} AND removed > {version}"


def _quoted(names: Iterable[str]) -> str:
    doubled = (name.replace("'", "''") for name in names)
    return ", ".join(f"'{name}'" for name in doubled)
