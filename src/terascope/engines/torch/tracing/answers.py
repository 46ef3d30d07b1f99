"""How a call's results leave: as JSON, as server-sent events, as a safetensors file of known length."""

import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import torch
from aiohttp import web

from terascope.core.errors import ServiceError
from terascope.engines.torch.tracing.call import RowResult
from terascope.engines.torch.tracing.tensors import array_of, torch_dtype
from terascope.engines.worker.text import TokenTable
from terascope.internals.arrays import Array, DType
from terascope.internals.packing import Layout, Spec, encode
from terascope.internals.plan import TracePlan
from terascope.protocol.errors import error_body
from terascope.protocol.sse import DONE, event

ERRORS = "errors"
"""The last array of a file that was sent while it was made: JSON, filled up with spaces, of the rows that failed."""
_ERRORS_BYTES = 4096
_PIECE = 1 << 20  # bytes written at once
Headers = dict[str, str]


@dataclass(frozen=True, slots=True)
class About:
    """What all forms of an answer say."""

    request_id: str
    model: str
    table: TokenTable
    usage: Mapping[str, int]

    def row(self, result: RowResult, *, arrays: bool) -> dict[str, Any]:
        """Return a row's part of the answer."""
        told: dict[str, Any] = {
            "name": result.name,
            "tokens": list(result.tokens),
            "pieces": [self.table.name_bytes(token).decode(errors="replace") for token in result.tokens],
            "text": result.text,
            "output_tokens": result.output_tokens,
            "finish_reason": result.finish,
        }
        if result.error is not None:
            told["error"] = self.error(result.error)
        elif arrays:
            told["arrays"] = {one.spec.name: encode(one.array) | {"axes": one.spec.axes} for one in result.results}
        return told

    def error(self, error: ServiceError) -> Any:
        """Return an error as it stands in an answer."""
        return orjson.loads(error_body(error, self.request_id))["error"]

    def whole(self, **more: object) -> dict[str, Any]:
        """Return what is not of one row."""
        return {"id": self.request_id, "object": "trace", "created": int(time.time()), "model": self.model, **more}

    def used(self, results: Sequence[RowResult]) -> dict[str, int]:
        """Return what the call took."""
        return self.spent(*_taken(results))

    def spent(self, made: int, size: int) -> dict[str, int]:
        """Return what the call took when it has made so many tokens, and so many bytes of results."""
        prompt = self.usage["prompt_tokens"]
        return {**self.usage, "completion_tokens": made, "total_tokens": prompt + made, "captured_bytes": size}


def as_json(about: About, plan: TracePlan, results: Sequence[RowResult]) -> bytes:
    """Return a whole answer. Rows are in the order of the request."""
    rows = [about.row(one, arrays=True) for one in _in_order(plan, results)]
    return orjson.dumps(about.whole(rows=rows, usage=about.used(results)))


def as_file(about: About, plan: TracePlan, results: Sequence[RowResult]) -> tuple[Layout, list[Array]]:
    """Return a safetensors file: its layout, and its arrays in order. Rows that failed have none, but their error."""
    ordered = _in_order(plan, results)
    rows = [about.row(one, arrays=False) for one in ordered]
    specs = [_of_row(one.name, made.spec) for one in ordered for made in one.results]
    layout = Layout.of(specs, _metadata(about, rows, about.used(results)))
    return layout, [made.array for one in ordered for made in one.results]


async def stream_events(
    request: web.Request, headers: Headers, about: About, results: AsyncIterator[RowResult]
) -> web.StreamResponse:
    """Send each row's result as an event when it is there.

    The row is a part of its event (`TraceRowEvent`): an `error` at the top would be one of the whole stream. Each event
    has the usage up to it, so that it is known of a stream that was left, too.
    """
    response = web.StreamResponse(headers=headers | {"Cache-Control": "no-cache"})
    response.content_type = "text/event-stream"
    await response.prepare(request)
    made = size = 0
    async for one in results:
        made, size = (sum(pair) for pair in zip((made, size), _taken([one]), strict=True))
        told = about.whole(object="trace.row", row=about.row(one, arrays=True), usage=about.spent(made, size))
        await response.write(event(orjson.dumps(told)))
    await response.write(event(orjson.dumps(about.whole(usage=about.spent(made, size)))) + DONE)
    await response.write_eof()
    return response


async def send_file(
    request: web.Request, headers: Headers, about: About, layout: Layout, arrays: Sequence[Array]
) -> web.StreamResponse:
    """Send a file that is there."""
    response = await _begin(request, headers, about, layout)
    for piece in layout.stream(arrays):
        await _write(response, piece)
    await response.write_eof()
    return response


async def stream_file(
    request: web.Request,
    headers: Headers,
    about: About,
    rows: Mapping[str, Sequence[Spec]],
    told: Sequence[RowResult],
    results: AsyncIterator[RowResult],
) -> web.StreamResponse:
    """Send a file whose arrays are made meanwhile. `rows` are what each row will give, `told` the rows as they are now.

    Rows that fail are filled with NaN, and the array `errors` at the end says why.
    """
    specs = [_of_row(name, spec) for name, own in rows.items() for spec in own]
    errors = Spec(ERRORS, DType.U8, (_ERRORS_BYTES,))
    metadata = _metadata(about, [about.row(one, arrays=False) for one in told], about.usage)
    layout = Layout.of([*specs, errors], metadata)
    response = await _begin(request, headers, about, layout)
    await response.write(layout.head)
    failed: dict[str, str] = {}
    async for one in results:
        if one.error is not None:
            failed[one.name] = one.error.message
        arrays = [[made.array.data] for made in one.results] if one.error is None else map(_missing, rows[one.name])
        for pieces in arrays:
            for piece in pieces:
                await _write(response, piece)
    await response.write(_failures(failed))
    await response.write_eof()
    return response


async def _begin(request: web.Request, headers: Headers, about: About, layout: Layout) -> web.StreamResponse:
    response = web.StreamResponse(headers=headers | {"X-Terascope-Usage": orjson.dumps(about.usage).decode()})
    response.content_type = "application/octet-stream"
    response.content_length = layout.length
    await response.prepare(request)
    return response


async def _write(response: web.StreamResponse, data: bytes | memoryview) -> None:
    whole = memoryview(data).cast("B")
    for start in range(0, len(whole), _PIECE):
        await response.write(whole[start : start + _PIECE])


def _taken(results: Sequence[RowResult]) -> tuple[int, int]:
    """Tokens that were made, and bytes of results."""
    size = sum(made.spec.nbytes for one in results for made in one.results)
    return sum(len(one.output_tokens) for one in results), size


def _metadata(about: About, rows: Sequence[Mapping[str, Any]], usage: Mapping[str, int]) -> dict[str, str]:
    parts = about.whole() | {"rows": rows, "usage": usage}
    return {name: one if isinstance(one, str) else orjson.dumps(one).decode() for name, one in parts.items()}


def _of_row(name: str, spec: Spec) -> Spec:
    return Spec(f"{name}/{spec.name}", spec.dtype, spec.shape, spec.axes)


def _missing(spec: Spec) -> Iterator[bytes | memoryview]:
    """As many bytes as the array would have: NaN, or 0 where there is no NaN."""
    value = float("nan") if spec.dtype.is_float else 0
    piece = array_of(torch.full((_PIECE // spec.dtype.size,), value, dtype=torch_dtype(spec.dtype)), spec.dtype)
    left = spec.nbytes
    while left > 0:
        yield memoryview(piece.data)[: min(left, piece.nbytes)]
        left -= piece.nbytes


def _failures(failed: Mapping[str, str]) -> bytes:
    """The errors as JSON of a fixed length; of those that are too many, an empty name has the number."""
    kept = dict(failed)
    while len(text := orjson.dumps(kept)) > _ERRORS_BYTES:
        kept.pop("", None)
        kept.popitem()
        kept[""] = f"{len(failed) - len(kept)} more prompts failed"
    return text.ljust(_ERRORS_BYTES)


def _in_order(plan: TracePlan, results: Sequence[RowResult]) -> list[RowResult]:
    named = {one.name: one for one in results}
    return [named[row.name] for row in plan.rows]
