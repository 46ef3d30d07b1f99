"""Reads the answers of `POST /v1/traces`: a file of tensors as a whole, server-sent events prompt by prompt."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import orjson
from pydantic import TypeAdapter, ValidationError

from terascope.client.errors import error_of
from terascope.client.flow import About
from terascope.client.tensors import NamedArray, TensorReader
from terascope.client.trace_results import Trace, TracedPrompt, traced
from terascope.core.errors import BadRequest, EngineError, GatewayUnreachable, ServiceError
from terascope.internals.arrays import Array
from terascope.internals.packing import Spec, decode
from terascope.protocol.sse import event_data, split_events
from terascope.protocol.trace_results import ArrayResult, TraceRow, TraceRowEvent

ERRORS = "errors"
"""The array of a file that says which prompts failed while it was sent: JSON."""
_ROWS = TypeAdapter(list[TraceRow])
_USAGE = TypeAdapter(dict[str, int])
_FAILURES = TypeAdapter(dict[str, str])
_ROW_EVENT = TypeAdapter(TraceRowEvent)
T = TypeVar("T")


class TraceFile:
    """Reads a file of tensors: its arrays one by one, called `PROMPT/NAME`. `Reader`."""

    def __init__(self) -> None:
        self._tensors = TensorReader()

    @property
    def about(self) -> About:
        """What the file's metadata say."""
        told = self._tensors.metadata
        usage = _valid(_USAGE, told.get("usage", "{}"))
        return About(told.get("id", ""), told.get("model", ""), usage)

    def feed(self, data: bytes) -> Iterator[NamedArray]:
        yield from self._tensors.feed(data)

    def end(self) -> None:
        self._tensors.end()

    def trace(self, arrays: Sequence[NamedArray]) -> Trace:
        """The result that all of the file's arrays are. Raises `EngineError` for a file without prompts."""
        rows = _valid(_ROWS, self._tensors.metadata.get("rows", ""))
        found: dict[str, list[NamedArray]] = {row.name: [] for row in rows}
        failed: dict[str, str] = {}
        for spec, one in arrays:
            prompt, _, name = spec.name.partition("/")
            if spec.name == ERRORS:
                failed = _valid(_FAILURES, bytes(one.data))
            elif prompt in found:
                found[prompt].append((Spec(name, spec.dtype, spec.shape, spec.axes), one))
        return Trace(
            tuple(traced(row, found[row.name], _error(row, found[row.name], failed)) for row in rows), self.about
        )


class TraceEvents:
    """Reads server-sent events: a prompt's result from each. `Reader`."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._about = About()
        self._done = False

    @property
    def about(self) -> About:
        """What the events have said so far; the usage comes with the last."""
        return self._about

    def feed(self, data: bytes) -> Iterator[TracedPrompt]:
        self._rest += data
        if not data.endswith(b"\n") and b"\n\n" not in self._rest[-len(data) - 1 :]:
            return  # a long event in many pieces is looked at once, when its end is there
        for one in split_events(bytes(self._rest)):
            del self._rest[: len(one)]
            payload = event_data(one)
            if payload == b"[DONE]":
                self._done = True
            elif payload:
                yield from self._read(payload)

    def end(self) -> None:
        if not self._done:
            raise GatewayUnreachable(
                "the trace broke off before its end; prompts that did not come are missing, ask again"
            )

    def _read(self, payload: bytes) -> Iterator[TracedPrompt]:
        event = _object(payload)
        if error := event.get("error"):
            raise error_of(error if isinstance(error, dict) else {"message": str(error)})
        usage = _valid(_USAGE, orjson.dumps(event.get("usage") or self._about.usage))
        self._about = About(str(event.get("id", "")), str(event.get("model", "")), usage)
        if "row" in event:
            row = _valid(_ROW_EVENT, payload).row
            yield traced(row, [_decoded(name, one) for name, one in row.arrays.items()])


def _decoded(name: str, told: ArrayResult) -> NamedArray:
    try:
        one = decode(told.dtype, told.shape, told.data)
    except BadRequest as error:
        raise _wrong(str(error)) from None
    axes = tuple(told.axes) if len(told.axes) == len(one.shape) else ()
    return Spec(name, one.dtype, one.shape, axes), one


def _error(row: TraceRow, arrays: Sequence[NamedArray], failed: Mapping[str, str]) -> ServiceError | None:
    """Why a prompt failed while the file was sent. Of many that failed not all are named; those are NaN throughout."""
    if row.name in failed:
        return EngineError(failed[row.name])
    if "" in failed and any(spec.dtype.is_float for spec, _ in arrays) and all(_is_nan(one) for _, one in arrays):
        return EngineError(f"this prompt failed; {failed['']}, and the reasons of only some are told")
    return None


def _is_nan(one: Array) -> bool:
    return not one.dtype.is_float or all(math.isnan(number) for number in one.numbers())


def _object(payload: bytes) -> dict[str, object]:
    try:
        event = json.loads(payload)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise _wrong("an event is no JSON object")
    return event


def _valid(kind: TypeAdapter[T], text: str | bytes) -> T:
    try:
        return kind.validate_json(text)
    except ValidationError as error:
        raise _wrong(str(error)) from None


def _wrong(detail: str) -> EngineError:
    return EngineError("the engine sent an answer to a trace that is wrong; ask again", detail=detail)
