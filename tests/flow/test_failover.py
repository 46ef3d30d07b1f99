"""`kill -9` of a replica under load: every answer is whole, or says that it is not; another model notices nothing."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from terascope.core.config import Config, DeploymentConfig, ServerConfig
from terascope.testing.fleet import until
from terascope.testing.gateway import Served, serving
from terascope.testing.streams import Stream, ask

pytestmark = pytest.mark.slow

PAIR = DeploymentConfig(model="pair", engine="echo", launcher="local", replicas=2, options={"delay_ms": "100"})
OTHER = DeploymentConfig(model="other", engine="echo", launcher="inprocess")
CLIENTS = 50
TEXT = " ".join(f"word{number}" for number in range(20))


class Begun:
    """Which streams have begun; `most` is set once more have than one replica can have."""

    def __init__(self) -> None:
        self.most = asyncio.Event()
        self._numbers: set[int] = set()

    def by(self, number: int) -> Callable[[], None]:
        """What stream `number` calls when it begins."""

        def begins() -> None:
            self._numbers.add(number)
            if len(self._numbers) >= 0.8 * CLIENTS:
                self.most.set()

        return begins


def _kill(served: Served) -> None:
    [replica, *_] = served.services.fleet.replicas_for(_name(served))
    os.kill(int(replica.row.handle["program"]), signal.SIGKILL)


async def _both(served: Served) -> None:
    fleet = served.services.fleet
    await until(fleet, lambda: len(fleet.replicas_for(_name(served))) == 2)


def _name(served: Served) -> str:
    return next(name for name in served.services.fleet.served() if name.startswith("pair@"))


async def _record(http: httpx.AsyncClient, stream: Stream) -> tuple[str, str, int]:
    said = (await http.get(f"/admin/v1/runs/{stream.id}")).json()
    return said["outcome"], said["error"], said["attempts"]


async def test_nothing_is_lost_in_silence(tmp_path: Path) -> None:
    """vLLM production stack #612, #749: a backend that dies takes requests with it that others could answer."""
    config = Config(server=ServerConfig(heartbeat_s=0.5), deployments=[PAIR, OTHER])
    async with (
        serving(config, data_dir=tmp_path) as served,
        httpx.AsyncClient(base_url=served.url, headers=served.headers, timeout=60) as http,
    ):
        await _both(served)
        begun = Begun()
        running = [asyncio.create_task(ask(http, "pair", TEXT, first=begun.by(n))) for n in range(CLIENTS)]
        await begun.most.wait()
        _kill(served)
        late = [asyncio.create_task(ask(http, "pair", TEXT)) for _ in range(10)]
        before = time.monotonic()
        assert (await ask(http, "other", "hello")).whole("hello")
        assert time.monotonic() - before < 5.0
        streams, later = await asyncio.gather(*running), await asyncio.gather(*late)
        assert [one for one in (*streams, *later) if one.lost(TEXT)] == []
        assert all(one.whole(TEXT) for one in later)
        cut = [one for one in streams if not one.whole(TEXT)]
        assert 0 < len(cut) < CLIENTS, "some were on the replica that died, and some were not"
        assert {one.error for one in cut} == {"engine_lost"}
        assert await _record(http, cut[0]) == ("failed", "engine_lost", 1)
        assert all(TEXT.startswith(one.text) for one in cut)
        await _both(served)


async def test_dead_replicas_of_one_model_let_another_alone(tmp_path: Path) -> None:
    """Who asks for the dead waits until they are back, who asks for the other is answered at once."""
    dead = replace(PAIR, model="dead", options={})
    config = Config(deployments=[dead, OTHER])
    async with (
        serving(config, data_dir=tmp_path) as served,
        httpx.AsyncClient(base_url=served.url, headers=served.headers, timeout=60) as http,
    ):
        fleet = served.services.fleet
        name = next(one for one in fleet.served() if one.startswith("dead@"))
        for replica in fleet.replicas_for(name):
            os.kill(int(replica.row.handle["program"]), signal.SIGKILL)
        waiting = [asyncio.create_task(ask(http, "dead", "hello")) for _ in range(20)]
        for _ in range(10):
            before = time.monotonic()
            assert (await ask(http, "other", "hello")).whole("hello")
            assert time.monotonic() - before < 5.0
        assert all(one.whole("hello") for one in await asyncio.gather(*waiting))
