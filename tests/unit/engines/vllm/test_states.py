"""What becomes of a request for hidden states on its way to vLLM, and what vLLM must be started with for it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from terascope.core.config import DeploymentConfig, EngineConfig, LayoutConfig
from terascope.core.errors import BadRequest, ConfigError, EngineUnreachable, UnsupportedFeature
from terascope.core.models import Feature, ModelVersion, Task
from terascope.engines.adapter_files import AdapterFiles
from terascope.engines.contract import Endpoint, EngineCall, Launch
from terascope.engines.http1 import HttpAnswer
from terascope.engines.vllm.adapter import KIND, capabilities
from terascope.engines.vllm.inside import terascope_route, terascope_states
from terascope.engines.vllm.states import ARGUMENTS, INSIDE, Seen, States

VERSION = ModelVersion("big", "1", "abc", "path:/m/big", "/m/big", Task.GENERATE, 4096)
SOCKET = Endpoint("unix:/run/x.sock", "the secret")
EAGER = {"hidden_states": "", "enforce-eager": ""}


def launch(program: EngineConfig | None = None, version: ModelVersion = VERSION, **fields: Any) -> Launch:
    deployment = DeploymentConfig(model="big", engine="vllm", **{"options": EAGER, **fields})
    return Launch(deployment, version, program or EngineConfig("python"))


def test_what_vllm_is_started_with() -> None:
    words = " ".join(KIND.command(launch(), SOCKET))
    assert words.endswith(f"--enforce-eager {' '.join(ARGUMENTS)}")
    assert "hidden" not in words.removesuffix(" ".join(ARGUMENTS))
    variables = KIND.environment(launch(EngineConfig(environment={"PYTHONPATH": "/a:/b"})), SOCKET)
    assert variables["PYTHONPATH"] == f"{INSIDE}:/a:/b"
    assert KIND.environment(launch(), SOCKET)["PYTHONPATH"] == INSIDE
    assert "PYTHONPATH" not in KIND.environment(launch(options={}), SOCKET)


def test_what_vllm_loads_is_there_by_these_names() -> None:
    for word, module in ((ARGUMENTS[1], terascope_states), (ARGUMENTS[3], terascope_route)):
        name, _, attribute = word.partition(".")
        assert Path(str(module.__file__)) == Path(INSIDE, f"{name}.py")
        assert hasattr(module, attribute)
    assert terascope_route.WANTED == terascope_states.WANTED


def test_what_it_says_of_itself() -> None:
    assert "embeddings" in capabilities(launch()).endpoints
    assert {Feature.EMBEDDING_LAYERS, Feature.DIMENSIONS} <= capabilities(launch()).features
    assert Feature.EMBEDDING_OPTIONS not in capabilities(launch()).features
    assert "embeddings" not in capabilities(launch(options={"enforce-eager": ""})).endpoints


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"options": {"hidden-states": ""}}, "needs `enforce-eager`"),
        ({"options": {**EAGER, "worker-extension-cls": "a.B"}}, "one extension"),
        ({"layout": LayoutConfig(data=2)}, "`tensor` alone"),
        ({"layout": LayoutConfig(pipeline=2)}, "`tensor` alone"),
        ({"version": replace(VERSION, task=Task.EMBED)}, "models that generate"),
    ],
)
def test_what_it_cannot_be_started_with(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        KIND.command(launch(**fields), SOCKET)


@pytest.mark.parametrize(
    ("asked", "layer"), [(None, None), (-1, None), (30, None), (0, 0), (29, 29), (-2, 29), (-31, 0)]
)
def test_layers_count_as_transformers_counts_them(asked: int | None, layer: int | None) -> None:
    assert Seen(30, 8).layer(asked) == layer


@pytest.mark.parametrize(("seen", "asked"), [(Seen(30, 8), 31), (Seen(30, 8), -32), (Seen(0, 8), 1), (Seen(0, 8), 0)])
def test_a_layer_that_is_not_there(seen: Seen, asked: int) -> None:
    with pytest.raises(BadRequest, match="layer") as refused:
        seen.layer(asked)
    assert refused.value.param == "layer"


def test_of_some_models_only_the_end_is_seen() -> None:
    assert Seen(0, 8).layer(None) is None
    assert Seen(0, 8).layer(-1) is None


class Server:
    """Says what can be seen, and keeps what it is asked; nothing comes of it."""

    def __init__(self, status: int = 200, said: bytes = b'{"layers": 30, "width": 8}') -> None:
        self.sent: list[dict[str, Any]] = []
        self._told = status, said

    async def ask(self, path: str) -> tuple[int, bytes]:
        assert path == "/v1/terascope/states"
        return self._told

    async def send(self, call: EngineCall) -> HttpAnswer:
        self.sent.append(orjson.loads(call.body))
        raise EngineUnreachable("it has gone")


async def sent(**fields: Any) -> dict[str, Any]:
    """What vLLM is told of a request."""
    server = Server()
    call = EngineCall("req_1", "embeddings", orjson.dumps({"model": "big@1", **fields}), priority=2)
    with pytest.raises(EngineUnreachable, match="gone"):
        await States(server.ask, server.send).answer(call)
    [found] = server.sent
    return found


async def test_what_vllm_is_told() -> None:
    assert await sent(input="a") == {
        "model": "big@1", "inputs": ["a"], "layer": None, "pooling": "last", "scaled": True, "dimensions": None,
        "base64": False, "priority": 2,
    }  # fmt: skip
    assert (await sent(input=[1, 2]))["inputs"] == [[1, 2]]
    assert (await sent(input=[[1, 2], [3]]))["inputs"] == [[1, 2], [3]]
    assert (await sent(input=["a", "b"], encoding_format="base64"))["base64"] is True
    assert (await sent(input="a", pooling="none"))["scaled"] is False
    assert (await sent(input="a", pooling="none", dimensions=3))["scaled"] is True
    assert (await sent(input="a", normalize=False, layer=-3, stream=False, truncate="error"))["layer"] == 28


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a", "dimensions": 9}, "dimensions"),
        ({"input": "a", "pooling": "middle"}, "pooling"),
        ({"input": "a", "truncate": "end"}, "truncate"),
        ({"input": "a", "stream": True}, "stream"),
        ({"input": "a", "windows": {"size": 4}}, "windows"),
    ],
)
async def test_what_vllm_is_not_asked(fields: dict[str, Any], param: str) -> None:
    server = Server()
    call = EngineCall("req_1", "embeddings", orjson.dumps({"model": "big@1", **fields}))
    with pytest.raises(BadRequest) as refused:
        await States(server.ask, server.send).answer(call)
    assert (refused.value.param, server.sent) == (param, [])


async def test_adapters_are_not_seen() -> None:
    server = Server()
    adapter = AdapterFiles("big:a", "0" * 64, Path("/a"), {})
    call = EngineCall("req_1", "embeddings", b'{"model": "big@1", "input": "a"}', adapter=adapter)
    with pytest.raises(UnsupportedFeature, match="without adapters"):
        await States(server.ask, server.send).answer(call)


async def test_a_server_that_gives_no_states_is_not_ready() -> None:
    server = Server(500, b'{"error": {"message": "no such method"}}')
    with pytest.raises(EngineUnreachable, match="no such method"):
        await States(server.ask, server.send).seen()
