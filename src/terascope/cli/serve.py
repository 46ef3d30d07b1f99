"""`terascope serve`: the gateway, its engines, and what a user needs to ask them."""

import asyncio
import gc
import json
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import uvloop

from terascope.access.scopes import OPERATOR
from terascope.cli import settings
from terascope.cli.assemble import Show, deploy, opened
from terascope.cli.logs import set_up
from terascope.core.config import Config
from terascope.core.errors import ConfigError
from terascope.core.models import Mode
from terascope.gateway.app import Gateway
from terascope.gateway.server import BACKLOG, Server, server
from terascope.gateway.services import Services

log = logging.getLogger(__name__)


def serve(
    *,
    data_dir: Path | None,
    config_file: Path | None,
    host: str | None,
    port: int | None,
    key_file: Path | None,
    log_level: str,
) -> None:
    """Run until SIGINT or SIGTERM; on return every child process is gone.

    Raises `ConfigError` when the configuration is wrong, the port is taken, or another gateway uses the data
    directory.
    """
    set_up(log_level)
    config = settings.load(config_file)
    server_config = replace(
        config.server,
        host=config.server.host if host is None else host,
        port=config.server.port if port is None else port,
    )
    _raise_file_limit()
    _calm_the_collector()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(replace(config, server=server_config), settings.data_dir(data_dir), key_file))


async def _serve(config: Config, data_dir: Path, key_file: Path | None) -> None:
    with bound(config.server.host, config.server.port) as listening:
        url = _url(config.server.host, listening.getsockname()[1], config.server.root_path)
        show = _shower()
        async with opened(config, data_dir, settings.cache_dir()) as services:
            services.fleet.listen(lambda row, message: show(row.deployment, message or row.status))
            running = server(Gateway(services), config.server)
            _stop_on_signals(running)
            key = await _first_key(services, key_file) if key_file else ""  # scripts wait for /ready and read it
            with operator_file(data_dir, url, services.access.local_token):
                await _run(running, listening, services, show, _Greeting(url, key, key_file))


async def _run(
    running: Server, listening: socket.socket, services: Services, show: Show, greeting: "_Greeting"
) -> None:
    upkeep = [
        asyncio.create_task(work)
        for work in (
            services.recorder.keep_forgetting(),
            services.access.accounts.keep_tending(),
            services.access.accounts.keep_entering(),
            services.access.reservations.keep_looking(),
            services.access.accounts.keep_giving_back(),
            services.files.keep_tidying(),
            services.retrieval.keep_working(),
        )
    ]
    for task in upkeep:
        task.add_done_callback(_log_failure)
    bringing_up = asyncio.create_task(_bring_up(services, show, greeting))
    bringing_up.add_done_callback(lambda task: running.stop() if _failure(task) else None)
    try:
        await running.serve(sockets=[listening])
    finally:
        for task in (*upkeep, bringing_up):
            task.cancel()
        await asyncio.gather(*upkeep, bringing_up, return_exceptions=True)
    if error := _failure(bringing_up):
        raise error


async def _bring_up(services: Services, show: Show, greeting: "_Greeting") -> None:
    await deploy(services, show)
    await services.fleet.settled()
    await greeting.print(services)


def _failure(task: asyncio.Task[None]) -> BaseException | None:
    return None if task.cancelled() else task.exception()


def _log_failure(task: asyncio.Task[None]) -> None:
    if error := _failure(task):
        log.error("a background task ended", exc_info=error)


def _stop_on_signals(running: Server) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, running.stop)


@contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens on `host:port`: from now on connections wait, and none is refused.

    Raises `ConfigError` when that cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # where the protocol is named, asyncio turns Nagle's algorithm off, which costs 40 ms an answer; uvloop always does
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
            listening.listen(BACKLOG)
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from None
        yield listening


def _url(host: str, port: int, root_path: str) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}{root_path}"


async def _first_key(services: Services, key_file: Path | None) -> str:
    """Make the first key when there is none; empty otherwise."""
    if await services.access.keys.list():
        return ""
    if key_file is not None:
        _write_private(key_file, "")  # a key that cannot be written must not be made
    key, _ = await services.access.keys.create("first key", [OPERATOR])
    if key_file is not None:
        _write_private(key_file, key + "\n")
    return key


@contextmanager
def operator_file(data_dir: Path, url: str, token: str) -> Iterator[None]:
    """While the gateway runs, the CLI on this machine finds it and its key here."""
    path = data_dir / "operator.json"
    _write_private(path, json.dumps({"url": url, "key": token}))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _write_private(path: Path, text: str) -> None:
    """Write `text` to `path`, readable by its owner alone from the first moment."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def _raise_file_limit() -> None:
    """Every connection is a file: take all that the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _calm_the_collector() -> None:
    """What is loaded by now stays: do not look through it again and again while requests wait."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _shower() -> Show:
    """Prints what happens to each deployment, each message once."""
    last: dict[str, str] = {}

    def show(name: str, message: str) -> None:
        if last.get(name) != message:
            last[name] = message
            print(f"  {name}: {message}", flush=True)

    return show


class _Greeting:
    """What is printed when everything answers."""

    def __init__(self, url: str, key: str, key_file: Path | None) -> None:
        self._url = url
        self._key = key
        self._key_file = key_file
        print(f"Terascope listens on {url}", flush=True)

    async def print(self, services: Services) -> None:
        """Print the address, the first key if it is new, and a request to paste.

        A key that goes to no file is made only now: one made before could be lost unseen.
        """
        if self._key_file is None:
            self._key = await _first_key(services, None)
        states = services.states()
        ready = [name for name, state in states.items() if state == "ready"]
        cold = [name for name, state in states.items() if state == "cold"]
        missing = "" if len(ready) + len(cold) == len(states) else " (not all)"
        print(f"\nReady: {', '.join(ready) or 'no deployment'}{missing}")
        if cold:
            print(f"  cold      {', '.join(cold)}: the first request starts a replica")
        print(f"  API       {self._url}/v1    (API reference: {self._url}/docs)")
        print(f"  key       {self._key_line()}")
        chat = [version for version in services.catalog.list() if _answers_chat(services, version.public_name)]
        if chat:
            print(f"\nAsk it:\n\n{_request(self._url, chat[0].name, self._shell_key())}\n", flush=True)
        sys.stdout.flush()

    def _key_line(self) -> str:
        if not self._key:
            return "made at an earlier start; `terascope keys create NAME` makes another"
        if self._key_file:
            return f"written to {self._key_file}"
        return f"{self._key}    (shown only now)"

    def _shell_key(self) -> str:
        if self._key and self._key_file:
            return f"$(cat {self._key_file})"
        return self._key or "$TERASCOPE_API_KEY"


def _answers_chat(services: Services, public_name: str) -> bool:
    return Mode.QUERY in services.fleet.modes(public_name) and any(
        replica.can("chat/completions", frozenset()) for replica in services.fleet.replicas_for(public_name)
    )


def _request(url: str, model: str, key: str) -> str:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    body = json.dumps({"model": model, "messages": messages, "temperature": 0})
    return f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json' \\\n" + (
        f"    -H \"Authorization: Bearer {key}\" \\\n    -d '{body}'"
    )
