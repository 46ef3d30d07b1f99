"""The dashboard for Grafana asks for metrics that a gateway has, by labels that they have."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from terascope.testing.gateway import Served

FILE = Path(__file__).parents[3] / "docs" / "how-to" / "files" / "grafana-dashboard.json"
_NAME = r"(terascope_\w+)"
_LABELS = re.compile(r'by \(([\w, ]+)\)|\{(\w+)="\w+"\}')


def queries() -> list[str]:
    """Every query of the dashboard."""
    panels = json.loads(FILE.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


@pytest.fixture(scope="module")
def labels(gateway: Served) -> dict[str, set[str]]:
    """The labels of every series of a gateway that has answered a request, by name."""
    chat = {"model": "echo", "messages": [{"role": "user", "content": "one two"}]}
    http = httpx.Client(base_url=gateway.url, headers=gateway.headers)
    assert http.post("/v1/chat/completions", json=chat).status_code == 200
    found: dict[str, set[str]] = defaultdict(set)
    for path in ("/metrics", "/metrics/engines"):
        for family in text_string_to_metric_families(http.get(path).text):
            for sample in family.samples:
                found[sample.name] |= set(sample.labels)
    http.close()
    return found


@pytest.mark.parametrize("query", queries())
def test_a_query_names_what_there_is(labels: dict[str, set[str]], query: str) -> None:
    names = re.findall(_NAME, query)
    assert names
    assert set(names) <= labels.keys()
    used = set(_used(query))
    assert used <= set.union(*(labels[name] for name in names))
    assert query.count("(") == query.count(")")


def _used(query: str) -> Iterator[str]:
    for grouped, matched in _LABELS.findall(query):
        yield from filter(None, re.split(r"\W+", grouped or matched))


def test_legends_are_labels_of_their_queries() -> None:
    for panel in json.loads(FILE.read_text())["panels"]:
        for target in panel["targets"]:
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert "by (" not in target["expr"] or named <= set(_used(target["expr"]))
