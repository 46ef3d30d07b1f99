"""Vector stores with the two real models: passages that mean the same, and a chat that can be repeated."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from terascope.cli import settings
from terascope.core.config import DEFAULT_DEPLOYMENTS, DEFAULT_MODELS, Config
from terascope.testing.gateway import Served, running_gateway

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
CHAT = "smollm2-135m-instruct"
QUESTION = "How large is the mirror of the telescope?"
TEXTS = {
    "telescope.md": "The telescope on Mount Graham has a mirror of 8.4 metres. It is closed in August.",
    "cafeteria.md": "The cafeteria opens at seven. On Fridays there is fish.",
    "rules.md": "Guests sign the book at the gate. " * 200,
    "sonne.md": "Die Sonne ist ein Stern. Größe: 1,39 Millionen Kilometer. 太陽は恒星です。",
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    config = Config(models=dict(DEFAULT_MODELS), deployments=list(DEFAULT_DEPLOYMENTS))
    with running_gateway(config, data_dir=tmp_path_factory.mktemp("data"), cache_dir=settings.cache_dir()) as served:
        yield served


@pytest.fixture
def http(gateway: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, headers=gateway.headers, timeout=120) as made:
        yield made


def add(http: httpx.Client, store: str, texts: dict[str, str]) -> None:
    ids = []
    for name, text in texts.items():
        answer = http.post("/v1/files", data={"purpose": "user_data"}, files={"file": (name, text.encode())})
        ids.append(answer.raise_for_status().json()["id"])
    http.post(f"/v1/vector_stores/{store}/file_batches", json={"file_ids": ids}).raise_for_status()
    while (one := http.get(f"/v1/vector_stores/{store}").json())["status"] == "in_progress":
        pass
    assert one["file_counts"]["failed"] == 0, http.get(f"/v1/vector_stores/{store}/files").text


def ask(http: httpx.Client, store: str, **tool: Any) -> tuple[dict[str, Any], int]:
    search = {"type": "file_search", "vector_store_ids": [store], "max_num_results": 2} | tool
    body = {
        "model": CHAT, "messages": [{"role": "user", "content": QUESTION}], "tools": [search],
        "temperature": 0, "max_tokens": 30, "reproducible": True,
    }  # fmt: skip
    answer = http.post("/v1/chat/completions", json=body).raise_for_status().json()
    return dict(answer["choices"][0]["message"]), int(answer["usage"]["prompt_tokens"])


def test_a_chat_that_is_repeated_after_the_store_has_grown(http: httpx.Client) -> None:
    made = http.post("/v1/vector_stores", json={"name": "observatory"}).raise_for_status().json()
    store = made["id"]
    assert made["embedding_model"].startswith("all-minilm-l6-v2@")
    add(http, store, TEXTS)
    first, tokens = ask(http, store)
    cited = [one["file_citation"] for one in first["annotations"]]
    assert cited[0]["filename"] == "telescope.md"
    assert TEXTS["telescope.md"][cited[0]["start"] : cited[0]["end"]] == TEXTS["telescope.md"]
    add(http, store, {f"{n}.md": f"{QUESTION} Mirror number {n} has {n} metres." for n in range(3)})
    now, _ = ask(http, store)
    assert {one["file_citation"]["filename"] for one in now["annotations"]} <= {"0.md", "1.md", "2.md"}
    again, same = ask(http, store, version=cited[0]["version"])
    assert again == first
    assert same == tokens


def test_passages_are_the_tokens_of_the_model(http: httpx.Client) -> None:
    """Cut as small as can be, a text in several scripts is whole again, and each passage fits into the model."""
    store = http.post("/v1/vector_stores", json={}).raise_for_status().json()["id"]
    text = " ".join(TEXTS["sonne.md"] + str(number) for number in range(60))
    answer = http.post("/v1/files", data={"purpose": "user_data"}, files={"file": ("a.md", text.encode())})
    file = answer.json()["id"]
    sizes = {"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 0}}
    http.post(f"/v1/vector_stores/{store}/files", json={"file_id": file, "chunking_strategy": sizes})
    while (one := http.get(f"/v1/vector_stores/{store}/files/{file}").json())["status"] == "in_progress":
        pass
    assert one["status"] == "completed", one
    parts = [part["text"] for part in http.get(f"/v1/vector_stores/{store}/files/{file}/content").json()["data"]]
    assert len(parts) == one["passages"] > 10
    assert "".join("".join(parts).split()) == "".join(text.split())
    counts = [
        http.post("/tokenize", json={"model": "all-minilm-l6-v2", "prompt": part, "add_special_tokens": False}).json()
        for part in parts[:3]
    ]
    assert all(100 <= counted["count"] <= 102 for counted in counts)
    found = http.post(f"/v1/vector_stores/{store}/search", json={"query": parts[7], "max_num_results": 1}).json()
    place = found["data"][0]["passage"]
    assert text[place["start"] : place["end"]] == found["data"][0]["content"][0]["text"] == parts[7]
