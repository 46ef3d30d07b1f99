"""vLLM as the gateway sees it: a command line, and a client of its OpenAI server. Imports no vLLM."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from terascope.core.errors import BadRequest, EngineLost, EngineUnreachable
from terascope.core.models import Capabilities, Feature, Task
from terascope.engines.contract import Endpoint, Engine, EngineAnswer, EngineCall, EngineInfo, Launch
from terascope.engines.http1 import HttpAnswer
from terascope.engines.made import MadeAnswer
from terascope.engines.upstream import HttpEngine, words
from terascope.engines.vllm.adapters import Adapters, Renamed
from terascope.engines.vllm.command import (
    LORA,
    PROMPT_EMBEDS,
    TOOL_PARSER,
    arguments_of,
    command_of,
    environment_of,
    gives_states,
    rows_of,
)
from terascope.engines.vllm.mixing import in_parts
from terascope.engines.vllm.requests import body_of, mixed_in, vectors_of
from terascope.engines.vllm.states import States
from terascope.engines.vllm.table import table_of
from terascope.engines.vllm.vectors import Form
from terascope.protocol.errors import engine_error, error_body, error_json, text_of

_WORDS = frozenset({"tokenize", "detokenize"})
_GENERATES = _WORDS | {"chat/completions", "completions"}
_EMBEDS = _WORDS | {"embeddings"}
_FEATURES = frozenset(map(str, (
    Feature.LOGPROBS, Feature.SEED, Feature.JSON_SCHEMA, Feature.ECHO, Feature.TOKEN_PROMPTS, Feature.LOGIT_BIAS,
)))  # fmt: skip
"""What the conformance suite sees working. An enforced tool call is not among them: in 0.32 its arguments are no
object. Nor are several choices at temperature 0, which vLLM refuses."""
_BY_ARGUMENT = {
    TOOL_PARSER: str(Feature.TOOLS), PROMPT_EMBEDS: str(Feature.PROMPT_EMBEDS), LORA: str(Feature.ADAPTERS),
}  # fmt: skip
"""What vLLM can do only when it is started for it."""
_OF_STATES = frozenset(map(str, (Feature.EMBEDDING_LAYERS, Feature.DIMENSIONS)))
"""What it can do with hidden states."""
_DEAD = (b"EngineCore encountered an issue", b"EngineDeadError")
_MOST_ERROR = 1 << 20  # bytes; some errors of a wrong request quote it
_MOST_TOKENS = 1 << 30  # bytes; a text has at most as many tokens as bytes, and a body is limited
_VECTORS = (b'"prompt_embeds"', b'"soft_prompt"')


class VllmEngine(HttpEngine):
    """`contract.Engine` over vLLM's own server."""

    def __init__(self, endpoint: Endpoint, launch: Launch) -> None:
        super().__init__(endpoint, served_name=launch.served_name, tells_terms=False)
        self._name = launch.served_name
        self._launch = launch
        self._adapters = Adapters(self._told, Path(launch.version.directory))
        takes_vectors = Feature.PROMPT_EMBEDS in capabilities(launch).features
        deployment = launch.deployment
        form = Form.of(launch.version.directory, deployment.dtype, deployment.context_length)
        self._form = form if takes_vectors else None
        self._states = States(self.ask, self.send) if gives_states(launch) else None

    async def generate(self, call: EngineCall) -> EngineAnswer:
        """As the contract says; a server whose engine has died beneath it is unreachable."""
        try:
            if self._states is not None and call.endpoint == "embeddings":
                return await _well(await self._states.answer(call), call.request_id)
            return await self._answer(call)
        except BadRequest as error:
            return MadeAnswer(error.status, error_body(error, call.request_id))

    async def _answer(self, call: EngineCall) -> EngineAnswer:
        name = await self._adapters.name_of(call.adapter) if call.adapter else ""
        call = await self._with_vectors(call)
        answer = await self._sent(call, name)
        if call.adapter and answer.status == 404:  # this server is not the one that had read it
            self._adapters.forget(call.adapter)
            answer = await self._sent(call, await self._adapters.name_of(call.adapter))
        return Renamed(answer, name, self._name) if name else answer

    async def _sent(self, call: EngineCall, adapter: str) -> EngineAnswer:
        body = body_of(call, vectors=self._form is not None, adapter=adapter)
        return await _well(await self.send(EngineCall(call.request_id, call.endpoint, body)), call.request_id)

    async def _with_vectors(self, call: EngineCall) -> EngineCall:
        """Vectors take time to check and to write: in a thread, so that others do not wait."""
        if self._form is None or not any(one in call.body for one in _VECTORS):
            return call
        if self._form.table is not None and (fields := mixed_in(call)):
            parts = await in_parts(fields, partial(self._tokenized, call.request_id))
            call = replace(call, body=await asyncio.to_thread(orjson.dumps, parts))
        return await asyncio.to_thread(vectors_of, call, self._form) or call

    async def _tokenized(self, request_id: str, text: str, special: bool) -> list[int]:
        asked = {"model": self._name, "prompt": text, "add_special_tokens": special}
        status, body = await self._told(EngineCall(request_id, "tokenize", orjson.dumps(asked)), _MOST_TOKENS)
        if status != 200:
            raise BadRequest(words(body) or "vLLM could not read the text into tokens", param="prompt_embeds")
        tokens: list[int] = orjson.loads(body)["tokens"]
        return tokens

    async def _told(self, call: EngineCall, most: int = _MOST_ERROR) -> tuple[int, bytes]:
        answer = await self.send(call)
        return answer.status, await answer.read(most)

    async def probe(self) -> EngineInfo:
        """As the contract says; a server that does not take our secret or serves another model is unreachable."""
        status, body = await self.ask("/health")
        if status != 200:
            raise EngineUnreachable(words(body) or f"vLLM's health check answered with status {status}")
        status, body = await self.ask("/v1/models")
        if status != 200:
            raise EngineUnreachable(words(body) or f"vLLM answered /v1/models with status {status}")
        if self._states is not None:
            await self._states.seen()
        return self._info(self._model(body), await self._version())

    def _model(self, body: bytes) -> Mapping[str, Any]:
        listed = [one for one in _object(body).get("data") or () if isinstance(one, dict)]
        for one in listed:
            if one.get("id") == self._name:
                return one
        names = ", ".join(str(one.get("id")) for one in listed[:10])
        raise EngineUnreachable(f"vLLM serves {names or 'nothing'}, not {self._name!r}")

    async def _version(self) -> str:
        status, body = await self.ask("/version")
        return str(_object(body).get("version") or "")[:80] if status == 200 else ""

    def _info(self, model: Mapping[str, Any], version: str) -> EngineInfo:
        deployment, length = self._launch.deployment, model.get("max_model_len")
        layout = deployment.layout
        details = {
            "served_name": self._name, "quantization": deployment.quantization,
            "layout": f"tp{layout.tensor} pp{layout.pipeline} dp{layout.data}" + (" ep" if layout.expert else "")
            + (f" on {layout.nodes} nodes" if layout.nodes > 1 else ""),
        }  # fmt: skip
        return EngineInfo(
            "vllm",
            version,
            capabilities(self._launch),
            length if isinstance(length, int) and length > 0 else 0,
            dtype=deployment.dtype,
            device=deployment.device,
            details=tuple((name, value) for name, value in details.items() if value),
            slots=rows_of(deployment) * layout.data,
        )


def capabilities(launch: Launch) -> Capabilities:
    """Return what vLLM can do when it is started so."""
    if launch.version.task is Task.EMBED:
        return Capabilities(_EMBEDS, frozenset({str(Feature.TOKEN_PROMPTS)}))
    given = arguments_of(launch)
    found = {feature for name, feature in _BY_ARGUMENT.items() if name in given}
    if PROMPT_EMBEDS in given and table_of(launch.version.directory):
        found |= {str(Feature.MIXED_COMPLETIONS)}
    if launch.deployment.device == "cpu":  # in 0.32 rows without an adapter get that of others in the batch there
        found -= {str(Feature.ADAPTERS)}
    if gives_states(launch):
        return Capabilities(_GENERATES | _EMBEDS, _FEATURES | found | _OF_STATES)
    return Capabilities(_GENERATES, _FEATURES | found)


class VllmKind:
    """How to start and reach vLLM's server."""

    def command(self, launch: Launch, endpoint: Endpoint) -> tuple[str, ...]:
        """See `EngineKind.command`; options of the deployment become arguments."""
        return command_of(launch, endpoint)

    def environment(self, launch: Launch, endpoint: Endpoint) -> Mapping[str, str]:
        """See `EngineKind.environment`."""
        return environment_of(launch, endpoint)

    def connect(self, launch: Launch, endpoint: Endpoint) -> Engine:
        """See `EngineKind.connect`."""
        return VllmEngine(endpoint, launch)


KIND = VllmKind()
"""What the registry finds."""


async def _well(answer: HttpAnswer, request_id: str) -> EngineAnswer:
    return await _failed(answer, request_id) if answer.status >= 400 else answer


async def _failed(answer: HttpAnswer, request_id: str) -> EngineAnswer:
    """Return an error in OpenAI's shape; vLLM's own where it has that. Raises `EngineUnreachable` of a dead engine."""
    try:
        body = await answer.read(_MOST_ERROR)
    except EngineLost as error:
        raise EngineUnreachable("vLLM failed, and ended before it had said why", detail=error.detail) from error
    if answer.status >= 500 and any(one in body for one in _DEAD):
        raise EngineUnreachable("vLLM's engine has died", detail=f"it answered {answer.status}")
    if not isinstance(_object(body).get("error"), dict):
        said = engine_error(body).get("message") or text_of(body) or f"vLLM answered with status {answer.status}"
        body = error_json(str(said), "invalid_request_error", None, None, request_id)
    return MadeAnswer(answer.status, body, {"retry-after": answer.headers.get("retry-after", "")})


def _object(body: bytes) -> dict[str, Any]:
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return said if isinstance(said, dict) else {}
