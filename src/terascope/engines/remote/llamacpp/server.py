"""llama.cpp's server as the remote engine meets it: what it can do, and calls in words that it understands."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import orjson

from terascope.core.errors import EngineUnreachable, ServiceError, UnsupportedFeature
from terascope.core.models import Capabilities, Feature
from terascope.engines.contract import EngineAnswer, EngineCall
from terascope.engines.made import MadeAnswer
from terascope.engines.remote.bodies import object_of
from terascope.engines.remote.llamacpp import words
from terascope.engines.remote.llamacpp.answers import late_error, whole
from terascope.engines.remote.llamacpp.calls import as_stream
from terascope.engines.remote.llamacpp.events import gathered
from terascope.engines.remote.llamacpp.requests import CHAT, COMPLETIONS, Order, check_model, embeddings_of, order_of
from terascope.engines.remote.llamacpp.streams import MergedStream
from terascope.protocol.errors import engine_error, error_body
from terascope.protocol.parse import load

_LANES = 4  # streams of one request at a time, where the server does not say how many it works on
_OF_TOOLS = frozenset({str(Feature.TOOLS), str(Feature.ENFORCED_TOOLS)})
_TRIED_S = 3.0  # for finding out what a server was started for

Send = Callable[[EngineCall, bool], Awaitable[EngineAnswer]]
"""Sends a call, below `/v1` or (True) at the root, and again where that may help."""
Get = Callable[[str], Awaitable[tuple[int, bytes]]]
_Got = TypeVar("_Got")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server says of itself; 0 and "" where it does not."""

    slots: int = 0
    context_length: int = 0
    vocabulary: int = 0
    version: str = ""
    lacking: frozenset[str] = frozenset()
    """Endpoints that it was not started for, and features that its model's template has no place for."""

    def left(self, able: Capabilities) -> Capabilities:
        """Return what is left of `able`."""
        return Capabilities(able.endpoints - self.lacking, able.features - self.lacking)


class LlamaCpp:
    """One server that serves the model called `name`."""

    def __init__(self, name: str, get: Get, send: Send) -> None:
        self._name = name
        self._get = get
        self._send = send
        self._facts = Facts()
        self._absent: frozenset[str] | None = None

    async def learn(self, model: Mapping[str, Any]) -> Facts:
        """Return what the server is, `model` being its entry in its list; it is remembered for the calls that follow.

        Raises `EngineUnreachable`, also when it refuses our key: its list is shown to anybody.
        """
        status, body = await self._get("/props")
        if status in (401, 403):
            raise EngineUnreachable("the server refuses this gateway's key")
        props = object_of(body) if status == 200 else {}
        if self._absent is None:
            self._absent = await self._not_started_for()
        slot, template = _object(props, "default_generation_settings"), _object(props, "chat_template_caps")
        meta = _object(model, "meta")
        lacking = self._absent | (_OF_TOOLS if template.get("supports_tools") is False else frozenset())
        self._facts = Facts(
            _number(props, "total_slots"),
            _number(slot, "n_ctx") or _number(meta, "n_ctx"),
            _number(meta, "n_vocab"),
            str(props.get("build_info") or "")[:80],
            lacking,
        )
        return self._facts

    def forget(self) -> None:
        """It did not answer: it may come back started for something else."""
        self._absent = None

    async def answer(self, call: EngineCall) -> EngineAnswer:
        """As `Engine.generate`."""
        try:
            if call.endpoint in ("tokenize", "detokenize"):
                return await self._words(call)
            if call.endpoint == "embeddings":
                return await self._send(embeddings_of(call, self._name), False)
            return await self._generated(call, order_of(call, self._name))
        except _RefusedError as refused:
            return refused.answer
        except ServiceError as error:
            if error.status >= 500:
                raise
            return MadeAnswer(error.status, error_body(error, call.request_id))

    async def _not_started_for(self) -> frozenset[str]:
        if not await self._takes("embeddings", {"input": []}):
            return frozenset({"embeddings"})
        generates = await self._takes(COMPLETIONS, {"prompt": "a", "max_tokens": 1})
        return frozenset() if generates else frozenset({CHAT, COMPLETIONS})

    async def _takes(self, endpoint: str, asked: dict[str, Any]) -> bool:
        body = orjson.dumps({"model": self._name} | asked)
        try:
            async with asyncio.timeout(_TRIED_S):
                answer = await self._send(EngineCall("req_probe", endpoint, body), False)
                said = await _read(answer)
        except TimeoutError:
            return True  # it is busy with what others have asked of it
        return answer.status != 501 and engine_error(said).get("code") != UnsupportedFeature.code

    async def _generated(self, call: EngineCall, order: Order) -> EngineAnswer:
        calls = order.calls(call)
        if order.plain:
            return await self._send(calls[0], False)
        width = min(len(calls), self._facts.slots or _LANES)
        if order.stream and not order.calls_tool:
            first = await _together([self._good(one) for one in calls[:width]], lambda answer: answer.aclose())
            return MergedStream(order, first, lambda index: self._send(calls[index], False))
        lanes = await _together([self._lane(calls[at::width]) for at in range(width)])
        said = [lanes[index % width][index // width] for index in range(len(calls))]
        answer = whole(order, said)
        if order.stream:
            return MadeAnswer(200, as_stream(answer, usage=order.usage), {"content-type": "text/event-stream"})
        return MadeAnswer(200, orjson.dumps(answer))

    async def _lane(self, calls: list[EngineCall]) -> list[dict[str, Any]]:
        """The answers to `calls`, asked for one after the other."""
        said = []
        for one in calls:
            said.append(await gathered(await self._good(one)))
            if "error" in said[-1]:
                raise _RefusedError(late_error(said[-1], one.request_id))
        return said

    async def _good(self, call: EngineCall, *, root: bool = False) -> EngineAnswer:
        answer = await self._send(call, root)
        if answer.status != 200:
            raise _RefusedError(answer)
        return answer

    async def _words(self, call: EngineCall) -> EngineAnswer:
        fields = load(call.body)
        check_model(fields, self._name)
        if call.endpoint == "detokenize":
            asked = words.tokens_of(fields, self._facts.vocabulary)
            return MadeAnswer(200, words.text_told(await self._told(call, "detokenize", asked)))
        request = words.tokenize_request(fields)
        text = request.prompt or ""
        if request.messages is not None:
            text = str((await self._told(call, "apply-template", words.template_of(fields))).get("prompt") or "")
        said = await self._told(call, "tokenize", words.words_of(request, text))
        return MadeAnswer(200, words.tokens_told(request, text, said, self._facts.context_length))

    async def _told(self, call: EngineCall, endpoint: str, asked: dict[str, Any]) -> dict[str, Any]:
        one = replace(call, endpoint=endpoint, body=orjson.dumps(asked))
        return object_of(await _read(await self._good(one, root=True)))


class _RefusedError(Exception):
    """One of several calls was refused: that is the answer to all."""

    def __init__(self, answer: EngineAnswer) -> None:
        super().__init__(answer.status)
        self.answer = answer


async def _read(answer: EngineAnswer) -> bytes:
    try:
        return b"".join([chunk async for chunk in answer.chunks()])
    finally:
        await answer.aclose()


async def _together(
    asked: Sequence[Coroutine[Any, Any, _Got]], undo: Callable[[_Got], Awaitable[None]] | None = None
) -> list[_Got]:
    """Await all; at the first failure, or when we are cancelled, the others are cancelled or undone."""
    tasks = [asyncio.create_task(one) for one in asked]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        for done in await asyncio.gather(*tasks, return_exceptions=True):
            if undo is not None and not isinstance(done, BaseException):
                await undo(done)
        raise


def _object(said: Mapping[str, Any], name: str) -> dict[str, Any]:
    inner = said.get(name)
    return inner if isinstance(inner, dict) else {}


def _number(said: Mapping[str, Any], name: str) -> int:
    found = said.get(name)
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else 0
