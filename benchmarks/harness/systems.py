"""The mock engine and the gateways that are put in front of it, each started and stopped as a context manager."""

import json
import secrets
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import install
from .processes import Failed, Process, answers, free_port

HERE = Path(__file__).parent
CHAT = "/v1/chat/completions"
MODEL = "mock"
# The newest LiteLLM that installs here: later ones ask for a certifi that the package index does not have.
LITELLM = "litellm[proxy]==1.106.0"
VLLM_ROUTER = "vllm-router==0.1.17"
# As its production guide says, off the internet, and without its limit of 500 connections to one engine.
LITELLM_ENV = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "AIOHTTP_CONNECTOR_LIMIT": "10000",
    "AIOHTTP_CONNECTOR_LIMIT_PER_HOST": "10000",
}


@dataclass(frozen=True)
class Server:
    """Something that answers the OpenAI chat API: where, with which key, and the process (none for the bare engine)."""

    url: str
    key: str = "none"
    process: Process | None = None
    ready_s: float = 0.0


@dataclass(frozen=True)
class Place:
    """Where a system runs: its engine (none: without engines), the directory of its files, cores, environment."""

    engine: Server | None
    directory: Path
    cores: set[int] | None = None
    env: Mapping[str, str] | None = None


System = Callable[[Place], AbstractContextManager[Server]]


class Engine:
    """A running mock engine."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def set(self, *, tokens: int = 64, gap_ms: float = 0, stamp: bool = False) -> None:
        """Say how it answers from now on (mock_engine.mjs)."""
        body = json.dumps({"tokens": tokens, "gap_ms": gap_ms, "stamp": stamp}).encode()
        request = urllib.request.Request(f"{self.server.url}/mock", body, method="PUT")
        urllib.request.urlopen(request, timeout=10).close()


@contextmanager
def running_engine(directory: Path, cores: set[int] | None) -> Iterator[Engine]:
    """A mock engine on a free port."""
    node, port = install.tool("node", "nodejs"), free_port()
    url = f"http://127.0.0.1:{port}"
    command: list[str | Path] = [node, HERE / "mock_engine.mjs", "--port", str(port)]
    with Process(command, log=directory / "engine.log", cores=cores) as process:
        process.wait_until(answers(f"{url}/health"), timeout=30)
        yield Engine(Server(url, process=process))


@contextmanager
def direct(place: Place) -> Iterator[Server]:
    """No gateway at all."""
    assert place.engine
    yield Server(place.engine.url)


@contextmanager
def terascope(place: Place) -> Iterator[Server]:
    """Terascope in front of the engine, with its defaults: authentication, run records and metrics on."""
    mock = {"model": MODEL, "engine": "remote", "served_name": MODEL}
    deployments = [{**mock, "url": place.engine.url}] if place.engine else []
    with terascope_with({"deployments": deployments}, place) as server:
        yield server


@contextmanager
def terascope_with(
    config: Mapping[str, object], place: Place, port: int = 0, program: Sequence[str | Path] = ()
) -> Iterator[Server]:
    """Terascope with `config`; its data stay in `place.directory`, where another start finds them.

    It listens at `port`, or at any that is free. `program` stands in for the command `terascope`.
    """
    port = port or free_port()
    key_file, config_file = place.directory / "key", place.directory / "terascope.yaml"
    config_file.write_text(json.dumps(config))  # JSON is YAML
    command: list[str | Path] = [
        *(program or [Path(sys.executable).parent / "terascope"]), "serve", "--config", config_file,
        "--data-dir", place.directory / "data", "--port", str(port), "--key-file", key_file,
    ]  # fmt: skip
    with _gateway(command, place, port, "/ready", env=place.env) as (url, process, ready_s):
        yield Server(url, _operators_key(place.directory), process, ready_s)


def _operators_key(directory: Path) -> str:
    """The first key where this start made it; else that which the gateway leaves for its own machine's operator."""
    if (key_file := directory / "key").exists():
        return key_file.read_text().strip()
    found: dict[str, str] = json.loads((directory / "data" / "operator.json").read_text())
    return found["key"]


@contextmanager
def litellm(place: Place) -> Iterator[Server]:
    """LiteLLM's proxy with its own authentication on; it has no database, so keeps no records."""
    command = install.venv("litellm", [LITELLM]) / "litellm"
    port, key, config = free_port(), f"sk-{secrets.token_hex(24)}", place.directory / "litellm.yaml"
    engine = place.engine.url if place.engine else "http://127.0.0.1:9"
    model = {"model": f"openai/{MODEL}", "api_base": f"{engine}/v1", "api_key": "none"}
    settings = {
        "model_list": [{"model_name": MODEL, "litellm_params": model}],
        "general_settings": {"master_key": key},
        "litellm_settings": {"telemetry": False},
    }
    config.write_text(json.dumps(settings))
    arguments: list[str | Path] = ["--config", config, "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    with _gateway([command, *arguments], place, port, "/health/liveliness", env=LITELLM_ENV) as (url, process, ready_s):
        yield Server(url, key, process, ready_s)


@contextmanager
def vllm_router(place: Place) -> Iterator[Server]:
    """vLLM's router, a Rust program that only routes."""
    command = install.venv("vllm-router", [VLLM_ROUTER]) / "vllm-router"
    port, engines = free_port(), ["--worker-urls", place.engine.url] if place.engine else []
    arguments = [
        *engines, "--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin",
        "--prometheus-port", str(free_port()), "--log-level", "error",
    ]  # fmt: skip
    ready = "/health" if place.engine else "/liveness"  # it is healthy only with an engine
    with _gateway([command, *arguments], place, port, ready) as (url, process, ready_s):
        yield Server(url, process=process, ready_s=ready_s)


@contextmanager
def _gateway(
    command: list[str | Path], place: Place, port: int, ready: str, env: Mapping[str, str] | None = None
) -> Iterator[tuple[str, Process, float]]:
    url = f"http://127.0.0.1:{port}"
    log = place.directory / "gateway.log"
    with Process(command, log=log, cores=place.cores, env=env) as process:
        ready_s = process.wait_until(answers(f"{url}{ready}"), timeout=300)
        yield url, process, ready_s


SYSTEMS: dict[str, System] = {
    "direct": direct,
    "terascope": terascope,
    "litellm": litellm,
    "vllm-router": vllm_router,
}


def prepare(names: list[str]) -> None:
    """Install what the systems and the load need, before anything is measured."""
    install.tool("node", "nodejs")
    install.tool("wrk", "wrk")
    install.tool("taskset", "util-linux")
    if "litellm" in names:
        install.venv("litellm", [LITELLM])
    if "vllm-router" in names:
        install.venv("vllm-router", [VLLM_ROUTER])


def wrk(server: Server, *, connections: int, seconds: float, cores: set[int]) -> dict[str, float]:
    """Whole answers by `wrk`: requests, seconds, bytes, bad, p50_ms, p99_ms."""
    message = {"role": "user", "content": "Say something short about beam lines."}
    body = {"model": MODEL, "messages": [message], "max_tokens": 64}
    command = [
        "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "20s", "-s", str(HERE / "post.lua"),
        f"{server.url}{CHAT}", "--", server.key, json.dumps(body),
    ]  # fmt: skip
    return json_line(command, cores, seconds + 60)


def load(server: Server, *options: object, cores: set[int], limit: float = 180) -> dict[str, float]:
    """Streams by load.py with its `options`; returns what it reports."""
    command = [sys.executable, str(HERE / "load.py"), f"{server.url}{CHAT}", "--key", server.key, *map(str, options)]
    result = json_line(command, cores, limit)
    if result["bad"]:
        install.say(f"{result['bad']} answers were not whole; the first: {result['bad_example']}")
    return result


def json_line(command: list[str], cores: set[int], limit: float) -> dict[str, float]:
    """What a program that runs on `cores` prints as its last line. Raises Failed when it fails or exceeds `limit` s."""
    pin = ["taskset", "-c", ",".join(map(str, sorted(cores)))]
    try:
        done = subprocess.run([*pin, *command], capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{command[0]} did not end in {limit:g} s") from error
    if done.returncode != 0:
        raise Failed(f"{command[0]} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result
