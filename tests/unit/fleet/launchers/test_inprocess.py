"""The launcher that starts nothing, and the registry."""

import asyncio

import pytest

from terascope.core.errors import ConfigError
from terascope.fleet.launchers.contract import Program, Sight
from terascope.fleet.launchers.inprocess import InProcessLauncher
from terascope.fleet.launchers.registry import all_launchers, choose
from terascope.testing.clock import ManualClock
from terascope.testing.launchers import start


async def test_it_runs_until_it_is_stopped() -> None:
    launcher = InProcessLauncher()
    handle = await start(launcher, Program("replica_1", ()))
    assert (await launcher.observe(handle)).sight is Sight.KNOWN
    waiting = asyncio.create_task(launcher.ended(handle))
    await asyncio.sleep(0)
    assert not waiting.done()
    await launcher.stop(handle, grace_s=0.0)
    await launcher.stop(handle, grace_s=0.0)
    assert (await waiting).sight is Sight.GONE
    assert (await launcher.observe(handle)).sight is Sight.GONE


async def test_another_life_does_not_know_it() -> None:
    handle = await start(InProcessLauncher(), Program("replica_1", ()))
    assert (await InProcessLauncher().observe(handle)).sight is Sight.GONE
    assert (await InProcessLauncher().ended(handle)).sight is Sight.GONE


async def test_it_starts_no_program() -> None:
    with pytest.raises(OSError, match="starts no program"):
        await start(InProcessLauncher(), Program("replica_1", ("true",)))


def test_launchers_have_names() -> None:
    launchers = all_launchers(ManualClock())
    assert sorted(launchers) == ["inprocess", "local"]
    assert choose(launchers, "local") is launchers["local"]
    with pytest.raises(ConfigError, match="there is no launcher 'moon'; choose one of inprocess, local"):
        choose(launchers, "moon")
