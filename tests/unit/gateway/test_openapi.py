"""The description of the API says what is there, and all of it."""

from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest
from fastapi.routing import APIRoute

from terascope.core.config import AuthConfig, Config
from terascope.gateway.app import _PARTS
from terascope.gateway.openapi import _MODEL_ROUTES
from terascope.protocol.parse import parse
from terascope.protocol.request import ENDPOINTS
from terascope.testing.gateway import running_gateway


@pytest.fixture(scope="module")
def described() -> Iterator[dict[str, Any]]:
    with running_gateway(Config()) as served:
        yield httpx.get(f"{served.url}/openapi.json").json()


def operations(described: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def test_every_route_is_described(described: dict[str, Any]) -> None:
    there = {("POST", path) for path in ENDPOINTS}
    for part in _PARTS:
        for route in part.router.routes:
            if isinstance(route, APIRoute) and route.include_in_schema:
                there |= {(method, route.path_format) for method in route.methods or ()}
    assert {(method, path) for method, path, _ in operations(described)} == there


def test_references_lead_somewhere(described: dict[str, Any]) -> None:
    schemas = described["components"]["schemas"]
    referenced = {value.rpartition("/")[2] for value in found(described, "$ref")}
    assert referenced - set(schemas) == set()
    assert {"ChatCompletionRequest", "ChatCompletion", "ChatCompletionChunk", "ErrorBody", "RunView"} <= referenced


def found(value: object, name: str) -> Iterator[Any]:
    """Every value under the key `name`, however deep."""
    if isinstance(value, dict):
        yield from (inner for key, inner in value.items() if key == name)
        for inner in value.values():
            yield from found(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from found(inner, name)


def test_operations_have_names_of_their_own_and_errors_in_shape(described: dict[str, Any]) -> None:
    every = [operation for _, _, operation in operations(described)]
    names = [operation["operationId"] for operation in every]
    assert len(names) == len(set(names))
    assert all(operation["summary"] for operation in every)
    shape = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
    for method, path, operation in operations(described):
        for status, answer in operation["responses"].items():
            if status >= "400" and (path, status) != ("/ready", "503"):
                assert answer["content"] == shape, (method, path, status)


def test_keys_are_asked_for_where_they_are_needed(described: dict[str, Any]) -> None:
    without = {path for _, path, operation in operations(described) if "security" not in operation}
    assert without == {"/health", "/ready", "/metrics", "/metrics/engines", "/.well-known/terascope"}
    with running_gateway(Config(auth=AuthConfig(metrics="operator"))) as served:
        closed = httpx.get(f"{served.url}/openapi.json").json()
    assert "security" in closed["paths"]["/metrics"]["get"]
    assert "security" in closed["paths"]["/metrics/engines"]["get"]


def test_requests_to_models_are_described_field_by_field(described: dict[str, Any]) -> None:
    schemas = described["components"]["schemas"]
    fields = schemas["ChatCompletionRequest"]["properties"]
    assert {"messages", "temperature", "stream", "tools", "response_format", "logprobs", "min_p"} <= set(fields)
    for path, route in _MODEL_ROUTES.items():
        assert "model" in schemas[route.asked.__name__]["required"]
        open_to_more = path != "/v1/traces"  # a plan is a language; all else is a floor, not a cage
        assert schemas[route.asked.__name__].get("additionalProperties") is open_to_more


@pytest.mark.parametrize("path", ENDPOINTS)
def test_how_to_share_prefixes_is_described(described: dict[str, Any], path: str) -> None:
    [header] = described["paths"][path]["post"]["parameters"]
    assert (header["name"], header["in"]) == ("X-Terascope-Prefix-Sharing", "header")
    assert header["schema"] == {"type": "string", "enum": ["own", "all"], "default": "own"}


@pytest.mark.parametrize("path", ENDPOINTS)
def test_examples_are_valid(described: dict[str, Any], path: str) -> None:
    body = described["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    route = _MODEL_ROUTES[path]
    assert body["example"] == route.example
    assert not parse(route.asked, orjson.dumps(body["example"])).model_extra


def test_it_is_made_once_and_needs_no_key(stranger: httpx.Client) -> None:
    first, second = stranger.get("/openapi.json"), stranger.get("/openapi.json")
    assert first.headers["content-type"] == "application/json"
    assert first.content == second.content
