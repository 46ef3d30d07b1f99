"""Deployments made, changed and removed while the gateway runs, over HTTP and by the command line's file."""

import asyncio
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from terascope.client import Client
from terascope.client.flow import Flow
from terascope.core.config import Config, DatabaseConfig, DeploymentConfig, SiteConfig
from terascope.core.errors import BadRequest, ConfigError, Conflict, NotFound
from terascope.protocol.deployments import DeploymentSettings, Layout
from terascope.store.database import sqlite_url
from terascope.testing.fleet import until
from terascope.testing.gateway import ECHO, Served, serving
from terascope.testing.slurm import SlurmCluster

ECHOES: dict[str, Any] = {"model": "parrot", "engine": "echo", "launcher": "inprocess"}


def test_the_wire_knows_every_setting() -> None:
    """What the configuration may say of a deployment, the API takes, with the same defaults."""
    config = DeploymentSettings(model="m").config("n")
    assert config == DeploymentConfig(name="n", model="m")
    assert set(DeploymentSettings.model_fields) == set(asdict(config)) - {"name"}
    assert set(Layout.model_fields) == set(asdict(config.layout))


async def ask(served: Served, model: str) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
    async with httpx.AsyncClient(headers=served.headers, timeout=60) as client:
        return await client.post(f"{served.url}/v1/chat/completions", json=body)


async def in_thread(served: Served, work: Any) -> Any:
    def run() -> Any:
        with Client(served.url, served.key) as client:
            return work(client.deployments)

    return await asyncio.to_thread(run)


async def test_from_its_making_to_its_end(tmp_path: Path) -> None:
    async with serving(data_dir=tmp_path) as served:
        fleet = served.services.fleet
        assert (await ask(served, "parrot")).status_code == 404
        made = await in_thread(served, lambda use: use.create("parrot", DeploymentSettings(**ECHOES)))
        assert (made.name, made.target, made.declared) == ("parrot", "running", False)
        assert (await ask(served, "parrot")).status_code == 200
        scaled = await in_thread(served, lambda use: use.scale("parrot", 3))
        assert scaled.replicas == 3
        await until(fleet, lambda: fleet.count("parrot").ready == 3)
        assert (await in_thread(served, lambda use: use.scale("parrot", 1))).replicas == 1
        await until(fleet, lambda: fleet.count("parrot").ready == 1)
        details = await in_thread(served, lambda use: use.show("parrot"))
        assert len(details.running) == 3
        assert (await in_thread(served, lambda use: use.stop("parrot"))).target == "stopped"
        refused = await ask(served, "parrot")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_unavailable")
        await in_thread(served, lambda use: use.scale("parrot", 1))
        assert (await ask(served, "parrot")).status_code == 200
        await in_thread(served, lambda use: use.remove("parrot"))
        assert (await ask(served, "parrot")).status_code == 404
        assert [one.name for one in (await in_thread(served, lambda use: use.list())).data] == ["echo"]


async def test_it_outlives_the_gateway(tmp_path: Path) -> None:
    async with serving(data_dir=tmp_path) as served:
        for name in ("parrot", "stopped"):
            await in_thread(
                served, lambda use, name=name: use.create(name, DeploymentSettings(**{**ECHOES, "model": name}))
            )
        await in_thread(served, lambda use: use.stop("stopped"))
    async with serving(data_dir=tmp_path) as served:
        assert (await ask(served, "parrot")).status_code == 200
        found = (await in_thread(served, lambda use: use.list())).data
        assert {one.name: (one.target, one.ready) for one in found} == {
            "echo": ("running", 1), "parrot": ("running", 1), "stopped": ("stopped", 0),
        }  # fmt: skip
        await in_thread(served, lambda use: use.scale("stopped", 2))
        assert (await ask(served, "stopped")).status_code == 200


async def test_one_that_has_become_impossible(tmp_path: Path) -> None:
    """Its site is gone from the configuration: it is told, the others are served, and it can be removed."""
    site = SiteConfig(logs=str(tmp_path / "logs"), gpus=False)
    with_site = Config(sites={"a": site}, deployments=ECHO.deployments)
    async with serving(with_site, data_dir=tmp_path / "data") as served:
        settings = DeploymentSettings(model="far", engine="echo", site="a", replicas=0)
        await in_thread(served, lambda use: use.create("far", settings))
    async with serving(data_dir=tmp_path / "data") as served:
        assert (await ask(served, "echo")).status_code == 200
        one = await in_thread(served, lambda use: use.show("far"))
        assert (one.state, "there is no site 'a'" in one.message) == ("failed", True)
        await in_thread(served, lambda use: use.remove("far"))
        with pytest.raises(NotFound):
            await in_thread(served, lambda use: use.show("far"))


async def test_putting_is_idempotent(tmp_path: Path) -> None:
    async with serving(data_dir=tmp_path) as served:
        fleet = served.services.fleet

        async def put(**fields: Any) -> str:
            settings = DeploymentSettings(**{**ECHOES, **fields})
            return str((await in_thread(served, lambda use: use.put("parrot", settings))).done)

        assert [await put(), await put()] == ["created", "unchanged"]
        await until(fleet, lambda: fleet.count("parrot").ready == 1)
        [before] = [one for one in fleet.ready() if one.row.deployment == "parrot"]
        assert await put(replicas=2) == "changed"
        await until(fleet, lambda: fleet.count("parrot").ready == 2)
        assert before in fleet.ready()
        assert await put(replicas=2, context_length=99) == "changed"
        await until(fleet, lambda: fleet.count("parrot").ready == 2 and before not in fleet.ready())
        assert fleet.context_length(before.row.model) == 99


async def test_its_number_may_follow_the_load(tmp_path: Path) -> None:
    """None is kept, the first request starts one; bounds are changed while it runs, and outlive the gateway."""
    async with serving(data_dir=tmp_path) as served:
        made = await in_thread(served, lambda use: use.create("parrot", DeploymentSettings(**ECHOES, min=0, max=3)))
        assert (made.min, made.max, made.replicas, made.state) == (0, 3, 0, "cold")
        assert (await ask(served, "parrot")).status_code == 200
        raised = await in_thread(served, lambda use: use.scale("parrot", least=2, most=4))
        assert (raised.min, raised.max, raised.replicas) == (2, 4, 2)
        with pytest.raises(BadRequest, match="`min` is 5 and `max` 4"):
            await in_thread(served, lambda use: use.scale("parrot", least=5, most=4))
    async with serving(data_dir=tmp_path) as served:
        shown = await in_thread(served, lambda use: use.show("parrot"))
        assert (shown.min, shown.max, shown.replicas) == (2, 4, 2)
        fixed = await in_thread(served, lambda use: use.scale("parrot", 1))
        assert (fixed.min, fixed.max, fixed.replicas) == (1, 1, 1)
        stopped = await in_thread(served, lambda use: use.stop("parrot"))
        assert (stopped.target, stopped.state) == ("stopped", "stopped")
        assert (await ask(served, "parrot")).status_code == 503


async def test_two_gateways_on_one_database_by_mistake(tmp_path: Path) -> None:
    """The second is refused, and the replicas of the first go on: their rows are not its own to stop."""
    shared = replace(ECHO, database=DatabaseConfig(url=sqlite_url(tmp_path / "shared.db")))
    async with serving(shared, data_dir=tmp_path / "one") as served:
        with pytest.raises(ConfigError, match=r"another gateway uses .*shared.db; stop it, or choose another"):
            async with serving(shared, data_dir=tmp_path / "two"):
                pass
        assert (await ask(served, "echo")).status_code == 200


async def test_what_is_refused(tmp_path: Path) -> None:
    async with serving(data_dir=tmp_path) as served:
        await in_thread(served, lambda use: use.create("parrot", DeploymentSettings(**ECHOES)))
        for name, kind in (("parrot", Conflict), ("echo", Conflict)):
            with pytest.raises(kind):
                await in_thread(served, lambda use, name=name: use.create(name, DeploymentSettings(**ECHOES)))
        for change in (lambda use: use.scale("echo", 2), lambda use: use.stop("echo"), lambda use: use.remove("echo")):
            with pytest.raises(Conflict, match="stands in the configuration"):
                await in_thread(served, change)
        for change in (
            lambda use: use.scale("nobody", 2),
            lambda use: use.remove("nobody"),
            lambda use: use.log("nobody"),
        ):
            with pytest.raises(NotFound):
                await in_thread(served, change)
        for fields in (
            {"engine": "abacus"},
            {"launcher": "rocket"},
            {"site": "moon", "launcher": "local"},
            {"modes": ["x"]},
            {"qos": ["x"]},
            {"min": 2, "max": 1},
            {"hot": 2},
        ):
            settings = DeploymentSettings(**{**ECHOES, **fields})
            with pytest.raises(BadRequest):
                await in_thread(served, lambda use, settings=settings: use.create("another", settings))
        assert len((await in_thread(served, lambda use: use.list())).data) == 2


async def test_logs_of_all_nodes(tmp_path: Path) -> None:
    """The launch's directory holds a log for each; that of the first is found through a link."""
    launch = tmp_path / "launch"
    launch.mkdir()
    for name, words in (("output", "from the first\n"), ("output-1", "one\ntwo from the second\n")):
        (launch / f"{name}.log").write_text(words)
    async with serving(data_dir=tmp_path / "data") as served:
        await in_thread(served, lambda use: use.create("parrot", DeploymentSettings(**ECHOES)))
        [replica] = (await in_thread(served, lambda use: use.show("parrot"))).running
        (tmp_path / "data" / "logs" / f"{replica.id}.log").symlink_to(launch / "output.log")
        assert (await in_thread(served, lambda use: use.log("parrot"))).text == "from the first\n"
        assert (await in_thread(served, lambda use: use.log("parrot", lines=1, rank=1))).text == "two from the second\n"
        assert (
            await in_thread(served, lambda use: _first(use.follow_log("parrot", rank=1)))
            == "one\ntwo from the second\n"
        )
        for asked in (lambda use: use.log("parrot", rank=2), lambda use: _first(use.follow_log("parrot", rank=2))):
            with pytest.raises(NotFound, match="no log of rank 2"):
                await in_thread(served, asked)


def _first(log: Flow[str]) -> str:
    with log as pieces:
        return next(iter(pieces))


@pytest.mark.slow
async def test_on_a_cluster(slurm: SlurmCluster, tmp_path: Path) -> None:
    """Shown before it is made; its log is the job's."""
    site = SiteConfig(logs=str(tmp_path / "logs"), gpus=False, address="127.0.0.1", poll_s=0.2)
    async with serving(Config(sites={"a": site}), data_dir=tmp_path / "data") as served:
        settings = DeploymentSettings(model="parrot", engine="echo", site="a")
        shown = await in_thread(served, lambda use: use.preview("parrot", settings))
        assert "#SBATCH --nodes=1" in shown.script
        assert not (tmp_path / "logs").exists()
        await in_thread(served, lambda use: use.create("parrot", settings))
        assert (await ask(served, "parrot")).status_code == 200
        details = await in_thread(served, lambda use: use.show("parrot"))
        assert str(details.running[0].handle["job"]).isdecimal()
        assert isinstance((await in_thread(served, lambda use: use.log("parrot"))).text, str)
