"""`/metrics`: what Prometheus reads, and that it names nobody."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from terascope.core.config import AuthConfig, Config, DeploymentConfig
from terascope.core.runs import RunRecord
from terascope.core.states import Outcome
from terascope.gateway.metrics import Metrics
from terascope.testing.gateway import Served, running_gateway

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "metrics.md"
CHAT = {"model": "echo", "messages": [{"role": "user", "content": "one two three"}]}


def parsed(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(families: dict[str, Metric], sample: str, **labels: str) -> float:
    """The sum of all samples of that name that carry `labels`."""
    every = (one for family in families.values() for one in family.samples if one.name == sample)
    return sum(one.value for one in every if labels.items() <= one.labels.items())


def test_a_request_counts(http: httpx.Client) -> None:
    before = parsed(http.get("/metrics").text)
    answer = http.post("/v1/chat/completions", json=CHAT)
    model = answer.headers["x-terascope-model"]
    assert http.post("/v1/chat/completions", json=CHAT | {"n": 0}).status_code == 400
    after = parsed(http.get("/metrics").text)

    def gained(sample: str, **labels: str) -> float:
        return value(after, sample, **labels) - value(before, sample, **labels)

    asked = {"endpoint": "chat/completions", "model": model}
    assert gained("terascope_requests_total", outcome="completed", **asked) == 1
    assert gained("terascope_requests_total", outcome="refused", **asked) == 1
    usage = answer.json()["usage"]
    assert gained("terascope_tokens_total", model=model, kind="prompt") == usage["prompt_tokens"]
    assert gained("terascope_tokens_total", model=model, kind="completion") == usage["completion_tokens"]
    assert gained("terascope_answer_seconds_count", model=model) == 2
    assert gained("terascope_first_byte_seconds_count", model=model) == 1
    assert value(after, "terascope_in_flight") == 0


def test_no_person_no_key_and_no_text(gateway: Served, http: httpx.Client) -> None:
    made = http.post("/admin/v1/keys", json={"name": "Marie Curie", "scopes": ["query"]}).json()
    hers = {"Authorization": f"Bearer {made['key']}"}
    body = CHAT | {"user": "Pierre", "messages": [{"role": "user", "content": "radium"}]}
    assert http.post("/v1/chat/completions", json=body, headers=hers).status_code == 200
    assert http.post("/v1/chat/completions", json=body | {"model": "polonium"}, headers=hers).status_code == 404
    text = http.get("/metrics").text
    for secret in ("Curie", "Pierre", "radium", "polonium", made["id"], made["prefix"], made["key"], gateway.key):
        assert secret not in text
    families = parsed(text)
    labels = {name for family in families.values() for sample in family.samples for name in sample.labels}
    assert labels == {"endpoint", "model", "outcome", "kind", "le", "qos", "deployment", "replica", "status"}
    assert value(families, "terascope_requests_total", model="none", outcome="refused") >= 1


def test_every_series_is_documented(http: httpx.Client) -> None:
    of_the_gateway = PAGE.read_text().partition("## The engines")[0]
    documented = set(re.findall(r"^\| `(\w+)`", of_the_gateway, re.MULTILINE))
    families = parsed(http.get("/metrics").text).values()
    assert {one.name + ("_total" if one.type == "counter" else "") for one in families} == documented


def test_an_answer_that_never_began_has_no_first_byte() -> None:
    metrics = Metrics()
    metrics.count(RunRecord("req_1", 0.0, "completions", "key_1", outcome=Outcome.FAILED, total_s=0.25))
    families = parsed(metrics.text().decode())
    assert value(families, "terascope_answer_seconds_sum", model="none") == 0.25
    assert value(families, "terascope_first_byte_seconds_count", model="none") == 0


def test_cached_tokens_count_beside_the_prompts() -> None:
    metrics = Metrics()
    for cached in (5, 0, 4):
        metrics.count(RunRecord("req_1", 0.0, "completions", "key_1", "m@1", prompt_tokens=9, cached_tokens=cached))
    families = parsed(metrics.text().decode())
    assert value(families, "terascope_cached_tokens_total", model="m@1") == 9
    assert value(families, "terascope_tokens_total", model="m@1") == 27, "they are among the prompts' tokens"


@pytest.fixture(scope="module")
def closed() -> Iterator[Served]:
    echo = DeploymentConfig(model="echo", engine="echo", launcher="inprocess")
    with running_gateway(Config(auth=AuthConfig(metrics="operator"), deployments=[echo])) as served:
        yield served


def test_it_can_be_closed_to_all_but_operators(closed: Served) -> None:
    made = httpx.post(f"{closed.url}/admin/v1/keys", json={"name": "a"}, headers=closed.headers).json()
    for path in ("/metrics", "/metrics/engines"):
        statuses = [
            httpx.get(f"{closed.url}{path}", headers=headers).status_code
            for headers in ({}, {"Authorization": f"Bearer {made['key']}"}, closed.headers)
        ]
        assert statuses == [401, 403, 200]
