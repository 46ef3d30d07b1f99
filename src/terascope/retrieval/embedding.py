"""Vectors and tokens of texts, asked of models by the one page that every request takes: priced and recorded."""

import base64
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from terascope.access.principal import Principal
from terascope.core.errors import BadRequest, EngineError, EngineUnreachable, NotFound
from terascope.core.ids import new_id
from terascope.core.models import Mode
from terascope.core.projects import Qos
from terascope.inference.inference import Asked, Inference
from terascope.inference.reply import Header

AT_ONCE = 64
"""Texts in one request to an embedding model."""


@dataclass(frozen=True, slots=True)
class Caller:
    """For whom models are asked: who, paid by which project, how urgent, until when (seconds from now)."""

    principal: Principal
    project: str
    qos: Qos = Qos.INTERACTIVE
    deadline_s: float | None = None
    gone: Callable[[], bool] = lambda: False


class Heard:
    """The reply that keeps a whole answer for the gateway itself."""

    begun = False  # nothing goes to a client

    def __init__(self, gone: Callable[[], bool]) -> None:
        self._gone = gone
        self._parts: list[bytes] = []

    @property
    def gone(self) -> bool:
        """See `Reply.gone`: whether the client has left for whom it is asked."""
        return self._gone()

    @property
    def body(self) -> bytes:
        """What came."""
        return b"".join(self._parts)

    async def begin(self, status: int, headers: list[Header]) -> None:
        """See `Reply.begin`."""

    async def write(self, data: bytes) -> None:
        """See `Reply.write`."""
        self._parts.append(data)

    async def end(self, data: bytes) -> None:
        """See `Reply.end`."""
        self._parts.append(data)


class Embedder:
    """Asks models for vectors and tokens."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def vectors(self, model: str, texts: Sequence[str], caller: Caller) -> list[bytes]:
        """Return the vector of each text, as little-endian float32, all of one width.

        Raises what `Inference.answer` raises, and `EngineError` for an answer that cannot be used.
        """
        found: list[bytes] = []
        for start in range(0, len(texts), AT_ONCE):
            some = [*texts[start : start + AT_ONCE]]
            body = {"model": model, "input": some, "encoding_format": "base64"}
            found += _vectors(await self._asked("embeddings", Mode.EMBED, body, caller), len(some))
        if len({len(one) for one in found}) > 1:
            raise EngineError(f"{model} made vectors of different widths")
        return found

    async def offsets(self, model: str, text: str, caller: Caller) -> list[list[int]] | None:
        """Return which characters the tokens of a text are; None where the engine of the model does not say."""
        body = {"model": model, "prompt": text, "add_special_tokens": False, "return_offsets": True}
        try:
            said = await self._asked("tokenize", Mode.EMBED, body, caller)
        except EngineUnreachable:
            raise
        except (BadRequest, NotFound, EngineError):
            return None
        found = said.get("offsets")
        return found if isinstance(found, list) else None

    async def length(self, model: str, messages: object, caller: Caller) -> int | None:
        """Return how many tokens a conversation has; None where the engine of the model does not say."""
        body = {"model": model, "messages": messages}
        try:
            said = await self._asked("tokenize", Mode.QUERY, body, caller)
        except EngineUnreachable:
            raise
        except (BadRequest, NotFound, EngineError):
            return None
        count = said.get("count")
        return count if type(count) is int else None

    async def _asked(self, endpoint: str, mode: Mode, body: dict[str, Any], caller: Caller) -> dict[str, Any]:
        async def read() -> bytes:
            return orjson.dumps(body)

        reply = Heard(caller.gone)
        asked = Asked(
            new_id("req"), "", endpoint, mode, read,
            deadline_s=lambda: caller.deadline_s, project=caller.project, qos=lambda: caller.qos,
            principal=caller.principal,
        )  # fmt: skip
        await self._inference.answer(asked, reply)
        found = orjson.loads(reply.body)
        return found if isinstance(found, dict) else {}


def _vectors(said: dict[str, Any], count: int) -> list[bytes]:
    data = said.get("data")
    if not isinstance(data, list) or len(data) != count:
        raise EngineError("the embedding model did not answer with a vector for each text")
    ordered = sorted(data, key=lambda one: int(one["index"]))
    return [_vector(one["embedding"]) for one in ordered]


def _vector(embedding: object) -> bytes:
    """From base64, or from numbers, which engines give that know no other format."""
    if isinstance(embedding, str):
        return base64.b64decode(embedding)
    if not isinstance(embedding, list):
        raise EngineError("the embedding model answered with something that is no vector")
    return struct.pack(f"<{len(embedding)}f", *embedding)
