"""`terascope serve` as a process of its own: what it prints, writes, refuses and leaves behind."""

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml

from terascope.cli.app import NOUNS
from terascope.testing.faults import faulty
from terascope.testing.serve import ECHO, LOCAL_ECHO, ServeProcess, all_ended

CHAT = {"model": "echo", "messages": [{"role": "user", "content": "one two three"}]}


def ask(process: ServeProcess, key: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.post(f"{process.url}/v1/chat/completions", json=CHAT, headers=headers, timeout=30)


def terascope(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "terascope", *arguments], capture_output=True, text=True, check=False, timeout=60,
        env=os.environ | environment,
    )  # fmt: skip


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """It ended with status 1, printed nothing, and said in one line what is wrong."""
    assert done.returncode == 1, done
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("terascope: ")
    assert all(word in done.stderr for word in words), done.stderr


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.slow
def test_prints_url_and_request_and_once_the_key(tmp_path: Path) -> None:
    process = ServeProcess(tmp_path)
    with process:
        process.ready()
        key = process.until(r"key +(tera-\S+) +\(shown only now\)")[1]
        process.until("-d '")
        command = process.printed().partition("Ask it:\n")[2]
        pasted = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
        assert '"content":"What is the capital of France?"' in pasted.stdout, pasted
        assert process.stop() == 0
    assert process.printed().count(key) == 2  # by itself, and in the request to paste

    with process.start():
        process.ready()
        process.until("key +made at an earlier start")
        assert ask(process, key).json()["choices"][0]["message"]["content"] == "one two three"
        assert process.stop(signal.SIGINT) == 0
    assert "tera-" not in process.printed()


@pytest.mark.slow
def test_key_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with ServeProcess(tmp_path, "--key-file", str(path)) as process:
        assert mode(path) == 0o600
        process.ready().until(f"key +written to {path}")
        assert ask(process, path.read_text().strip()).status_code == 200
        process.until(f"Bearer .*cat {path}")
        assert process.stop() == 0
        assert path.read_text().strip() not in process.printed()


@pytest.mark.slow
def test_a_key_file_that_cannot_be_written_costs_no_key(tmp_path: Path) -> None:
    arguments = ("serve", "--port", "0", "--config", os.devnull, "--data-dir", str(tmp_path / "data"))
    refused(terascope(*arguments, "--key-file", str(tmp_path / "none" / "key")), "cannot write", "none/key")
    with ServeProcess(tmp_path) as process:
        process.ready().until(r"key +tera-\S+")


@pytest.mark.slow
def test_operator_file_is_there_while_it_runs(tmp_path: Path) -> None:
    process = ServeProcess(tmp_path)
    path = process.data_dir / "operator.json"
    with process:
        assert mode(path) == 0o600
        assert mode(process.data_dir) == 0o700
        assert process.operator["url"] == process.url
        assert listeners(port_of(process)) == {"127.0.0.1"}
        listed = terascope("keys", "list", "--json", TERASCOPE_DATA_DIR=str(process.data_dir))
        assert listed.returncode == 0, listed.stderr
        process.stop()
    assert not path.exists()
    refused(terascope("keys", "list", "--data-dir", str(process.data_dir)), "terascope serve")


@pytest.mark.slow
def test_after_a_kill_the_operator_file_misleads_nobody(tmp_path: Path) -> None:
    process = ServeProcess(tmp_path)
    with process:
        stale = process.operator
        process.stop(signal.SIGKILL)
    refused(terascope("keys", "list", "--data-dir", str(process.data_dir)), stale["url"])
    with process.start():
        assert process.operator["key"] != stale["key"]
        headers = {"Authorization": f"Bearer {stale['key']}"}
        assert httpx.get(f"{process.url}/admin/v1/keys", headers=headers).status_code == 401


@pytest.mark.slow
def test_a_second_gateway_on_the_same_data_directory_is_refused(tmp_path: Path) -> None:
    with ServeProcess(tmp_path, config={"deployments": [LOCAL_ECHO]}) as process:
        process.ready()
        before = process.operator
        done = subprocess.run(process.command, capture_output=True, text=True, timeout=60, check=False)
        refused(done, str(process.data_dir), "--data-dir")
        assert process.operator == before
        assert httpx.get(f"{process.url}/ready").status_code == 200


@pytest.mark.slow
def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = terascope("serve", "--port", port, "--data-dir", str(tmp_path / "data"), "--config", os.devnull)
    refused(done, port, "--port")


@pytest.mark.slow
def test_listens_elsewhere_only_when_told(tmp_path: Path) -> None:
    with ServeProcess(tmp_path, "--host", "0.0.0.0") as process:
        assert listeners(port_of(process)) == {"0.0.0.0"}
        assert process.url == f"http://127.0.0.1:{port_of(process)}"


def port_of(process: ServeProcess) -> int:
    return int(process.url.rpartition(":")[2])


def listeners(port: int) -> set[str]:
    """The addresses on which somebody listens on `port`, as the kernel tells."""
    found = set()
    for line in (
        Path("/proc/net/tcp").read_text().splitlines()[1:] + Path("/proc/net/tcp6").read_text().splitlines()[1:]
    ):
        _, local, _, state, *_ = line.split()
        address, _, at = local.partition(":")
        if state == "0A" and int(at, 16) == port:
            found.add(socket.inet_ntoa(bytes.fromhex(address)[::-1]) if len(address) == 8 else address)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("server: {prot: 90}", ["server.prot", "did you mean port"]),
        ("server: [1", ["not YAML"]),
        ("deployments: [{model: echo, engine: ekko}]", ["ekko", "echo, openvino, remote, torch, vllm"]),
        ("deployments: [{model: echo, engine: echo, modes: [chat]}]", ["chat", "query, embed"]),
        ("deployments: [{model: a, engine: echo}, {model: a@1, engine: echo}]", ["two deployments", "name"]),
    ],
)
def test_a_wrong_configuration_is_one_line(tmp_path: Path, text: str, words: list[str]) -> None:
    config = tmp_path / "terascope.yaml"
    config.write_text(text)
    done = terascope("serve", "--config", str(config), "--data-dir", str(tmp_path / "data"), "--port", "0")
    refused(done, *words)


@pytest.mark.slow
def test_a_deployment_that_its_engine_refuses_ends_it(tmp_path: Path) -> None:
    process = ServeProcess(tmp_path, config={"deployments": [ECHO | {"options": {"speed": "1"}}]})
    with process:
        assert process.ended() == 1
    told = process.log.read_text().splitlines()[-1]
    assert told == "terascope: the echo engine has no option 'speed'; it has delay_ms"


@pytest.mark.slow
@pytest.mark.parametrize("where", ["/sys", "/dev/null/data"])
def test_a_data_directory_that_cannot_be_written_is_one_line(where: str) -> None:
    refused(terascope("serve", "--data-dir", where, "--port", "0", "--config", os.devnull), where)


@pytest.mark.slow
def test_help() -> None:
    done = terascope("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    assert all(noun in done.stdout for noun in NOUNS)


@pytest.mark.slow
async def test_ready_turns_200_when_the_last_deployment_answers(tmp_path: Path) -> None:
    async with faulty() as engine:
        engine.engine.ill = "still loading"
        remote = {"model": "far", "engine": "remote", "url": engine.url}
        process = ServeProcess(tmp_path, config={"deployments": [LOCAL_ECHO, remote]})
        await asyncio.to_thread(process.start)
        with process:
            async with httpx.AsyncClient(base_url=process.url) as http:
                answer = await http.get("/ready")
                assert answer.status_code == 503
                assert answer.headers["retry-after"] == "1"
                assert answer.json()["deployments"]["far"] == "starting"
                assert (await http.get("/health")).status_code == 200
                engine.engine.ill = ""
                await asyncio.to_thread(process.ready)
                answer = await http.get("/ready")
                assert answer.status_code == 200
                assert answer.json() == {"status": "ready", "deployments": {"echo": "ready", "far": "ready"}}


@pytest.mark.slow
def test_a_model_that_cannot_be_had_fails_alone(tmp_path: Path) -> None:
    absent = {"absent": {"source": f"path:{tmp_path}/nothing"}}
    config = {"models": absent, "deployments": [{"model": "absent"}, LOCAL_ECHO]}
    with ServeProcess(tmp_path, config=config) as process:
        process.ready()
        assert "absent: failed: " in process.printed()
        assert process.lines[-1] == "Ready: echo (not all)"
        ready = httpx.get(f"{process.url}/ready")
        assert (ready.status_code, ready.json()["deployments"]) == (503, {"absent": "failed", "echo": "ready"})
        children = process.children()
        assert process.stop() == 0
    all_ended(children)
    assert yaml.safe_load(process.log.read_text().splitlines()[0])["level"] == "info"
