"""A whole gateway on PostgreSQL: `database:` in the configuration is all that changes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from terascope.testing.postgres import PostgresCluster
from terascope.testing.serve import ServeProcess

CHAT = {"model": "echo", "messages": [{"role": "user", "content": "one two three"}]}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def url(postgres: PostgresCluster) -> Iterator[str]:
    name = postgres.create()
    yield postgres.url(name)
    postgres.drop(name)


def test_a_key_an_answer_and_its_record(tmp_path: Path, url: str) -> None:
    process = ServeProcess(tmp_path, config={"database": {"url": url}})
    with process:
        process.ready()
        key = str(json.loads(command(process, "keys", "create", "ada", "--json"))["key"])
        with httpx.Client(base_url=process.url, headers={"Authorization": f"Bearer {key}"}, timeout=30) as client:
            answer = client.post("/v1/chat/completions", json=CHAT)
            assert answer.status_code == 200, answer.text
            run_id = answer.headers["x-request-id"]
            record = client.get(f"/admin/v1/runs/{run_id}").json()
            assert (record["outcome"], record["model"][:5]) == ("completed", "echo@")
            assert client.get("/admin/v1/runs/%00").status_code == 404
            assert client.get("/admin/v1/runs?model=%00").status_code == 400
        assert process.stop() == 0
        assert list(process.data_dir.glob("*.db")) == []
        process.start().ready()
        assert json.loads(command(process, "runs", "show", run_id, "--json")) == record
        assert process.stop() == 0


def command(process: ServeProcess, *arguments: str) -> str:
    """What a command prints on the gateway's own machine."""
    environment = os.environ | {"TERASCOPE_DATA_DIR": str(process.data_dir)}
    program = [sys.executable, "-m", "terascope", *arguments]
    return subprocess.run(program, capture_output=True, text=True, check=True, timeout=60, env=environment).stdout


def test_a_database_that_is_not_there_ends_the_start_with_a_clear_error(tmp_path: Path) -> None:
    process = ServeProcess(tmp_path, config={"database": {"url": "postgresql://ada:secret@127.0.0.1:9/terascope"}})
    done = subprocess.run(process.command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "terascope: the database postgresql://ada:***@127.0.0.1:9/terascope cannot be used: " in done.stderr
    assert "secret" not in done.stderr + done.stdout
