"""The `llm` command line against a gateway, set up as its users do: by `extra-openai-models.yaml` and a key."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from terascope.core.config import Config, DeploymentConfig
from terascope.testing.faults import FaultEngine, faulty
from terascope.testing.gateway import Served, serving

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class User:
    """Somebody with `llm` installed, and with the gateway in its configuration."""

    served: Served
    engine: FaultEngine
    home: Path

    async def llm(self, *arguments: str, **environment: str) -> Done:
        """Run `llm`. It logs what it does into the user's own directory."""
        told = {"LLM_USER_PATH": str(self.home), "OPENAI_BASE_URL": f"{self.served.url}/v1"}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "llm", *arguments, env=os.environ | told | environment,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode is not None
        return Done(process.returncode, out.decode(), err.decode())


@pytest.fixture
async def user(tmp_path: Path) -> AsyncIterator[User]:
    home = tmp_path / "llm"
    home.mkdir()
    async with faulty() as engine:
        echo = DeploymentConfig(model="echo", engine="echo", launcher="inprocess")
        far = DeploymentConfig(model="far", engine="remote", url=engine.url)
        async with serving(Config(deployments=[echo, far]), data_dir=tmp_path / "data") as served:
            known = {"api_base": f"{served.url}/v1", "api_key_name": "centre", "supports_schema": True}
            models = [
                {"model_id": "tera", "model_name": "echo"} | known,
                {"model_id": "tera-far", "model_name": "far"} | known,
                {"model_id": "tera-text", "model_name": "echo", "completion": True} | known,
            ]
            (home / "extra-openai-models.yaml").write_text(yaml.safe_dump(models))
            (home / "keys.json").write_text(json.dumps({"centre": served.key}))
            yield User(served, engine.engine, home)


async def test_prompt_streamed_and_whole(user: User) -> None:
    said = "naïve 日本語 🎉: the quick brown fox"
    streamed = await user.llm("-m", "tera", said, "--usage")
    assert (streamed.status, streamed.out) == (0, said + "\n"), streamed
    assert "Token usage: " in streamed.err
    whole = await user.llm("-m", "tera", said, "--no-stream")
    assert (whole.status, whole.out) == (0, said + "\n"), whole


async def test_a_conversation_goes_on_with_system_prompt_and_options(user: User) -> None:
    first = await user.llm("-m", "tera-far", "one", "-s", "be brief", "-o", "temperature", "0.5", "-o", "seed", "7")
    assert (first.status, first.out) == (0, "one\n"), first
    second = await user.llm("-c", "two", "-o", "max_tokens", "1")
    assert (second.status, second.out) == (0, "two\n"), second
    before, after = (received.fields for received in user.engine.received)
    assert (before["temperature"], before["seed"]) == (0.5, 7)
    assert before["messages"][0] == {"role": "system", "content": "be brief"}
    assert [message["content"] for message in after["messages"]][-3:] == ["one", "one", "two"]
    assert after["max_tokens"] == 1


async def test_completions(user: User) -> None:
    done = await user.llm("-m", "tera-text", "once upon a time")
    assert (done.status, done.out) == (0, "once upon a time\n"), done


async def test_embeddings_by_an_alias_of_the_name_that_llm_knows(user: User) -> None:
    async with httpx.AsyncClient(base_url=user.served.url, headers=user.served.headers) as operator:
        made = await operator.put("/admin/v1/models/aliases/text-embedding-3-small", json={"target": "echo"})
        assert made.status_code == 200
        direct = await operator.post("/v1/embeddings", json={"model": "echo", "input": "a galaxy"})
    done = await user.llm("embed", "-m", "3-small", "-c", "a galaxy", "--key", user.served.key)
    assert done.status == 0, done
    assert json.loads(done.out) == pytest.approx(direct.json()["data"][0]["embedding"], abs=1e-6)


async def test_errors_are_told_and_never_look_like_answers(user: User) -> None:
    refused = await user.llm("-m", "tera", "hello", "--key", "wrong")
    assert refused.status != 0
    assert "this API key is not known here" in refused.err
    schema = await user.llm("-m", "tera", "hello", "--schema", "name, age int")
    assert schema.status != 0
    assert "knows no schemas" in schema.err
    broken = await user.llm("-m", "tera-far", "fault:die")
    assert broken.status != 0
    assert "the engine" in broken.err
