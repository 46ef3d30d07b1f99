"""A gateway between its opening and the end of `deploy`."""

from pathlib import Path

import httpx
import pytest

from terascope.access.scopes import OPERATOR
from terascope.cli.assemble import deploy, opened
from terascope.core.config import Config, DeploymentConfig, ModelConfig
from terascope.core.errors import ModelNotFound, ModelUnavailable
from terascope.gateway.app import Gateway
from terascope.gateway.services import Services

CONFIG = Config(
    models={"small": ModelConfig(source="/nowhere", aliases=["tiny"])},
    deployments=[DeploymentConfig(model="echo@1", engine="echo", launcher="inprocess")],
)


async def ask(services: Services, model: str) -> httpx.Response:
    key, _ = await services.access.keys.create("tests", [OPERATOR])
    transport = httpx.ASGITransport(Gateway(services))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        chat = {"model": model, "messages": [{"role": "user", "content": "one two"}]}
        return await client.post("/v1/chat/completions", json=chat, headers={"Authorization": f"Bearer {key}"})


@pytest.mark.parametrize("model", ["echo", "echo@1", "small", "tiny", "small@2", "small:adapter"])
async def test_a_declared_model_is_on_its_way_before_it_is_there(model: str, tmp_path: Path) -> None:
    async with opened(CONFIG, tmp_path / "data", tmp_path / "cache") as services:
        answer = await ask(services, model)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["error"]["code"] == "model_unavailable"
        assert answer.json()["error"]["message"].startswith(f"{model} is being prepared")
        with pytest.raises(ModelNotFound, match="there is no model 'ech'"):
            services.catalog.resolve("ech")


async def test_after_a_restart_it_is_in_the_catalogue_before_it_is_served(tmp_path: Path) -> None:
    async with opened(CONFIG, tmp_path / "data", tmp_path / "cache") as services:
        await deploy(services, lambda _name, _message: None)
        assert (await ask(services, "echo")).status_code == 200
        with pytest.raises(ModelNotFound):
            services.catalog.resolve("small")  # it could not be had, and is not expected any more
    async with opened(CONFIG, tmp_path / "data", tmp_path / "cache") as services:
        version = services.catalog.resolve("echo")
        with pytest.raises(ModelUnavailable, match="the gateway is starting"):
            services.fleet.check_hope(version.public_name)
        assert (await ask(services, "echo")).status_code == 503
