"""Any server that speaks OpenAI's API, with its own key: vLLM, SGLang, llama.cpp, another centre, a commercial service.

Nothing is started. What the server can do is known by its kind (`dialects`), which is declared or found in its list of
models. A try that failed before its first byte is made again (`retries`).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from terascope.core.errors import EngineLost, EngineUnreachable
from terascope.engines.contract import Endpoint, Engine, EngineAnswer, EngineCall, EngineInfo, Launch
from terascope.engines.http1 import HttpAnswer
from terascope.engines.made import MadeAnswer
from terascope.engines.remote.bodies import object_of, salted
from terascope.engines.remote.dialects import UNKNOWN, Dialect, found
from terascope.engines.remote.llamacpp.answers import error_of
from terascope.engines.remote.llamacpp.server import LlamaCpp
from terascope.engines.remote.retries import Retries
from terascope.engines.remote.settings import dialect_of, endpoint_of, retries_of
from terascope.engines.upstream import HttpEngine, words
from terascope.protocol.errors import engine_error, error_body, error_json

_MOST_NAMES = 10  # models named in a message
_MOST_ERROR = 1 << 20  # bytes
_BATCH = 2  # the priority of batch work
_SPENT = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "allocation_exhausted"})


class RemoteEngine(HttpEngine):
    """`HttpEngine` for a server that need not know Terascope: it is asked for its models instead."""

    def __init__(
        self, endpoint: Endpoint, *, served_name: str, dialect: Dialect = UNKNOWN, retries: Retries | None = None
    ) -> None:
        """Without a `dialect` the first probe finds it out."""
        super().__init__(endpoint, served_name=served_name, tells_terms=False)  # who asks is not a stranger's to know
        self._name = served_name
        self._declared = dialect
        self._dialect = dialect
        self._retries = retries or Retries()
        self._llama = LlamaCpp(served_name, self.ask, self._tried)

    async def generate(self, call: EngineCall) -> EngineAnswer:
        """As the contract says; what fails before its first byte is tried again.

        An answer that says that nothing is left to pay with is a 502: it is the operator's to mend.
        """
        if self._dialect.is_llamacpp and not self.closed:
            return await self._llama.answer(call)
        return await self._tried(replace(call, body=salted(call, self._dialect)))

    async def _tried(self, call: EngineCall, root: bool = False) -> EngineAnswer:
        tried = 0
        while True:
            tried += 1
            try:
                answer = await self.send(call, root=root)
            except EngineUnreachable:
                if tried > self._retries.most or self.closed:
                    raise
                await self._retries.clock.sleep(self._retries.pause_s(tried))
                continue
            if answer.status < 400:
                return answer
            failed = await _failed(answer, call.request_id, self._dialect)
            wait_s = self._retries.wait_s(tried, failed.status, answer.headers)
            if wait_s is None or failed.status != answer.status:
                return failed
            await self._retries.clock.sleep(wait_s)

    async def probe(self) -> EngineInfo:
        """As the contract says; a server that lists models, but not ours, is unreachable for us."""
        try:
            return await self._probe()
        except EngineUnreachable:
            self._llama.forget()
            raise

    async def _probe(self) -> EngineInfo:
        if self._declared.health:
            await self._healthy(self._declared.health)
        status, body = await self.ask("/v1/models")
        if status != 200:
            raise EngineUnreachable(words(body) or f"the server answered /v1/models with status {status}")
        model = self._model(_listed(body))
        self._dialect = self._declared if self._declared is not UNKNOWN else found(model)
        if self._declared is UNKNOWN and self._dialect.health:
            await self._healthy(self._dialect.health)
        details = {"kind": self._dialect.name, "upstream_model": self._name, "upstream_digest": _text(model, "digest")}
        told = tuple((name, value) for name, value in details.items() if value)
        info = EngineInfo("remote", "", self._dialect.capabilities, _length(model), details=told)
        if not self._dialect.is_llamacpp:
            return replace(info, version=await self._version())
        facts = await self._llama.learn(model)
        length = facts.context_length or info.context_length
        able = facts.left(info.capabilities)
        return replace(info, version=facts.version, capabilities=able, context_length=length, slots=facts.slots)

    def extra_headers(self, call: EngineCall) -> list[tuple[str, str]]:
        """Another Terascope is told what is batch work; a better turn than others have there is not ours to claim."""
        batch = self._dialect.name == "terascope" and call.priority >= _BATCH
        return [("X-Terascope-QOS", "batch")] if batch else []

    async def _healthy(self, path: str) -> None:
        status, body = await self.ask(path)
        if status != 200:
            raise EngineUnreachable(words(body) or f"the server's health check answered with status {status}")

    def _model(self, listed: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
        if listed and self._name not in listed:
            some = ", ".join([*listed][:_MOST_NAMES]) + (", ..." if len(listed) > _MOST_NAMES else "")
            raise EngineUnreachable(f"the server does not list {self._name!r}; it lists {some}")
        return listed.get(self._name, {})

    async def _version(self) -> str:
        """What vLLM and its like say at `/version`; empty where there is no such thing."""
        status, body = await self.ask("/version")
        return _text(object_of(body) if status == 200 else {}, "version")[:80]


class RemoteKind:
    """How to reach a remote server: `url`, `served_name`, `kind`, and where its key is."""

    def command(self, launch: Launch, endpoint: Endpoint) -> tuple[str, ...]:
        """See `EngineKind.command`: nothing is started, but impossible settings are refused."""
        self.connect(launch, endpoint)
        return ()

    def environment(self, launch: Launch, endpoint: Endpoint) -> Mapping[str, str]:
        """See `EngineKind.environment`."""
        return {}

    def connect(self, launch: Launch, endpoint: Endpoint) -> Engine:
        """See `EngineKind.connect`; the endpoint is the deployment's own."""
        deployment = launch.deployment
        return RemoteEngine(
            endpoint_of(deployment),
            served_name=launch.served_name,
            dialect=dialect_of(deployment),
            retries=retries_of(deployment),
        )


KIND = RemoteKind()
"""What the registry finds."""


async def _failed(answer: HttpAnswer, request_id: str, dialect: Dialect) -> MadeAnswer:
    """Return the error as the server said it, or as a 502 when it says that this gateway cannot pay any more.

    What llama.cpp calls its own failure is told as what it is.
    """
    try:
        body = await answer.read(_MOST_ERROR)
    except EngineLost as error:
        raise EngineUnreachable("the server failed, and ended before it had said why", detail=error.detail) from error
    said = engine_error(body)
    if answer.status == 402 or said.get("code") in _SPENT or said.get("type") in _SPENT:
        told = "the account that this gateway has at the remote server is used up; an operator must see to it there"
        return MadeAnswer(502, error_json(told, "server_error", "engine_error", None, request_id))
    if dialect.is_llamacpp and (meant := error_of(answer.status, body)):
        return MadeAnswer(meant.status, error_body(meant, request_id))
    return MadeAnswer(answer.status, body, answer.headers)


def _listed(body: bytes) -> dict[str, Mapping[str, Any]]:
    """The models of a `/v1/models` answer by their names; none when it does not list them as OpenAI does."""
    data = object_of(body).get("data")
    models = [one for one in data if isinstance(one, dict)] if isinstance(data, list) else []
    listed = {str(one["id"]): one for one in models if "id" in one}
    exact = {f"{name}@{one['version']}": one for name, one in listed.items() if one.get("version")}
    return {**exact, **listed}


def _length(model: Mapping[str, Any]) -> int:
    """The context length, where the server tells it: as vLLM and SGLang do, as we do, or as llama.cpp does; else 0."""
    meta = model.get("meta")
    inner = meta if isinstance(meta, dict) else {}
    for length in (model.get("max_model_len"), model.get("context_length"), inner.get("n_ctx")):
        if isinstance(length, int) and not isinstance(length, bool) and length > 0:
            return length
    return 0


def _text(said: Mapping[str, Any], name: str) -> str:
    return str(said.get(name) or "")
