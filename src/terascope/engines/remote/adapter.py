"""Any server that speaks OpenAI's API, with its own key: vLLM, SGLang, another centre, a commercial service.

Nothing is started. What the server can do is not asked, since few can say it: every endpoint is tried, and what the
server answers is passed on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from terascope.core import environment
from terascope.core.config import DeploymentConfig
from terascope.core.errors import ConfigError, EngineUnreachable
from terascope.core.models import Capabilities, Feature
from terascope.engines.contract import Endpoint, Engine, EngineInfo, Launch
from terascope.engines.upstream import Address, HttpEngine, words

_ENDPOINTS = ("chat/completions", "completions", "embeddings", "tokenize", "detokenize")
# words of ours: a server that does not know them would let them pass and do something else; and vectors travel in other
# forms there: vLLM takes pickles of torch
_OURS = {
    Feature.REPRODUCIBLE, Feature.PROMPT_EMBEDS, Feature.MIXED_PROMPTS, Feature.EMBEDDING_OPTIONS, Feature.ADAPTERS,
}  # fmt: skip
_CAPABILITIES = Capabilities(frozenset(_ENDPOINTS), frozenset(Feature) - _OURS)
_MOST_NAMES = 10  # models named in a message


class RemoteEngine(HttpEngine):
    """`HttpEngine` for a server that need not know Terascope: it is asked for its models instead."""

    def __init__(self, endpoint: Endpoint, *, served_name: str) -> None:
        super().__init__(endpoint, served_name=served_name, tells_terms=False)  # who asks is not a stranger's to know
        self._name = served_name

    async def probe(self) -> EngineInfo:
        """As the contract says; a server that lists models, but not ours, is unreachable for us."""
        status, body = await self.ask("/v1/models")
        if status != 200:
            raise EngineUnreachable(words(body) or f"the server answered /v1/models with status {status}")
        model = self._model(_listed(body))
        return EngineInfo("remote", await self._version(), _CAPABILITIES, _length(model))

    def _model(self, listed: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
        if listed and self._name not in listed:
            some = ", ".join([*listed][:_MOST_NAMES]) + (", ..." if len(listed) > _MOST_NAMES else "")
            raise EngineUnreachable(f"the server does not list {self._name!r}; it lists {some}")
        return listed.get(self._name, {})

    async def _version(self) -> str:
        """What vLLM and its like say at `/version`; empty where there is no such thing."""
        status, body = await self.ask("/version")
        said = _object(body) if status == 200 else {}
        return str(said.get("version") or "")[:80]


@dataclass(frozen=True, slots=True)
class RemoteKind:
    """How to reach a remote server: `url`, `served_name`, and the variable that holds its key."""

    def command(self, launch: Launch, endpoint: Endpoint) -> tuple[str, ...]:
        _endpoint(launch.deployment)
        return ()

    def environment(self, launch: Launch, endpoint: Endpoint) -> Mapping[str, str]:
        return {}

    def connect(self, launch: Launch, endpoint: Endpoint) -> Engine:
        return RemoteEngine(_endpoint(launch.deployment), served_name=launch.served_name)


KIND = RemoteKind()
"""What the registry finds."""


def _endpoint(deployment: DeploymentConfig) -> Endpoint:
    """Where the server is, and its key. Raises `ConfigError` when either is missing or impossible."""
    if not deployment.url:
        raise ConfigError(f"the deployment of {deployment.model!r} has no url; write the server's base URL")
    url = deployment.url.rstrip("/").removesuffix("/v1")
    Address.parse(url)
    if deployment.options:
        raise ConfigError(f"the remote engine has no options; {min(deployment.options)!r} is not known")
    name = deployment.api_key_env
    key = environment.secret(name) if name else ""
    if name and not key:
        raise ConfigError(f"api_key_env names the environment variable {name!r}, which is not set")
    return Endpoint(url, key)


def _listed(body: bytes) -> dict[str, Mapping[str, Any]]:
    """The models of a `/v1/models` answer by their names; none when it does not list them as OpenAI does."""
    data = _object(body).get("data")
    models = [one for one in data if isinstance(one, dict)] if isinstance(data, list) else []
    return {str(one["id"]): one for one in models if "id" in one}


def _length(model: Mapping[str, Any]) -> int:
    """The context length, where the server tells it as vLLM does; else 0."""
    length = model.get("max_model_len")
    return length if isinstance(length, int) and not isinstance(length, bool) and length > 0 else 0


def _object(body: bytes) -> dict[str, Any]:
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return said if isinstance(said, dict) else {}
