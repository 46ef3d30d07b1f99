"""The fifth hop: what the engine says reaches the client byte for byte, or an explicit error does."""

import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from terascope.access.accounts import NO_METER, Meter
from terascope.core.errors import EngineError, EngineLost, ServiceError, UnsupportedFeature
from terascope.core.models import ModelVersion
from terascope.core.projects import PRIORITIES, Qos
from terascope.engines.adapter_files import AdapterFiles
from terascope.engines.contract import EngineAnswer, EngineCall, Headers
from terascope.files.files import Files
from terascope.fleet.replica import Replica
from terascope.inference.annotating import annotated, annotation_event
from terascope.inference.keeping import Keeping
from terascope.inference.patience import Beat, Patience
from terascope.inference.place import Place
from terascope.inference.quotes import priced
from terascope.inference.refusals import refusal
from terascope.inference.reply import Header, Reply
from terascope.inference.run import Run
from terascope.internals.lora import CONFIG, WEIGHTS
from terascope.protocol.errors import engine_error, error_in, text_of
from terascope.protocol.request import ModelRequest
from terascope.protocol.sse import StreamReader, comment, renaming

_MOST_ERROR_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Ending:
    """What may go out only when the record is durable: the last part, and the head if nothing went out before."""

    data: bytes
    head: list[Header] | None = None


class Passing:
    """Passes one request to engines and the answer to the client."""

    def __init__(
        self,
        run: Run,
        request: ModelRequest,
        version: ModelVersion,
        reply: Reply,
        place: Place | None = None,
        *,
        scope: str,
        qos: Qos = Qos.INTERACTIVE,
        meter: Meter | None = None,
        limits: Mapping[str, int] | None = None,
        files: Files | None = None,
    ) -> None:
        """`place` is where the request waits; `scope` says with whom computed prefixes are shared, as in `EngineCall`;
        `qos` how urgent it is to the engine, too; `meter` what is paid for; `limits` what a trace may take at most;
        `files` where results by reference go.
        """
        self.run = run
        self.answer_began = False
        """True once a part of the engine's answer has gone to the client; heartbeats do not count."""
        self._request = request
        self._version = version
        self._reply = reply
        self._scope = scope
        self._priority = PRIORITIES[qos]
        self._meter = meter or NO_METER
        self._plan_limits = limits or {}
        self._place = place
        self._files = files
        self._limits = [(name.encode(), value.encode()) for name, value in run.admitted.headers.items()]

    @property
    def beat(self) -> Beat | None:
        """What tells the client that its request lives; None where nothing may be told before the answer."""
        return self._heartbeat if self._request.stream else None

    async def generate(self, replica: Replica, patience: Patience) -> Ending:
        """Have `replica` answer; return what is left to send.

        Raises `EngineUnreachable`, `EngineLost`, and for an engine's own error an error that says the same.
        """
        self.run.sent_to(replica)
        body = self._request.body_for(replica.served_name)
        limits = self._plan_limits if self._request.endpoint == "traces" else {}
        call = EngineCall(
            self.run.id, self._request.endpoint, body, self._scope, self._priority, limits, _adapter(self._version)
        )
        patience.engine_works()
        answer = await replica.engine.generate(call)
        try:
            return await self._pass(answer, replica, patience)
        finally:
            await answer.aclose()

    async def _pass(self, answer: EngineAnswer, replica: Replica, patience: Patience) -> Ending:
        self.run.answered(answer.headers.get("x-terascope-applied", ""))
        if not 200 <= answer.status < 300:
            raise await _refusal(answer)
        if answer.headers.get("content-type", "").lower().startswith("text/event-stream"):
            return await self._stream(answer, replica, patience)
        if answer.headers.get("content-type", "").lower().startswith("application/octet-stream"):
            return await (self._kept(answer) if self._request.by_reference else self._file(answer))
        return await self._whole(answer, replica)

    async def _stream(self, answer: EngineAnswer, replica: Replica, patience: Patience) -> Ending:
        request = self._request
        reader = StreamReader(request.keep_usage, replica.served_name, self._version.public_name, request.choices)
        try:
            async for chunk in answer.chunks():
                patience.heard()
                if ready := reader.feed(chunk):
                    if reader.events > self._meter.covered:
                        await self._meter.cover(reader.events)
                    self.run.produced(reader.events)
                    await self._send(ready, [] if self._reply.begun else self._head(answer.headers))
                patience.delivered()
            reader.end()
        finally:
            self.run.usage, self.run.events = reader.usage, reader.events
        if reader.error is not None:
            raise refusal(EngineError.status, reader.error)
        if not reader.complete:
            raise EngineLost("the engine ended its answer before it was complete; what came before is not the whole")
        told = annotation_event(self._request.annotations, reader, request.choices, self._version.public_name)
        return Ending(told + reader.held, None if self._reply.begun else self._head(answer.headers))

    async def _file(self, answer: EngineAnswer) -> Ending:
        """A file whose length is known: as it comes, its last part held back. What it took is said in its head."""
        length = answer.headers.get("content-length", "")
        self.run.usage = _object(answer.headers.get("x-terascope-usage", ""))
        head = self._head(answer.headers, length=int(length) if length.isdecimal() else None)
        held = b""
        async for chunk in answer.chunks():
            if held:
                await self._send(held, head)
            held = chunk
        return Ending(held, None if self._reply.begun else head)

    async def _kept(self, answer: EngineAnswer) -> Ending:
        """A file that becomes one of the project's; the client is told its name."""
        if self._files is None:
            raise UnsupportedFeature("results cannot be kept here; ask for `safetensors`", param="format")
        self.run.usage = _object(answer.headers.get("x-terascope-usage", ""))
        body = await Keeping(self._files, self.run, self._version.public_name).keep(answer.chunks())
        self.run.first_byte()
        headers = Headers(answer.headers | {"content-type": "application/json"})
        return Ending(body, self._head(headers, length=len(body)))

    async def _send(self, data: bytes, head: list[Header]) -> None:
        if not self._reply.begun:
            await self._reply.begin(200, head)
        self.answer_began = True
        self.run.first_byte()
        await self._reply.write(data)

    async def _whole(self, answer: EngineAnswer, replica: Replica) -> Ending:
        body = await _collect(answer.chunks())
        said = _answer(body)
        if self._request.stream:  # official clients would find no event in it, and call that an empty answer
            name = self._version.public_name
            raise UnsupportedFeature(f"the engine of {name} does not stream; ask without `stream`", param="stream")
        if isinstance(said, dict):
            self.run.usage = said.get("usage") if isinstance(said.get("usage"), dict) else None
            if self._meter.covered < math.inf:
                await self._meter.cover(self.run.output_tokens)
        if self._request.annotations and isinstance(said, dict):
            body = annotated(said, self._request.annotations)
        if self._request.dry_run and self.run.grant is not None:
            body = priced(said, self.run.grant.price) or body
        if replica.served_name != self._version.public_name:
            pattern, public = renaming(replica.served_name, self._version.public_name)
            body = pattern.sub(public, body)
        self.run.first_byte()
        return Ending(body, self._head(answer.headers, length=len(body)))

    def _head(self, headers: Headers, *, length: int | None = None) -> list[Header]:
        kind = headers.get("content-type", "application/json").encode("latin-1")
        name = self._version.public_name.encode()
        sent: list[Header] = [(b"content-type", kind), (b"x-terascope-model", name), *self._limits]
        if length is not None:
            sent.append((b"content-length", str(length).encode()))
        else:
            sent += [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
        if self._request.sources:
            sent.append((b"x-terascope-vector-stores", self._request.sources.encode()))
        sent += [(name.encode(), value.encode("latin-1")) for name, value in headers.items() if _passed_on(name)]
        return sent

    async def _heartbeat(self) -> None:
        wait_s = self._place.wait_s() if self._place else None
        if not self._reply.begun:
            headers = Headers({"content-type": "text/event-stream; charset=utf-8"})
            if wait_s is not None:
                headers["x-terascope-estimated-wait"] = str(math.ceil(wait_s))
            await self._reply.begin(200, self._head(headers))
        await self._reply.write(comment("waiting" if wait_s is None else f"waiting, about {math.ceil(wait_s)} s"))


def _adapter(version: ModelVersion) -> AdapterFiles | None:
    """What the engine is told of the adapter that `version` is, if it is one."""
    if not version.parent:
        return None
    sha256 = {file.path: file.sha256 for file in version.files if file.path in (CONFIG, WEIGHTS)}
    return AdapterFiles(version.name, version.digest, Path(version.directory), sha256)


async def _collect(chunks: AsyncIterator[bytes]) -> bytes:
    parts = [chunk async for chunk in chunks]
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _object(text: str) -> dict[str, Any] | None:
    try:
        found = orjson.loads(text) if text else None
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def _answer(body: bytes) -> object:
    """The JSON of a whole answer. Raises `EngineError` when it is none, and what the engine says when it failed."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise EngineError("the engine's answer is not JSON", detail=f"{len(body)} bytes that are not JSON") from None
    error = error_in(said) if isinstance(said, dict) else None
    if error is not None:
        raise refusal(EngineError.status, error)
    return said


async def _refusal(answer: EngineAnswer) -> ServiceError:
    body = b""
    async for chunk in answer.chunks():
        body += chunk
        if len(body) > _MOST_ERROR_BYTES:
            break
    said = engine_error(body) or {"message": text_of(body)}
    return refusal(answer.status, said, answer.headers.get("retry-after", ""))


def _passed_on(name: str) -> bool:
    return name.startswith(("x-terascope-", "openai-")) and name != "x-terascope-model"
