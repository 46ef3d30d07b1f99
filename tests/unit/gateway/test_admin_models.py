"""`/admin/v1/models`: what an operator does with the catalogue."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from terascope.testing.checkpoints import checkpoint, write_files
from terascope.testing.gateway import running_gateway

MODELS = "/admin/v1/models"


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """A gateway for each test: what is added and removed stays with it."""
    with running_gateway() as served, httpx.Client(base_url=served.url, headers=served.headers, timeout=30) as client:
        yield client


@pytest.fixture
def source(tmp_path: Path) -> str:
    return f"path:{write_files(tmp_path / 'tiny', checkpoint())}"


def refused(answer: httpx.Response, status: int, word: str) -> None:
    assert answer.status_code == status, answer.text
    assert word in answer.json()["error"]["message"]


def test_a_model_is_added_with_every_file_and_its_digest(http: httpx.Client, source: str) -> None:
    made = http.post(MODELS, json={"name": "tiny", "source": source, "aliases": ["small"]})
    assert made.status_code == 201, made.text
    view = made.json()
    files = {file["path"]: file for file in view["files"]}
    assert set(files) == set(checkpoint())
    for path, data in checkpoint().items():
        assert files[path] == {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert view["version"] == view["digest"][:12]
    assert (view["source"], view["aliases"], view["state"]) == (source, ["small"], "stopped")
    assert (view["architecture"], view["context_length"], view["licence"]) == ("LlamaForCausalLM", 64, "apache-2.0")
    assert http.post(MODELS, json={"name": "tiny", "source": source}).json() == view  # the same files: the same version
    for name in ("tiny", "small", f"tiny@{view['version']}"):
        assert http.get(f"{MODELS}/{name}").json() == view
    assert view in http.get(MODELS).json()["data"]


def test_a_version_never_changes(http: httpx.Client, source: str, tmp_path: Path) -> None:
    assert http.post(MODELS, json={"name": "tiny", "source": source, "version": "1"}).status_code == 201
    other = f"path:{write_files(tmp_path / 'other', checkpoint(rope_theta=1.0))}"
    refused(http.post(MODELS, json={"name": "tiny", "source": other, "version": "1"}), 409, "tiny@1")
    assert http.post(MODELS, json={"name": "tiny", "source": other, "version": "2"}).status_code == 201
    assert http.get(f"{MODELS}/tiny").json()["version"] == "2"
    assert http.get(f"{MODELS}/tiny@1").json()["source"] == source


def test_aliases_move_and_go(http: httpx.Client) -> None:
    for version in ("1", "2"):
        added = {"name": "tiny", "source": f"echo:tiny-{version}", "version": version}
        assert http.post(MODELS, json=added).status_code == 201
    alias = f"{MODELS}/aliases/group/best"
    assert http.put(alias, json={"target": "tiny@1"}).json()["version"] == "1"
    assert http.get(f"{MODELS}/group/best").json()["version"] == "1"
    assert http.put(alias, json={"target": "tiny"}).json()["version"] == "2"
    assert http.get(f"{MODELS}/tiny@2").json()["aliases"] == ["group/best"]
    assert http.delete(alias).status_code == 204
    refused(http.delete(alias), 404, "group/best")
    refused(http.get(f"{MODELS}/group/best"), 404, "group/best")


def test_aliases_that_cannot_be(http: httpx.Client) -> None:
    alias = f"{MODELS}/aliases"
    refused(http.put(f"{alias}/best", json={"target": "nothing"}), 404, "nothing")
    refused(http.put(f"{alias}/be%20st", json={"target": "echo"}), 400, "not a model name")
    refused(http.put(f"{alias}/best@1", json={"target": "echo"}), 400, "version")
    assert http.post(MODELS, json={"name": "tiny", "source": "echo:tiny"}).status_code == 201
    refused(http.put(f"{alias}/tiny", json={"target": "echo"}), 409, "tiny")


def test_removing(http: httpx.Client) -> None:
    assert http.post(MODELS, json={"name": "tiny", "source": "echo:tiny", "version": "1"}).status_code == 201
    assert http.put(f"{MODELS}/aliases/best", json={"target": "tiny@1"}).status_code == 200
    refused(http.delete(f"{MODELS}/tiny@1"), 409, "best")
    assert http.delete(f"{MODELS}/aliases/best").status_code == 204
    assert http.delete(f"{MODELS}/tiny@1").status_code == 204
    refused(http.delete(f"{MODELS}/tiny@1"), 404, "tiny")
    refused(http.get(f"{MODELS}/tiny"), 404, "tiny")


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({"name": "tiny", "source": "nonsense"}, "nonsense"),
        ({"name": "tiny", "source": "path:/nowhere"}, "/nowhere"),
        ({"name": "a b", "source": "echo:x"}, "not a model name"),
        ({"name": "tiny", "source": "echo:x", "version": "a b"}, "not a model name"),
        ({"name": "tiny", "source": "remote:https://user:word@host/"}, "password"),
        ({"name": "tiny", "source": "echo:x", "surprise": 1}, "surprise"),
        ({"source": "echo:x"}, "name"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_models_that_cannot_be_added(http: httpx.Client, asked: dict[str, object], word: str) -> None:
    before = http.get(MODELS).json()
    refused(http.post(MODELS, json=asked), 400, word)
    assert http.get(MODELS).json() == before
