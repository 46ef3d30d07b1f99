"""`/v1/vector_stores` from outside: OpenAI's own client, on the echo engine, whose vectors only the text decides."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest

from terascope.core.config import DeploymentConfig
from terascope.testing.gateway import ECHO, Served, running_gateway

MOON = "The Moon goes around the Earth."
MARS = "Mars has two moons."


@pytest.fixture(scope="module")
def gateway() -> Iterator[Served]:
    narrow = DeploymentConfig(model="narrow", engine="echo", launcher="inprocess", context_length=256)
    with running_gateway(replace(ECHO, deployments=[*ECHO.deployments, narrow])) as served:
        yield served


@pytest.fixture
def client(gateway: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as made:
        yield made


@pytest.fixture
def http(gateway: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, headers=gateway.headers, timeout=60) as made:
        yield made


def upload(client: openai.OpenAI, text: str | bytes, name: str = "a.txt") -> str:
    data = text.encode() if isinstance(text, str) else text
    return client.files.create(file=(name, data), purpose="user_data").id


def made(client: openai.OpenAI, *texts: str, **fields: Any) -> str:
    """A store with these texts in it, each a file."""
    store = client.vector_stores.create(extra_body={"embedding_model": "echo"}, **fields)
    for number, text in enumerate(texts):
        added(client, store.id, text, f"{number}.txt")
    return store.id


def added(client: openai.OpenAI, store: str, text: str, name: str = "a.txt", **fields: Any) -> str:
    file = upload(client, text, name)
    entry = client.vector_stores.files.create_and_poll(file, vector_store_id=store, poll_interval_ms=20, **fields)
    assert entry.status == "completed", entry.last_error
    return file


def test_openais_client(client: openai.OpenAI) -> None:
    store = client.vector_stores.create(
        name="sky", metadata={"a": "b"}, expires_after={"anchor": "last_active_at", "days": 3},
        extra_body={"embedding_model": "echo"},
    )  # fmt: skip
    assert (store.name, store.status, store.file_counts.total, store.usage_bytes) == ("sky", "completed", 0, 0)
    assert store.expires_at == (store.last_active_at or 0) + 3 * 86_400
    files = [upload(client, MOON, "moon.md"), upload(client, MARS, "mars.md")]
    entry = client.vector_stores.files.create_and_poll(
        files[0], vector_store_id=store.id, attributes={"year": 2020, "kind": "moon"}, poll_interval_ms=20
    )
    assert (entry.status, entry.vector_store_id, entry.attributes) == (
        "completed", store.id, {"year": 2020.0, "kind": "moon"},
    )  # fmt: skip
    batch = client.vector_stores.file_batches.create_and_poll(
        store.id, file_ids=files[1:], attributes={"kind": "planet"}, poll_interval_ms=20
    )
    assert (batch.status, batch.file_counts.completed, batch.file_counts.total) == ("completed", 1, 1)
    assert [one.id for one in client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id)] == [
        files[1]
    ]
    assert [one.id for one in client.vector_stores.files.list(store.id, limit=1)] == files[::-1]
    assert [one.id for one in client.vector_stores.files.list(store.id, order="asc", filter="completed")] == files
    found = client.vector_stores.search(store.id, query=MOON).data
    assert [one.file_id for one in found] == files
    assert found[0].score == pytest.approx(1)
    assert (found[0].filename, found[0].content[0].text) == ("moon.md", MOON)
    only = client.vector_stores.search(store.id, query=MOON, filters={"type": "eq", "key": "kind", "value": "planet"})
    assert [one.file_id for one in only] == files[1:]
    near = client.vector_stores.search(store.id, query=MOON, ranking_options={"score_threshold": 0.99})
    assert [one.file_id for one in near] == files[:1]
    changed = client.vector_stores.files.update(files[0], vector_store_id=store.id, attributes={"kind": "planet"})
    assert changed.attributes == {"kind": "planet"}
    again = client.vector_stores.search(store.id, query=MOON, filters={"type": "eq", "key": "kind", "value": "planet"})
    assert [one.file_id for one in again] == files
    text = client.vector_stores.files.content(files[1], vector_store_id=store.id)
    assert [one.text for one in text] == [MARS]
    renamed = client.vector_stores.update(store.id, name="the sky")
    assert (renamed.name, renamed.metadata, renamed.file_counts.completed) == ("the sky", {"a": "b"}, 2)
    assert store.id in [one.id for one in client.vector_stores.list()]
    assert client.vector_stores.files.delete(files[0], vector_store_id=store.id).deleted
    assert [one.file_id for one in client.vector_stores.search(store.id, query=MOON)] == files[1:]
    assert client.vector_stores.delete(store.id).deleted
    with pytest.raises(openai.NotFoundError, match="there is no vector store"):
        client.vector_stores.retrieve(store.id)
    assert client.files.retrieve(files[0]).id == files[0]


def test_uploading_and_waiting_in_one(client: openai.OpenAI) -> None:
    store = made(client)
    one = client.vector_stores.files.upload_and_poll(
        vector_store_id=store, file=("a.txt", MOON.encode()), poll_interval_ms=20
    )
    assert one.status == "completed", one.last_error
    batch = client.vector_stores.file_batches.upload_and_poll(
        store, files=[("b.txt", b"b"), ("c.txt", b"c")], poll_interval_ms=20
    )
    assert (batch.status, batch.file_counts.completed) == ("completed", 2)
    assert client.vector_stores.retrieve(store).file_counts.completed == 3


def test_a_version_stays_as_it_was(client: openai.OpenAI, http: httpx.Client) -> None:
    store = made(client, MOON)
    version = http.get(f"/v1/vector_stores/{store}").json()["version"]
    before = http.post(f"/v1/vector_stores/{store}/search", json={"query": MARS}).json()
    file = added(client, store, MARS, "mars.txt")
    now = http.post(f"/v1/vector_stores/{store}/search", json={"query": MARS}).json()
    assert now["data"][0]["file_id"] == file
    then = http.post(f"/v1/vector_stores/{store}/search", json={"query": MARS, "version": version}).json()
    assert then == before
    assert now["version"] == version + 1
    wrong = http.post(f"/v1/vector_stores/{store}/search", json={"query": MARS, "version": 99})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (404, "version")


def ask(http: httpx.Client, store: str, text: str, **fields: Any) -> httpx.Response:
    tool = {"type": "file_search", "vector_store_ids": [store]} | fields.pop("tool", {})
    messages = [{"role": "user", "content": text}]
    return http.post("/v1/chat/completions", json={"model": "echo", "messages": messages, "tools": [tool]} | fields)


EXPECTED = f"Passages of files, each with its number and the name of its file:\n\n[1] 0.txt\n{MOON}\n\nQuestion:\nMoon?"


def test_a_chat_reads_files(client: openai.OpenAI, http: httpx.Client) -> None:
    store = made(client, MOON)
    answer = ask(http, store, "Moon?")
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-terascope-vector-stores"] == f"{store}@1"
    message = answer.json()["choices"][0]["message"]
    assert message["content"] == EXPECTED
    digest = hashlib.sha256(MOON.encode()).hexdigest()[:32]
    [annotation] = message["annotations"]
    cited = annotation["file_citation"]
    assert annotation["type"] == "file_citation"
    assert (cited["filename"], cited["index"], cited["start"], cited["end"]) == ("0.txt", 1, 0, len(MOON))
    assert (cited["vector_store_id"], cited["version"], cited["digest"]) == (store, 1, digest)
    run = http.get(f"/admin/v1/runs/{answer.headers['x-request-id']}").json()
    [searched] = run["parameters"]["file_search"]
    assert (searched["vector_store"], searched["version"], searched["passages"]) == (store, 1, [digest])
    assert MOON not in str(run)


def test_a_chat_with_a_version_reads_the_same_again(client: openai.OpenAI, http: httpx.Client) -> None:
    store = made(client, MOON)
    first = ask(http, store, "Moon?").json()["choices"][0]["message"]
    added(client, store, "Moon?", "1.txt")
    assert ask(http, store, "Moon?").json()["choices"][0]["message"]["content"] != first["content"]
    again = ask(http, store, "Moon?", tool={"version": 1}).json()["choices"][0]["message"]
    assert again == first
    assert ask(http, store, "Moon?", tool={"version": {store: 1}}).json()["choices"][0]["message"] == first


def test_a_stream_ends_with_its_sources(client: openai.OpenAI, http: httpx.Client) -> None:
    store = made(client, MOON)
    tool: Any = {"type": "file_search", "vector_store_ids": [store]}
    events = list(
        client.chat.completions.create(
            model="echo", messages=[{"role": "user", "content": "Moon?"}], tools=[tool], stream=True
        )
    )
    assert "".join(one.choices[0].delta.content or "" for one in events) == EXPECTED
    last = events[-1].choices[0].delta.model_dump()
    assert [one["file_citation"]["filename"] for one in last["annotations"]] == ["0.txt"]
    assert {one.id for one in events} == {events[0].id}
    assert {one.model for one in events} == {events[0].model}


def ask_with(http: httpx.Client, stores: list[str], **fields: Any) -> dict[str, Any]:
    tool = {"type": "file_search", "vector_store_ids": stores} | fields.pop("tool", {})
    messages = [{"role": "user", "content": "Moon?"}]
    body = {"model": "echo", "messages": messages, "tools": [tool, *fields.pop("tools", [])]} | fields
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_other_tools_go_to_the_engine(client: openai.OpenAI, http: httpx.Client) -> None:
    store = made(client, MOON)
    look_up = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
    said = ask_with(http, [store], tools=[look_up], tool_choice="required")
    assert said["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "look_up"
    assert said["choices"][0]["message"]["annotations"][0]["type"] == "file_citation"
    only = ask_with(http, [store], tool_choice={"type": "file_search"})
    assert only["choices"][0]["message"]["content"] == EXPECTED
    none = ask_with(http, [store], tool_choice="none")
    assert none["choices"][0]["message"] == {"role": "assistant", "content": "Moon?"}


def test_every_choice_has_its_sources(client: openai.OpenAI, http: httpx.Client) -> None:
    store = made(client, MOON)
    whole = ask_with(http, [store], n=2)
    assert [len(choice["message"]["annotations"]) for choice in whole["choices"]] == [1, 1]
    tool = {"type": "file_search", "vector_store_ids": [store]}
    body = {"model": "echo", "messages": [{"role": "user", "content": "Moon?"}], "tools": [tool]}
    lines = http.post("/v1/chat/completions", json=body | {"n": 2, "stream": True}).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    assert lines[-3].count('"annotations"') == 2


def test_several_stores_and_what_they_share(client: openai.OpenAI, http: httpx.Client) -> None:
    one, two = made(client, MOON), made(client, MARS)
    client.vector_stores.files.create_and_poll(
        next(iter(client.vector_stores.files.list(one))).id, vector_store_id=two, poll_interval_ms=20
    )
    cited = [a["file_citation"] for a in ask_with(http, [one, two])["choices"][0]["message"]["annotations"]]
    assert sorted(c["filename"] for c in cited) == ["0.txt", "0.txt"]
    assert {c["vector_store_id"] for c in cited} == {min(one, two), two}
    pinned = ask_with(http, [one, two], tool={"version": {two: 1}})["choices"][0]["message"]["annotations"]
    assert {(a["file_citation"]["vector_store_id"], a["file_citation"]["version"]) for a in pinned} == {
        (one, 1), (two, 1),
    }  # fmt: skip
    wrong = http.post(
        "/v1/chat/completions",
        json={
            "model": "echo", "messages": [{"role": "user", "content": "x"}],
            "tools": [{"type": "file_search", "vector_store_ids": [one, two], "version": 1}],
        },
    )  # fmt: skip
    assert (wrong.status_code, "store id to number" in wrong.text) == (400, True)


def test_a_question_in_parts(client: openai.OpenAI, http: httpx.Client) -> None:
    store = made(client, MOON)
    content = [{"type": "text", "text": "Mo"}, {"type": "text", "text": "on?"}]
    messages = [
        {"role": "user", "content": "before"}, {"role": "assistant", "content": "said"},
        {"role": "user", "content": content},
    ]  # fmt: skip
    said = ask_with(http, [store], messages=messages)
    assert said["choices"][0]["message"]["content"] == EXPECTED


def test_as_many_passages_as_there_is_room_for(client: openai.OpenAI, http: httpx.Client) -> None:
    """The echo engine counts bytes when it is asked: a context of 256 has room for one of these."""
    store = made(client, *(f"{n} {'x' * 78}" for n in range(4)))
    for most, expected in ((50, 1), (250, 0)):
        said = ask_with(http, [store], model="narrow", max_tokens=most)
        assert len(said["choices"][0]["message"].get("annotations", [])) == expected
        assert said["choices"][0]["message"]["content"].endswith("Moon?")
    runs = http.get("/admin/v1/runs?limit=20").json()["data"]
    last = next(run for run in runs if run["endpoint"] == "chat/completions")
    assert last["parameters"]["file_search"][0]["passages"] == []


def test_what_a_search_costs_is_on_record(client: openai.OpenAI, http: httpx.Client) -> None:
    store = made(client, MOON)
    ask_with(http, [store])
    runs = http.get("/admin/v1/runs?limit=3").json()["data"]
    assert [run["endpoint"] for run in runs] == ["tokenize", "embeddings", "chat/completions"]
    assert {run["outcome"] for run in runs} == {"completed"}
    http.post("/v1/chat/completions", json={"model": "echo", "messages": [{"role": "user", "content": "x"}]})
    runs = http.get("/admin/v1/runs?limit=2").json()["data"]
    assert [run["endpoint"] for run in runs] == ["chat/completions", "tokenize"]
