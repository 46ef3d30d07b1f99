"""Embeddings from a vLLM that generates: hidden states of any layer, by our route in its server.

What runs inside vLLM is in `inside`; here is its command line, and what becomes of a request.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from terascope.core.config import LayoutConfig
from terascope.core.errors import BadRequest, EngineUnreachable, UnsupportedFeature
from terascope.engines.contract import EngineCall
from terascope.engines.http1 import HttpAnswer
from terascope.engines.upstream import words
from terascope.protocol.openai import EmbeddingRequest
from terascope.protocol.parse import parse

HIDDEN_STATES = "hidden-states"
"""The option of a deployment with which vLLM gives hidden states. It is ours: vLLM has none of this name."""
ARGUMENTS = ("--worker-extension-cls", "terascope_states.States", "--middleware", "terascope_route.Route")
INSIDE = str(Path(__file__).with_name("inside"))
"""The directory from which vLLM loads what is ours; nothing else is in it."""
ENVIRONMENT = {"PYTHONPATH": INSIDE, "VLLM_USE_V2_MODEL_RUNNER": "0"}
"""The batches of vLLM's other runner of models are not those that are read."""
_ROUTE = "terascope/states"
_MOST_INPUTS = 2048
_OPTIONS = {"truncate": ("error",), "windows": (), "stream": (False,)}
"""What is not done here, and the values that ask for nothing."""

Ask = Callable[[str], Awaitable[tuple[int, bytes]]]
Send = Callable[[EngineCall], Awaitable[HttpAnswer]]


@dataclass(frozen=True, slots=True)
class Seen:
    """What can be seen of a model: states of `width` numbers after each of `layers` layers; 0: only at its end."""

    layers: int
    width: int

    def layer(self, asked: int | None) -> int | None:
        """The number of `hidden_states`, None for the last. Raises `BadRequest`."""
        if asked is None or asked in (-1, self.layers or -1):
            return None
        if not self.layers:
            raise UnsupportedFeature("of this model only the last layer can be seen; leave `layer` out", param="layer")
        if not -self.layers - 1 <= asked <= self.layers:
            raise BadRequest(
                f"layer is {asked}; the model has {self.layers} layers: 0 is what the first one gets, {self.layers} "
                "or -1 what the last gives",
                param="layer",
            )
        return asked % (self.layers + 1)


class States:
    """Asks one vLLM for hidden states."""

    def __init__(self, ask: Ask, send: Send) -> None:
        """`ask` gets a path, `send` sends a call."""
        self._ask = ask
        self._send = send
        self._seen: Seen | None = None

    async def seen(self) -> Seen:
        """Return what can be seen of the model, as its server says it when it is first asked.

        Raises `EngineUnreachable` of one that does not say.
        """
        if self._seen is None:
            self._seen = await self._look()
        return self._seen

    async def _look(self) -> Seen:
        status, body = await self._ask(f"/v1/{_ROUTE}")
        if status != 200:
            raise EngineUnreachable(words(body) or f"vLLM's route of hidden states answered with status {status}")
        said = orjson.loads(body)
        return Seen(said["layers"], said["width"])

    async def answer(self, call: EngineCall) -> HttpAnswer:
        """Return vLLM's answer to a request of embeddings. Raises `BadRequest`, and what asking vLLM raises."""
        if call.adapter is not None:
            raise UnsupportedFeature("embeddings are of a model without adapters; name its base", param="model")
        asked = await asyncio.to_thread(parse, EmbeddingRequest, call.body)
        order = _order(asked, await self.seen())
        body = orjson.dumps({**order, "model": asked.model, "inputs": _inputs(asked), "priority": call.priority})
        answer = await self._send(EngineCall(call.request_id, _ROUTE, body))
        if answer.status == 200:
            answer.headers["x-terascope-applied"] = orjson.dumps(_applied(order)).decode()
        return answer


def problems(arguments: Any, layout: LayoutConfig, *, generates: bool) -> Iterator[str]:
    """Why hidden states cannot be had from a vLLM that is started so; nothing where they can."""
    if "enforce-eager" not in arguments:
        yield f"`{HIDDEN_STATES}` needs `enforce-eager`: compiled models hide their layers"
    if "worker-extension-cls" in arguments:
        yield f"`{HIDDEN_STATES}` and `worker-extension-cls` cannot be combined: vLLM takes one extension"
    if layout.pipeline * layout.data * layout.nodes > 1:
        yield f"`{HIDDEN_STATES}` works with `tensor` alone; leave `pipeline`, `data` and `nodes` at 1"
    if not generates:
        yield f"`{HIDDEN_STATES}` is for models that generate; this one makes embeddings by itself"


def _order(asked: EmbeddingRequest, seen: Seen) -> dict[str, Any]:
    """What our route is told."""
    for name, harmless in _OPTIONS.items():
        if getattr(asked, name) not in (None, *harmless):
            raise UnsupportedFeature(f"vLLM cannot do `{name}` here; ask a replica of the torch engine", param=name)
    if asked.dimensions is not None and asked.dimensions > seen.width:
        raise BadRequest(
            f"dimensions is {asked.dimensions}, but the model's vectors have {seen.width}", param="dimensions"
        )
    by_default = asked.pooling != "none" or asked.dimensions is not None
    return {
        "layer": seen.layer(asked.layer),
        "pooling": asked.pooling or "last",
        "scaled": by_default if asked.normalize is None else asked.normalize,
        "dimensions": asked.dimensions,
        "base64": asked.encoding_format == "base64",
    }


def _applied(order: dict[str, Any]) -> dict[str, Any]:
    """What the receipt says of how the vectors were made."""
    told = {"layer": "last" if order["layer"] is None else order["layer"], "pooling": order["pooling"],
            "normalize": order["scaled"], "truncate": "error"}  # fmt: skip
    cut = order["dimensions"]
    return told if cut is None else {**told, "dimensions": cut, "dimensions_by": "truncation"}


def _inputs(asked: EmbeddingRequest) -> list[str | list[int]]:
    """The texts and lists of tokens, each of them something."""
    given = asked.input
    one = isinstance(given, str) or (bool(given) and isinstance(given[0], int))
    found: list[Any] = [given] if one else list(given)
    if not 1 <= len(found) <= _MOST_INPUTS:
        raise BadRequest(f"input: one request has 1 to {_MOST_INPUTS} inputs, not {len(found)}", param="input")
    if (empty := next((index for index, one in enumerate(found) if not one), None)) is not None:
        raise BadRequest(f"input[{empty}] is empty", param="input")
    return found
