"""One request of a capture: some prompts to `POST /v1/traces`, their arrays as they come, read one at a time."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import orjson

from terascope.client import AsyncClient
from terascope.client.ask import Ask
from terascope.client.capture.block import Done
from terascope.client.capture.prompts import Prompt
from terascope.client.capture.settings import Settings
from terascope.client.clients import TRACES
from terascope.client.tensors import TensorReader
from terascope.core.errors import (
    BadRequest,
    ContextLengthExceeded,
    EngineError,
    NotFound,
    ServiceError,
    UnsupportedFeature,
)
from terascope.internals.arrays import Array
from terascope.internals.packing import Spec
from terascope.internals.tokens import parse_tokens, positions
from terascope.protocol.trace_results import TraceResult
from terascope.protocol.traces import TraceRequest

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]
_ERRORS = "errors"
_ATTEMPTS = 8
_LONGEST_WAIT_S = 60.0


class Asking:
    """Asks a gateway for batches of prompts; any number may be under way at once."""

    def __init__(self, client: AsyncClient, settings: Settings, sleep: Sleep, headers: Mapping[str, str]) -> None:
        self._client = client
        self._settings = settings
        self._sleep = sleep
        self._headers = headers
        self._tokens = parse_tokens(settings.tokens)

    async def estimate(self, prompt: Prompt, model: str) -> tuple[str, int, int]:
        """The model as `name@version`, and how many tokens and captured bytes `prompt` has; raises as the gateway.

        From then on that version is asked: `model`, or where that is empty what the name means now.
        """
        self._settings = replace(self._settings, model=model or self._settings.model)
        try:
            found = await self._patiently(lambda: self._dry_run(prompt.asked))
        except ContextLengthExceeded:  # which is about that prompt alone
            found = await self._patiently(lambda: self._dry_run({"tokens": [0]}))
        if found.estimate is None:
            raise EngineError("the engine does not say what a plan would cost", detail="a dry run has no estimate")
        self._settings = replace(self._settings, model=found.model)
        return found.model, found.estimate.prompt_tokens, found.estimate.captured_bytes

    async def batch(self, prompts: Sequence[Prompt]) -> list[Done]:
        """What became of each prompt, in order. Asks again, a while later, for as long as that can help.

        A batch that is refused is asked prompt by prompt, so that those that can be had are. Raises the gateway's
        error when it is about no prompt.
        """
        try:
            return await self._patiently(lambda: self._once(prompts))
        except (NotFound, UnsupportedFeature):
            raise
        except BadRequest as error:
            if len(prompts) == 1:
                return [Done(prompts[0], error=error.message)]
        return [done for one in prompts for done in await self.batch([one])]

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What `ask` returns, asked again, later and later, while it fails in a way that may pass."""
        for attempt in range(_ATTEMPTS - 1):
            try:
                return await ask()
            except ServiceError as error:
                if not error.retryable:
                    raise
                await self._sleep(min(error.retry_after or 2.0**attempt, _LONGEST_WAIT_S))
        return await ask()

    async def _dry_run(self, asked: Mapping[str, Any]) -> TraceResult:
        plan = TraceRequest.model_validate(self._settings.plan([dict(asked)], dry_run=True))
        return await self._client.send(Ask("POST", TRACES, TraceResult, plan, patient=True, headers=self._headers))

    async def _once(self, prompts: Sequence[Prompt]) -> list[Done]:
        plan = self._settings.plan(
            [prompt.asked | {"name": str(number)} for number, prompt in enumerate(prompts)], format="safetensors"
        )
        found = [Done(prompt) for prompt in prompts]
        failures: dict[str, str] = {}
        async with self._client.trace_file(plan, self._headers) as pieces:
            reader = TensorReader()
            async for piece in pieces:
                for spec, one in reader.feed(piece):
                    _take(found, failures, spec, one)
            reader.end()
        for row in orjson.loads(reader.metadata.get("rows", "[]")):
            self._tell(found[int(row["name"])], row, failures.get(row["name"], ""))
        return found

    def _tell(self, done: Done, row: Mapping[str, Any], failure: str) -> None:
        """What the answer says of a prompt besides its arrays."""
        done.tokens = tuple(row["tokens"])
        done.error = failure or (row.get("error") or {}).get("message", "")
        if done.error:
            done.arrays, done.rows = {}, 0
            return
        pieces = [piece.encode() for piece in row.get("pieces", ())]
        done.positions = positions(self._tokens, pieces)


def _take(found: Sequence[Done], failures: dict[str, str], spec: Spec, one: Array) -> None:
    if spec.name == _ERRORS:
        failures.update(orjson.loads(bytes(one.data)))
        return
    row, _, name = spec.name.partition("/")
    found[int(row)].add(name, spec, one)
