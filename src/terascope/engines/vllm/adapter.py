"""vLLM as the gateway sees it: a command line, and a client of its OpenAI server. Imports no vLLM."""

from collections.abc import Mapping
from typing import Any

import orjson

from terascope.core.errors import BadRequest, EngineLost, EngineUnreachable
from terascope.core.models import Capabilities, Feature, Task
from terascope.engines.contract import Endpoint, Engine, EngineAnswer, EngineCall, EngineInfo, Launch
from terascope.engines.http1 import HttpAnswer
from terascope.engines.made import MadeAnswer
from terascope.engines.upstream import HttpEngine, words
from terascope.engines.vllm.command import TOOL_PARSER, arguments_of, command_of, environment_of, rows_of
from terascope.engines.vllm.requests import body_of
from terascope.protocol.errors import engine_error, error_body, error_json, text_of

_WORDS = frozenset({"tokenize", "detokenize"})
_GENERATES = _WORDS | {"chat/completions", "completions"}
_EMBEDS = _WORDS | {"embeddings"}
_FEATURES = frozenset(map(str, (
    Feature.LOGPROBS, Feature.SEED, Feature.JSON_SCHEMA, Feature.ECHO, Feature.TOKEN_PROMPTS, Feature.LOGIT_BIAS,
)))  # fmt: skip
"""What the conformance suite sees working. An enforced tool call is not among them: in 0.32 its arguments are no
object. Nor are several choices at temperature 0, which vLLM refuses."""
_DEAD = (b"EngineCore encountered an issue", b"EngineDeadError")
_MOST_ERROR = 1 << 20  # bytes; some errors of a wrong request quote it


class VllmEngine(HttpEngine):
    """`contract.Engine` over vLLM's own server."""

    def __init__(self, endpoint: Endpoint, launch: Launch) -> None:
        super().__init__(endpoint, served_name=launch.served_name, tells_terms=False)
        self._name = launch.served_name
        self._launch = launch

    async def generate(self, call: EngineCall) -> EngineAnswer:
        """As the contract says; a server whose engine has died beneath it is unreachable."""
        try:
            body = body_of(call)
        except BadRequest as error:
            return MadeAnswer(error.status, error_body(error, call.request_id))
        sent = EngineCall(call.request_id, call.endpoint, body)
        answer = await self.send(sent)
        return await _failed(answer, call.request_id) if answer.status >= 400 else answer

    async def probe(self) -> EngineInfo:
        """As the contract says; a server that does not take our secret or serves another model is unreachable."""
        status, body = await self.ask("/health")
        if status != 200:
            raise EngineUnreachable(words(body) or f"vLLM's health check answered with status {status}")
        status, body = await self.ask("/v1/models")
        if status != 200:
            raise EngineUnreachable(words(body) or f"vLLM answered /v1/models with status {status}")
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
    tools = {str(Feature.TOOLS)} if TOOL_PARSER in arguments_of(launch) else set()
    return Capabilities(_GENERATES, _FEATURES | tools)


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
