"""A gateway that is killed while files are brought into a store: the next one goes on, and nothing is half there."""

import random
import signal
import time
from pathlib import Path

import httpx
import pytest

from terascope.testing.serve import ECHO, ServeProcess

FILES = 60
KILLS = 5


def body_of(number: int) -> bytes:
    return f"file {number} ".encode() * (20 + 40 * (number % 7))


@pytest.mark.slow
def test_every_file_is_there_whole(tmp_path: Path) -> None:
    """Killed while files are read, embedded, written, and replaced by what they are in the next round."""
    chance = random.Random(8)
    with ServeProcess(tmp_path, config={"retrieval": {"embedding_model": "echo"}}) as process:
        process.ready()
        store, files = _asked(process)
        seen = set()
        for turn in range(KILLS):
            with _http(process) as http:
                again = {"file_ids": files, "attributes": {"round": turn}}
                http.post(f"/v1/vector_stores/{store}/file_batches", json=again).raise_for_status()
                for _ in range(chance.randrange(1, 200)):
                    left = http.get(f"/v1/vector_stores/{store}").json()["file_counts"]["in_progress"]
                seen.add(left)
            process.stop(signal.SIGKILL)
            process.start().ready()
            _whole(process, store)
            _until_there(process, store)
            assert _rounds(process, store) == [turn] * FILES
        assert len(seen) > 1, "no kill came in the middle"
        _whole(process, store)
        with _http(process) as http:
            body = {"query": body_of(0).decode().strip(), "max_num_results": 1}
            found = http.post(f"/v1/vector_stores/{store}/search", json=body).json()["data"]
            assert found[0]["file_id"] == files[0]
        assert process.stop() == 0


@pytest.mark.slow
def test_a_key_that_is_void_by_then(tmp_path: Path) -> None:
    """The next gateway has nobody to ask for any more; the files say so."""
    echo = ECHO | {"options": {"delay_ms": "3"}}
    with ServeProcess(tmp_path, config={"deployments": [echo], "retrieval": {"embedding_model": "echo"}}) as process:
        process.ready()
        with _http(process) as http:
            made = http.post("/admin/v1/keys", json={"name": "ada", "scopes": ["query", "embed"]}).json()
        store, files = _asked(process, made["key"])
        process.stop(signal.SIGKILL)
        process.start().ready()
        with _http(process) as http:
            http.delete(f"/admin/v1/keys/{made['id']}").raise_for_status()
            states: set[str] = set()
            while not states or "in_progress" in states:
                found = http.get(f"/v1/vector_stores/{store}/files?limit=100").json()["data"]
                states = {file["status"] for file in found}
                time.sleep(0.01)
            assert len(found) == len(files)
            told = {file["last_error"]["message"] for file in found if file["last_error"]}
        assert told == {"this API key has been revoked; ask an operator for a new one"}
        assert process.stop() == 0


def _http(process: ServeProcess, key: str = "") -> httpx.Client:
    headers = {"Authorization": f"Bearer {key}"} if key else process.headers
    return httpx.Client(base_url=process.url, headers=headers, timeout=60)


def _asked(process: ServeProcess, key: str = "") -> tuple[str, list[str]]:
    """A store, and files that it is asked for."""
    with _http(process, key) as http:
        store = http.post("/v1/vector_stores", json={}).raise_for_status().json()["id"]
        files = []
        for number in range(FILES):
            form = {"file": (f"{number}.txt", body_of(number))}
            answer = http.post("/v1/files", data={"purpose": "user_data"}, files=form)
            files.append(answer.raise_for_status().json()["id"])
        http.post(f"/v1/vector_stores/{store}/file_batches", json={"file_ids": files}).raise_for_status()
    return store, files


def _until_there(process: ServeProcess, store: str) -> None:
    with _http(process) as http:
        while http.get(f"/v1/vector_stores/{store}").json()["status"] == "in_progress":
            pass


def _rounds(process: ServeProcess, store: str) -> list[float]:
    """Which round each file is of, as searches see it."""
    with _http(process) as http:
        listed = http.get(f"/v1/vector_stores/{store}/files?limit=100").json()["data"]
        rounds = [file["attributes"]["round"] for file in listed if file["status"] == "completed"]
        for one in {*rounds}:
            wanted = {"type": "ne", "key": "round", "value": one}
            body = {"query": "x", "max_num_results": 50, "filters": wanted}
            assert http.post(f"/v1/vector_stores/{store}/search", json=body).json()["data"] == []
        return rounds


def _whole(process: ServeProcess, store: str) -> None:
    """Files that are completed have all their passages."""
    with _http(process) as http:
        listed = http.get(f"/v1/vector_stores/{store}/files?limit=100").json()["data"]
        before = {file["id"]: file for file in listed}
        for file in before.values():
            if file["status"] == "completed":
                parts = http.get(f"/v1/vector_stores/{store}/files/{file['id']}/content").json()["data"]
                assert len(parts) == file["passages"] > 0
