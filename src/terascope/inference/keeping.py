"""Results by reference: an engine's safetensors goes into the files of the project, and the client is told of it."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from terascope.core.errors import BadRequest, EngineError
from terascope.files.files import Draft, Files
from terascope.inference.refusals import refusal
from terascope.inference.run import Run
from terascope.internals.packing import LENGTH, Spec, read_header
from terascope.protocol.files import FileObject

PURPOSE = "trace_output"
_MOST_HEAD = 32 << 20  # bytes of a file's header that are told again beside its id
_ERRORS = "errors"
"""The last array of a file that was sent while it was made: the rows that failed, as JSON."""
_MOST_ERRORS = 1 << 16


@dataclass(frozen=True, slots=True)
class Head:
    """What the header of a file says."""

    specs: tuple[Spec, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(spec.nbytes for spec in self.specs)

    def axes(self) -> dict[str, list[str]]:
        """What the axes of arrays are called, by the arrays' names."""
        found = orjson.loads(self.metadata.get("axes", "{}"))
        return found if isinstance(found, dict) else {}


class Watched:
    """Looks at a safetensors file that passes: keeps its header, and its end, where failures are told."""

    def __init__(self) -> None:
        self._start = bytearray()
        self._end = b""
        self._size = 0

    async def watch(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield `chunks` as they are."""
        async for chunk in chunks:
            if len(self._start) < self._wanted:
                self._start += chunk
            self._end = (self._end + chunk)[-_MOST_ERRORS:]
            self._size += len(chunk)
            yield chunk

    def head(self) -> Head:
        """The header; empty when it is too long to be told again. Raises `EngineError` for what is no such file."""
        length = LENGTH + int.from_bytes(self._start[:LENGTH], "little")
        if _MOST_HEAD < length <= self._size:
            return Head()
        try:
            head = Head(*read_header(bytes(self._start[LENGTH:length])))
        except BadRequest as error:
            raise EngineError("the engine's answer is no safetensors file", detail=error.message) from None
        if self._size != length + head.nbytes:
            raise EngineError("the engine's file is not whole", detail=f"{self._size} bytes came")
        return head

    def failures(self, head: Head) -> dict[str, str]:
        """Why rows failed, by name, where that was known only at the end of the file."""
        last = head.specs[-1] if head.specs else None
        if last is None or last.name != _ERRORS or last.nbytes > _MOST_ERRORS:
            return {}
        found = orjson.loads(self._end[-last.nbytes :])
        return found if isinstance(found, dict) else {}

    @property
    def _wanted(self) -> int:
        """Bytes of the header with its length; no more are kept than may be told."""
        if len(self._start) < LENGTH:
            return LENGTH
        return min(LENGTH + int.from_bytes(self._start[:LENGTH], "little"), _MOST_HEAD + 1)


class Keeping:
    """Keeps one answer."""

    def __init__(self, files: Files, run: Run, model: str) -> None:
        self._files, self._run, self._model = files, run, model

    async def keep(self, chunks: AsyncIterator[bytes]) -> bytes:
        """Keep the file that `chunks` are as one of the project that pays; return the JSON that tells of it.

        Durable on return; on any raise and on cancellation nothing is left. Raises the error of the rows when all
        failed, `EngineError` for what is no file, and what `Draft.fill` and `Draft.keep` raise.
        """
        principal, grant = self._run.principal, self._run.grant
        project = grant.project if grant else principal.project
        async with self._files.draft(project, principal.user_id, principal.key_id) as draft:
            watched = Watched()
            await draft.fill(watched.watch(chunks))
            head = watched.head()
            rows = _rows(head.metadata.get("rows", "[]"), watched.failures(head))
            _raise_if_all_failed(rows)
            return orjson.dumps(await self._told(draft, head, rows))

    async def _told(self, draft: Draft, head: Head, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        row = await draft.keep(PURPOSE, f"{self._run.id}.safetensors", self._files.results_expire())
        axes = head.axes()
        arrays = {
            one.name: {"dtype": one.dtype, "shape": one.shape, "axes": axes.get(one.name, [])}
            for one in head.specs
            if one.name != _ERRORS
        }
        about = FileObject(
            id=row.id, bytes=row.bytes, created_at=int(row.created), filename=row.filename, purpose=row.purpose,
            expires_at=None if row.expires is None else int(row.expires), sha256=row.sha256, project=row.project,
        )  # fmt: skip
        return {
            "id": self._run.id, "object": "trace", "created": int(time.time()), "model": self._model, "rows": rows,
            "usage": self._run.usage, "file": about.model_dump() | {"arrays": arrays},
        }  # fmt: skip


def _rows(text: str, failures: Mapping[str, str]) -> list[dict[str, Any]]:
    """The rows of the answer, with what became known of them at the end."""
    found: list[dict[str, Any]] = orjson.loads(text)
    for row in found:
        if (why := failures.get(row["name"])) is not None:
            row["error"] = {"message": why, "type": EngineError.type, "code": EngineError.code, "param": None}
    return found


def _raise_if_all_failed(rows: Sequence[Mapping[str, Any]]) -> None:
    errors = [row["error"] for row in rows if row.get("error")]
    if errors and len(errors) == len(rows):
        raise refusal(EngineError.status, errors[0])
