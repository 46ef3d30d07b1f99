"""`/v1/models`: names, versions and aliases as a client may use them."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from terascope.core.config import Config, DeploymentConfig
from terascope.testing.gateway import Served, running_gateway

CONFIG = Config(
    deployments=[
        DeploymentConfig(model="echo", engine="echo", launcher="inprocess", context_length=512),
        DeploymentConfig(model="vectors@2026-01", engine="echo", launcher="inprocess", modes=["embed"]),
        DeploymentConfig(model="away", engine="echo", launcher="inprocess", replicas=0),
    ]
)


@pytest.fixture(scope="module")
def gateway() -> Iterator[Served]:
    with running_gateway(CONFIG) as served, httpx.Client(base_url=served.url, headers=served.headers) as operator:
        for alias, target in (("best", "echo"), ("frozen", "vectors@2026-01")):
            answer = operator.put(f"/admin/v1/models/aliases/{alias}", json={"target": target})
            assert answer.status_code == 200
        added = operator.post("/admin/v1/models", json={"name": "shelf", "source": "echo:shelf"})
        assert added.status_code == 201
        yield served


def listed(http: httpx.Client) -> dict[str, dict[str, Any]]:
    answer = http.get("/v1/models").json()
    assert answer["object"] == "list"
    return {card["id"]: card for card in answer["data"]}


def test_the_list_has_every_served_name_and_alias(http: httpx.Client) -> None:
    cards = listed(http)
    assert set(cards) == {"echo", "vectors", "away", "best", "frozen"}
    assert all(card["object"] == "model" and card["owned_by"] == "terascope" for card in cards.values())
    assert {name: card["alias_of"] for name, card in cards.items() if card["alias_of"]} == {
        "best": f"echo@{cards['echo']['version']}",
        "frozen": "vectors@2026-01",
    }


def test_a_card_says_what_the_model_is_and_can(http: httpx.Client) -> None:
    cards = listed(http)
    assert cards["vectors"]["version"] == "2026-01"
    assert cards["vectors"]["modes"] == ["embed"]
    assert cards["echo"]["modes"] == ["embed", "query"]
    assert cards["echo"]["context_length"] == 512
    assert len(cards["echo"]["digest"]) == 64
    assert {name: card["state"] for name, card in cards.items() if not card["alias_of"]} == {
        "echo": "ready",
        "vectors": "ready",
        "away": "stopped",
    }
    same = {"id", "alias_of"}
    assert without(cards["best"], same) == without(cards["echo"], same)


def without(card: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in card.items() if name not in names}


@pytest.mark.parametrize("name", ["echo", "best", "vectors@2026-01", "frozen"])
def test_a_model_is_shown_under_the_name_that_was_asked(http: httpx.Client, name: str) -> None:
    shown = http.get(f"/v1/models/{name}").json()
    assert shown["id"] == name
    version = "2026-01" if name in ("vectors@2026-01", "frozen") else listed(http)["echo"]["version"]
    assert shown["version"] == version


@pytest.mark.parametrize("name", ["echo", "best", "echo@VERSION"])
def test_what_is_listed_can_be_asked(http: httpx.Client, name: str) -> None:
    version = listed(http)["echo"]["version"]
    body = {"model": name.replace("VERSION", version), "messages": [{"role": "user", "content": "hi"}]}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.json()["model"] == answer.headers["x-terascope-model"] == f"echo@{version}"


@pytest.mark.parametrize(
    ("name", "status", "code", "word"),
    [
        ("ekko", 404, "model_not_found", "echo"),
        ("echo@1999", 404, "model_not_found", "1999"),
        ("shelf", 404, "model_not_found", "not served"),
        ("a b", 400, "invalid_request", "not a model name"),
    ],
)
def test_what_is_not_there(http: httpx.Client, name: str, status: int, code: str, word: str) -> None:
    body = {"model": name, "messages": [{"role": "user", "content": "hi"}]}
    for answer in (http.get(f"/v1/models/{name}"), http.post("/v1/chat/completions", json=body)):
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert word in answer.json()["error"]["message"]


def test_a_model_is_used_only_for_what_it_is_deployed_for(http: httpx.Client) -> None:
    assert http.post("/v1/embeddings", json={"model": "vectors", "input": "x"}).status_code == 200
    body = {"model": "vectors", "messages": [{"role": "user", "content": "hi"}]}
    answer = http.post("/v1/chat/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_feature")
    assert "query" in answer.json()["error"]["message"]


def test_a_model_without_a_replica_is_refused_with_the_reason(http: httpx.Client) -> None:
    body = {"model": "away", "messages": [{"role": "user", "content": "hi"}]}
    answer = http.post("/v1/chat/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
    assert "no replica of it is wanted" in answer.json()["error"]["message"]
