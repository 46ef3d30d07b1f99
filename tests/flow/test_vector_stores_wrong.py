"""What goes wrong with vector stores: files that are no text, things that are deleted meanwhile, other projects."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from terascope.core.config import DeploymentConfig, RetrievalConfig
from terascope.testing.gateway import ECHO, Served, running_gateway

SLOW = DeploymentConfig(model="slow", engine="echo", launcher="inprocess", options={"delay_ms": "1"})
NARROW = DeploymentConfig(model="narrow", engine="echo", launcher="inprocess", context_length=256)
MOST = 5_000_000


@pytest.fixture(scope="module")
def gateway() -> Iterator[Served]:
    retrieval = RetrievalConfig(embedding_model="echo", max_file_bytes=MOST)
    with running_gateway(replace(ECHO, deployments=[*ECHO.deployments, SLOW, NARROW], retrieval=retrieval)) as served:
        yield served


@pytest.fixture
def http(gateway: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, headers=gateway.headers, timeout=60) as made:
        yield made


def upload(http: httpx.Client, data: bytes, name: str = "a.txt") -> str:
    answer = http.post("/v1/files", data={"purpose": "user_data"}, files={"file": (name, data)})
    return str(answer.raise_for_status().json()["id"])


def store_of(http: httpx.Client, **fields: Any) -> str:
    return str(http.post("/v1/vector_stores", json=fields).raise_for_status().json()["id"])


def add(http: httpx.Client, store: str, data: bytes, name: str = "a.txt", **fields: Any) -> dict[str, Any]:
    file = upload(http, data, name)
    http.post(f"/v1/vector_stores/{store}/files", json={"file_id": file} | fields).raise_for_status()
    return settled(http, store, file)


def settled(http: httpx.Client, store: str, file: str) -> dict[str, Any]:
    """A file once it is not in progress any more; asked for again and again, as clients do."""
    while True:
        found = http.get(f"/v1/vector_stores/{store}/files/{file}").raise_for_status().json()
        if found["status"] != "in_progress":
            return dict(found)
        time.sleep(0.01)


def error_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("data", "code", "told"),
    [
        (b"", "invalid_file", "no text in it"),
        (b"caf\xe9", "invalid_file", "byte 3 of the file is not UTF-8; convert it"),
        (b"%PDF-1.4", "unsupported_file", "is a PDF; extract its text first"),
        (b"a\0b", "unsupported_file", "NUL"),
        (b"x" * (MOST + 1), "invalid_file", "`retrieval.max_file_bytes`"),
    ],
)
def test_files_that_are_no_text_say_so(http: httpx.Client, data: bytes, code: str, told: str) -> None:
    store = store_of(http)
    found = add(http, store, data)
    assert (found["status"], found["last_error"]["code"]) == ("failed", code)
    assert told in found["last_error"]["message"]
    one = http.get(f"/v1/vector_stores/{store}").json()
    assert (one["file_counts"]["failed"], one["status"], one["version"]) == (1, "completed", 0)
    assert http.post(f"/v1/vector_stores/{store}/search", json={"query": "x"}).json()["data"] == []
    answer = http.get(f"/v1/vector_stores/{store}/files/{found['id']}/content")
    assert error_of(answer) == (409, f"{found['id']} is failed in {store}, so there is nothing of it to show")


def test_a_file_that_fails_does_no_harm_to_others(http: httpx.Client) -> None:
    store = store_of(http)
    files = [upload(http, data) for data in (b"one", b"", b"two", b"\xff")]
    made = http.post(f"/v1/vector_stores/{store}/file_batches", json={"file_ids": files}).json()
    states = [settled(http, store, file)["status"] for file in files]
    assert states == ["completed", "failed", "completed", "failed"]
    batch = http.get(f"/v1/vector_stores/{store}/file_batches/{made['id']}").json()
    assert (batch["status"], batch["file_counts"]["failed"], batch["file_counts"]["total"]) == ("completed", 2, 4)


def static(size: int, overlap: int) -> dict[str, Any]:
    sizes = {"max_chunk_size_tokens": size, "chunk_overlap_tokens": overlap}
    return {"chunking_strategy": {"type": "static", "static": sizes}}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (static(99, 0), "chunking_strategy.static.max_chunk_size_tokens"),
        (static(200, 101), "chunking_strategy.static.chunk_overlap_tokens"),
        ({"chunking_strategy": {"type": "semantic"}}, "chunking_strategy"),
        ({"attributes": {"a": {"b": 1}}}, "attributes.a"),
        ({"attributes": {str(n): n for n in range(17)}}, "attributes"),
        ({"attributes": {"a": "x" * 513}}, "attributes.a"),
        ({"attributes": {"a": "\0"}}, "attributes.a"),
        ({"file": 1}, "file"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_of_a_file(http: httpx.Client, body: dict[str, Any], param: str) -> None:
    store = store_of(http)
    answer = http.post(f"/v1/vector_stores/{store}/files", json={"file_id": upload(http, b"x")} | body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"].startswith(param)


def test_passages_beyond_what_the_model_reads(http: httpx.Client) -> None:
    store = store_of(http, embedding_model="narrow")
    sizes = {"max_chunk_size_tokens": 800, "chunk_overlap_tokens": 400}
    body = {"file_id": upload(http, b"x"), "chunking_strategy": {"type": "static", "static": sizes}}
    status, told = error_of(http.post(f"/v1/vector_stores/{store}/files", json=body))
    assert (status, "do not fit into the 256" in told) == (400, True)
    assert add(http, store, b"a " * 3000)["chunking_strategy"]["static"]["max_chunk_size_tokens"] == 240


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "query"),
        ({"query": ""}, "query"),
        ({"query": "  "}, "query"),
        ({"query": []}, "query"),
        ({"query": "x", "max_num_results": 51}, "max_num_results"),
        ({"query": "x", "rewrite_query": True}, "rewrite_query"),
        ({"query": "x", "version": -1}, "version"),
        ({"query": "x", "ranking_options": {"score_threshold": 2}}, "ranking_options.score_threshold"),
        ({"query": "x", "filters": {"type": "like", "key": "a", "value": 1}}, "filters"),
        ({"query": "x", "filter": {}}, "filter"),
    ],
)
def test_what_cannot_be_searched_for(http: httpx.Client, body: dict[str, Any], param: str) -> None:
    store = store_of(http)
    answer = http.post(f"/v1/vector_stores/{store}/search", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"].startswith(param)


def test_things_that_are_not_there(http: httpx.Client) -> None:
    store = store_of(http)
    for method, path, told in (
        ("GET", "/v1/vector_stores/vs_none", "there is no vector store 'vs_none' in your projects"),
        ("DELETE", "/v1/vector_stores/vs_none", "there is no vector store"),
        ("GET", f"/v1/vector_stores/{store}/files/file_none", f"there is no file 'file_none' in {store}"),
        ("DELETE", f"/v1/vector_stores/{store}/files/file_none", "there is no file"),
        ("GET", f"/v1/vector_stores/{store}/file_batches/none", "there is no batch 'none'"),
    ):
        status, message = error_of(http.request(method, path))
        assert (status, told in message) == (404, True), message
    for body in ({"file_id": "file_none"}, {"file_id": "x"}):
        assert error_of(http.post(f"/v1/vector_stores/{store}/files", json=body))[0] == 404
    assert error_of(http.post("/v1/vector_stores", json={"embedding_model": "none"}))[0] == 404
    assert error_of(http.post("/v1/vector_stores", json={"file_ids": ["file_none"]}))[0] == 404
    some = {"file_ids": [upload(http, b"x"), "file_none"]}
    assert error_of(http.post(f"/v1/vector_stores/{store}/file_batches", json=some))[0] == 404
    assert http.get(f"/v1/vector_stores/{store}").json()["file_counts"]["total"] == 0
    wrong: list[dict[str, Any]] = [{}, {"file_ids": []}, {"file_ids": ["a"], "files": [{"file_id": "a"}]}]
    for batch in wrong:
        assert error_of(http.post(f"/v1/vector_stores/{store}/file_batches", json=batch))[0] == 400


def test_of_another_project(gateway: Served, http: httpx.Client) -> None:
    http.post("/admin/v1/projects", json={"name": "ocean"})
    http.put("/admin/v1/projects/ocean/policies/*", json={})
    key = http.post("/admin/v1/keys", json={"name": "oona", "project": "ocean", "scopes": ["query", "embed"]}).json()
    ours, file = store_of(http), upload(http, b"secret")
    with httpx.Client(base_url=gateway.url, headers={"Authorization": f"Bearer {key['key']}"}) as other:
        for path in ("", "/files", "/files/x"):
            assert error_of(other.get(f"/v1/vector_stores/{ours}{path}"))[0] == 404
        assert error_of(other.post(f"/v1/vector_stores/{ours}/search", json={"query": "x"}))[0] == 404
        tool = {"type": "file_search", "vector_store_ids": [ours]}
        chat = {"model": "echo", "messages": [{"role": "user", "content": "x"}], "tools": [tool]}
        assert error_of(other.post("/v1/chat/completions", json=chat))[0] == 404
        theirs = store_of(other)
        status, told = error_of(other.post(f"/v1/vector_stores/{theirs}/files", json={"file_id": file}))
        assert (status, "there is no file" in told) == (404, True)
        assert [one["id"] for one in other.get("/v1/vector_stores").json()["data"]] == [theirs]
    # an operator may use both, and yet a file goes into no store of another project
    assert error_of(http.post(f"/v1/vector_stores/{theirs}/files", json={"file_id": file}))[0] == 404


def test_who_may_not_embed(gateway: Served, http: httpx.Client) -> None:
    http.post("/admin/v1/projects", json={"name": "desert"})
    http.put("/admin/v1/projects/desert/policies/echo", json={"modes": ["query"]})
    both = http.post("/admin/v1/keys", json={"name": "dora", "project": "desert", "scopes": ["query", "embed"]}).json()
    for headers, told in (
        ({"Authorization": f"Bearer {both['key']}"}, "may not use echo in the mode embed"),
        ({"Authorization": f"Bearer {both['key']}", "X-Terascope-Project": "local"}, "may not use the project"),
    ):
        answer = httpx.post(f"{gateway.url}/v1/vector_stores", json={"embedding_model": "echo"}, headers=headers)
        assert (answer.status_code, told in answer.text) == (403, True), answer.text
    query = http.post("/admin/v1/keys", json={"name": "quentin", "scopes": ["query"]}).json()
    headers = {"Authorization": f"Bearer {query['key']}"}
    assert "lacks the scope 'embed'" in httpx.post(f"{gateway.url}/v1/vector_stores", json={}, headers=headers).text


def test_a_batch_that_is_cancelled(http: httpx.Client) -> None:
    """What is not there yet does not come; embedding is slow here."""
    store = store_of(http, embedding_model="slow")
    files = [upload(http, b"word " * 300 + str(n).encode()) for n in range(40)]
    batch = http.post(f"/v1/vector_stores/{store}/file_batches", json={"file_ids": files}).json()
    cancelled = http.post(f"/v1/vector_stores/{store}/file_batches/{batch['id']}/cancel").json()
    assert cancelled["status"] in ("cancelled", "in_progress")
    states = {settled(http, store, file)["status"] for file in files}
    assert "cancelled" in states
    assert states <= {"cancelled", "completed"}
    one = http.get(f"/v1/vector_stores/{store}/file_batches/{batch['id']}").json()
    assert (one["status"], one["file_counts"]["total"]) == ("cancelled", 40)
    found = http.post(f"/v1/vector_stores/{store}/search", json={"query": "word", "max_num_results": 50}).json()
    there = {
        file["id"] for file in http.get(f"/v1/vector_stores/{store}/files?filter=completed&limit=100").json()["data"]
    }
    assert {result["file_id"] for result in found["data"]} <= there


def test_a_file_that_is_deleted_while_it_waits(http: httpx.Client) -> None:
    store = store_of(http, embedding_model="slow")
    files = [upload(http, b"word " * 2000 + str(n).encode()) for n in range(60)]
    http.post(f"/v1/vector_stores/{store}/file_batches", json={"file_ids": files}).raise_for_status()
    http.delete(f"/v1/files/{files[-1]}").raise_for_status()
    last = settled(http, store, files[-1])
    assert last["status"] in ("failed", "completed")  # it may have been read before
    if last["last_error"]:
        assert "was deleted before it was read" in last["last_error"]["message"]
    http.delete(f"/v1/vector_stores/{store}").raise_for_status()
    assert error_of(http.get(f"/v1/vector_stores/{store}/files/{files[0]}"))[0] == 404


def test_a_store_that_is_deleted_while_it_is_searched(gateway: Served, http: httpx.Client) -> None:
    """Every search finds all of it or says that it is gone; the gateway goes on."""
    for _ in range(3):
        store = store_of(http)
        assert add(http, store, b"one")["status"] == "completed"
        answers: list[tuple[int, str]] = []

        def search(store: str = store, answers: list[tuple[int, str]] = answers) -> None:
            with httpx.Client(base_url=gateway.url, headers=gateway.headers, timeout=60) as mine:
                while not answers or answers[-1][0] == 200:
                    answer = mine.post(f"/v1/vector_stores/{store}/search", json={"query": "one"})
                    answers.append((answer.status_code, answer.text))

        threads = [threading.Thread(target=search) for _ in range(3)]
        for thread in threads:
            thread.start()
        http.delete(f"/v1/vector_stores/{store}").raise_for_status()
        for thread in threads:
            thread.join()
        assert {status for status, _ in answers} <= {200, 404}, answers
        assert all('"score":1' in text for status, text in answers if status == 200)
        assert not list((gateway.data_dir / "collections").glob(f"{store}*"))


def test_two_at_once(http: httpx.Client, gateway: Served) -> None:
    """Several clients add, replace and remove; the end is what the last of each says."""
    store = store_of(http)
    files = [upload(http, f"text {n}".encode()) for n in range(12)]

    def work(mine: list[str]) -> None:
        with httpx.Client(base_url=gateway.url, headers=gateway.headers, timeout=60) as client:
            for file in mine * 2:
                client.post(f"/v1/vector_stores/{store}/files", json={"file_id": file}).raise_for_status()
            for file in mine[:2]:
                assert settled(client, store, file)["status"] == "completed"
                client.delete(f"/v1/vector_stores/{store}/files/{file}").raise_for_status()

    threads = [threading.Thread(target=work, args=(files[n::3],)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    left = set(files) - {file for n in range(3) for file in files[n::3][:2]}
    assert {settled(http, store, file)["status"] for file in left} == {"completed"}
    found = http.post(f"/v1/vector_stores/{store}/search", json={"query": "x", "max_num_results": 50}).json()["data"]
    assert sorted(one["file_id"] for one in found) == sorted(left)


@pytest.mark.parametrize(
    ("tools", "told"),
    [
        ([{"type": "file_search"}], "file_search.vector_store_ids"),
        ([{"type": "file_search", "vector_store_ids": []}], "file_search.vector_store_ids"),
        ([{"type": "file_search", "vector_store_ids": ["vs_none"]}], "there is no vector store"),
        ([{"type": "file_search", "vector_store_ids": ["a"], "version": {"b": 1}}], "there is no vector store"),
        ([{"type": "file_search", "vector_store_ids": ["a"], "versions": 1}], "file_search.versions"),
        ([{"type": "file_search", "vector_store_ids": ["a"]}] * 2, "one `file_search`"),
    ],
)
def test_what_a_chat_cannot_search(http: httpx.Client, tools: list[Any], told: str) -> None:
    body = {"model": "echo", "messages": [{"role": "user", "content": "x"}], "tools": tools}
    status, message = error_of(http.post("/v1/chat/completions", json=body))
    assert (status in (400, 404), told in message) == (True, True), message


@pytest.mark.parametrize("messages", [[{"role": "system", "content": "x"}], [{"role": "user", "content": " "}], [3]])
def test_a_chat_without_a_question(http: httpx.Client, messages: list[Any]) -> None:
    tool = {"type": "file_search", "vector_store_ids": [store_of(http)]}
    answer = http.post("/v1/chat/completions", json={"model": "echo", "messages": messages, "tools": [tool]})
    assert error_of(answer) == (400, "`file_search` needs a message of the user with text in it")
