"""The conformance suite of launchers, and launchers that fail in named ways."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from pathlib import Path

from terascope.fleet.launchers.contract import Handle, Launcher, Program, Sight
from terascope.testing.programs import job, missing, pipe_in, server

LauncherFactory = Callable[[], Launcher]
"""Returns a new launcher, as a gateway that has just started has one; it must find what earlier ones started."""

_GRACE_S = 20.0  # long enough for an obedient program on a busy machine, so that force would show as a hang


async def check_launcher(launcher: LauncherFactory, directory: Path) -> None:
    """Run the conformance suite with programs in `directory`; raises `AssertionError` at the first failure.

    `directory` must be one that the programs see, too. For a report per check, run `LAUNCHER_CHECKS` one by one.
    """
    for check in LAUNCHER_CHECKS:
        await check(launcher, directory)


async def start(launcher: Launcher, program: Program) -> Handle:
    """Start `program` and return its last handle."""
    handles = [handle async for handle in launcher.start(program)]
    assert handles, "start yields a handle for what it leaves behind"
    return handles[-1]


async def check_job_that_ends_well(launcher: LauncherFactory, directory: Path) -> None:
    """A finite job that ends with code 0 has ended; nothing failed."""
    one = launcher()
    handle = await start(one, job(0))
    assert await one.ended(handle) == await one.observe(handle)
    seen = await one.observe(handle)
    assert (seen.sight, seen.exit_code) == (Sight.GONE, 0)
    await one.stop(handle, grace_s=_GRACE_S)


async def check_job_that_fails(launcher: LauncherFactory, directory: Path) -> None:
    """The exit code is told, with a reason that a user understands."""
    one = launcher()
    handle = await start(one, job(3))
    seen = await one.ended(handle)
    assert (seen.sight, seen.exit_code) == (Sight.GONE, 3)
    assert "3" in seen.reason
    await one.stop(handle, grace_s=_GRACE_S)


async def check_output_goes_to_the_log(launcher: LauncherFactory, directory: Path) -> None:
    """Both outputs are in the log file, whose folder only its user need see."""
    one, log = launcher(), directory / "job.log"
    handle = await start(one, job(0, log=log))
    await one.ended(handle)
    await one.stop(handle, grace_s=_GRACE_S)
    text = log.read_text()
    assert "said to the standard output" in text
    assert "said to the standard error" in text


async def check_server_runs_until_it_is_stopped(launcher: LauncherFactory, directory: Path) -> None:
    """A server is known while it runs; stopping it ends it, and whoever waits for its end hears of it."""
    one = launcher()
    with pipe_in(directory) as pipe:
        handle = await start(one, server(pipe))
        await pipe.up()
        assert (await one.observe(handle)).sight is Sight.KNOWN
        waiting = asyncio.create_task(one.ended(handle))
        await one.stop(handle, grace_s=_GRACE_S)
        assert pipe.nobody_lives()
        assert (await waiting).sight is Sight.GONE
        assert (await one.observe(handle)).sight is not Sight.KNOWN


async def check_stubborn_family_is_killed(launcher: LauncherFactory, directory: Path) -> None:
    """What ignores SIGTERM is killed after the grace, with children that left their session and lost their parents."""
    one = launcher()
    with pipe_in(directory) as pipe:
        handle = await start(one, server(pipe, stubborn=True, children=2))
        await pipe.up(3)
        await one.stop(handle, grace_s=0.1)
        assert pipe.nobody_lives()


async def check_children_do_not_outlive_their_program(launcher: LauncherFactory, directory: Path) -> None:
    """An obedient program that leaves children behind takes them with it."""
    one = launcher()
    with pipe_in(directory) as pipe:
        handle = await start(one, server(pipe, children=1))
        await pipe.up(2)
        await one.stop(handle, grace_s=1.0)
        assert pipe.nobody_lives()


async def check_stop_is_idempotent(launcher: LauncherFactory, directory: Path) -> None:
    """Stopping what has been stopped, or has ended by itself, is no error."""
    one = launcher()
    with pipe_in(directory) as pipe:
        running, ended = await start(one, server(pipe)), await start(one, job(0))
        await pipe.up()
        await one.ended(ended)
        for handle in (running, ended, running, ended):
            await one.stop(handle, grace_s=_GRACE_S)
        assert pipe.nobody_lives()


async def check_missing_program(launcher: LauncherFactory, directory: Path) -> None:
    """A program that is not there is an `OSError`, or where that cannot be known at once an end that is no success."""
    one = launcher()
    try:
        handle = await start(one, missing())
    except OSError:
        return
    seen = await one.ended(handle)
    assert seen.sight is Sight.GONE
    assert seen.exit_code != 0
    await one.stop(handle, grace_s=_GRACE_S)


async def check_secrets_travel_in_the_environment(launcher: LauncherFactory, directory: Path) -> None:
    """The program gets its environment; its command line and the handle do not show it."""
    one = launcher()
    with pipe_in(directory) as pipe:
        handle = await start(one, server(pipe, secret="only-for-the-environment"))
        [[_, _, secret, *arguments]] = await pipe.up()
        await one.stop(handle, grace_s=_GRACE_S)
    assert secret == "only-for-the-environment"
    assert secret not in " ".join(arguments)
    assert secret not in str(dict(handle))


async def check_every_step_can_be_the_last(launcher: LauncherFactory, directory: Path) -> None:
    """After a start that broke off at any step, `stop` with the last handle leaves nothing."""
    one = launcher()
    steps = len([handle async for handle in _started_and_stopped(one, directory)])
    for last in range(1, steps + 1):
        with pipe_in(directory) as pipe:
            starting = one.start(server(pipe, stubborn=True))
            for _ in range(last):
                handle = await anext(starting)
            if isinstance(starting, AsyncGenerator):
                await starting.aclose()
            await launcher().stop(handle, grace_s=0.1)
            assert pipe.nobody_lives(), f"after step {last}"
            await one.stop(handle, grace_s=0.1)


async def check_another_life_finds_it(launcher: LauncherFactory, directory: Path) -> None:
    """A launcher that did not start a program sees it by its handle, hears of its end, and can stop it."""
    first, second = launcher(), launcher()
    with pipe_in(directory) as pipe:
        handle = await start(first, server(pipe, children=1))
        await pipe.up(2)
        assert (await second.observe(handle)).sight is Sight.KNOWN
        waiting = asyncio.create_task(second.ended(handle))
        await second.stop(handle, grace_s=1.0)
        assert pipe.nobody_lives()
        assert (await waiting).sight is Sight.GONE
        await first.stop(handle, grace_s=1.0)


async def check_waiting_can_be_cancelled(launcher: LauncherFactory, directory: Path) -> None:
    """Who stops waiting for an end does not end the program, nor disturb another who waits."""
    one = launcher()
    with pipe_in(directory) as pipe:
        handle = await start(one, server(pipe))
        await pipe.up()
        leaving, staying = (asyncio.create_task(one.ended(handle)) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait({leaving})
        assert leaving.cancelled()
        assert (await one.observe(handle)).sight is Sight.KNOWN
        assert not staying.done()
        await one.stop(handle, grace_s=_GRACE_S)
        await staying


async def check_strange_handles(launcher: LauncherFactory, directory: Path) -> None:
    """A handle that says nothing is no reason to fail, nor to stop anything."""
    one = launcher()
    handles: tuple[Handle, ...] = ({}, {"boot": "another", "guard": 1, "guard_started": 1}, {"id": "nobody"})
    for handle in handles:
        assert (await one.observe(handle)).sight is not Sight.KNOWN
        await one.stop(handle, grace_s=0.0)


async def _started_and_stopped(launcher: Launcher, directory: Path) -> AsyncIterator[Handle]:
    with pipe_in(directory) as pipe:
        async for handle in launcher.start(server(pipe)):
            yield handle
        await launcher.stop(handle, grace_s=_GRACE_S)


Check = Callable[[LauncherFactory, Path], Awaitable[None]]
LAUNCHER_CHECKS: tuple[Check, ...] = (
    check_job_that_ends_well,
    check_job_that_fails,
    check_output_goes_to_the_log,
    check_server_runs_until_it_is_stopped,
    check_stubborn_family_is_killed,
    check_children_do_not_outlive_their_program,
    check_stop_is_idempotent,
    check_missing_program,
    check_secrets_travel_in_the_environment,
    check_every_step_can_be_the_last,
    check_another_life_finds_it,
    check_waiting_can_be_cancelled,
    check_strange_handles,
)
