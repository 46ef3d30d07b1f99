"""The description of the API: FastAPI's own for its routes, and the wire models for the routes to models."""

from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from terascope._version import __version__
from terascope.core.config import DEFAULT_MODELS
from terascope.core.models import MODEL_PATTERN
from terascope.protocol import openai as wire
from terascope.protocol.trace_results import SiteViews, TraceResult
from terascope.protocol.traces import SitesRequest, TraceRequest
from terascope.protocol.vector_stores import FileSearchTool

_TEMPLATE = "#/components/schemas/{model}"
_CHAT_MODEL, _EMBED_MODEL = DEFAULT_MODELS
_QUESTION = "What is the capital of France?"


_Tools = Annotated[list[wire.Tool | FileSearchTool], Field(max_length=128)]


class ChatCompletionRequest(wire.ChatCompletionRequest):
    """Body of `POST /v1/chat/completions`."""

    tools: _Tools | None = None  # type: ignore[assignment]  # the gateway itself takes one more kind


@dataclass(frozen=True, slots=True)
class _Route:
    """A route to models: what it takes, what it answers, and what an event of its stream is."""

    summary: str
    asked: type[BaseModel]
    answered: type[BaseModel]
    example: dict[str, Any]
    event: type[BaseModel] | None = None


_MODEL_ROUTES: dict[str, _Route] = {
    "/v1/chat/completions": _Route(
        "Chat", ChatCompletionRequest, wire.ChatCompletion,
        {"model": _CHAT_MODEL, "messages": [{"role": "user", "content": _QUESTION}]}, wire.ChatCompletionChunk,
    ),
    "/v1/completions": _Route(
        "Complete a text", wire.CompletionRequest, wire.Completion,
        {"model": _CHAT_MODEL, "prompt": "The capital of France is", "max_tokens": 8}, wire.Completion,
    ),
    "/v1/embeddings": _Route(
        "Turn texts into vectors", wire.EmbeddingRequest, wire.EmbeddingList,
        {"model": _EMBED_MODEL, "input": ["a galaxy far away", "eine ferne Galaxie"]}, wire.EmbeddingList,
    ),
    "/tokenize": _Route(
        "Turn a text into token ids", wire.TokenizeRequest, wire.TokenizeResponse,
        {"model": _CHAT_MODEL, "prompt": _QUESTION},
    ),
    "/detokenize": _Route(
        "Turn token ids into a text", wire.DetokenizeRequest, wire.DetokenizeResponse,
        {"model": _CHAT_MODEL, "tokens": [72, 105]},
    ),
    "/v1/traces": _Route(
        "See and change what happens inside a model", TraceRequest, TraceResult,
        {"model": _CHAT_MODEL, "prompts": [_QUESTION], "operations": [{"capture": "norm", "tokens": "last"}]},
        TraceResult,
    ),
    "/v1/traces/sites": _Route(
        "List where one can look into a model", SitesRequest, SiteViews, {"model": _CHAT_MODEL},
    ),
}  # fmt: skip
_PREFIX_SHARING: dict[str, Any] = {
    "name": "X-Terascope-Prefix-Sharing",
    "in": "header",
    "description": "Who may profit from what the engine computed for this prompt, and whose prompts may speed up "
    "this one: those of the same key (`own`), or all requests that say `all`.",
    "schema": {"type": "string", "enum": ["own", "all"], "default": "own"},
}
_OPEN = ("/health", "/ready", "/.well-known/terascope")  # no key needed
_METRICS = ("/metrics", "/metrics/engines")  # nor here, unless `auth.metrics` says so
_ERRORS = {
    "400": "The request is not valid, or no engine of the model can do what is asked.",
    "401": "No key, or not a valid one.",
    "402": "The project has not enough service units left.",
    "403": "The key lacks the scope, or the project may not.",
    "404": "There is no such thing.",
    "405": "The path does not take this method.",
    "408": "The client was too slow.",
    "409": "The change contradicts what is there.",
    "413": "The body is too large, or the project keeps too much.",
    "416": "There is nothing at that `Range`.",
    "422": "The engine cannot process the request.",
    "429": "A limit was reached.",
    "500": "Something is wrong here.",
    "502": "The engine failed.",
    "503": "Not now; try again.",
    "504": "A time limit passed.",
    "507": "The store of files is full.",
}


def describe(app: FastAPI) -> None:
    """Give `app` its description: made once, when it is first asked for."""
    app.state.openapi = lambda: orjson.dumps(_description(app))


def _description(app: FastAPI) -> dict[str, Any]:
    described = get_openapi(title="Terascope", version=__version__, routes=app.routes)
    schemas = described.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(_schemas())
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    described["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    described["paths"] = {path: _model_route(route) for path, route in _MODEL_ROUTES.items()} | described["paths"]
    open_paths = _OPEN if app.state.services.config.auth.metrics == "operator" else (*_OPEN, *_METRICS)
    for path, methods in described["paths"].items():
        for operation in methods.values():
            _finish(operation, keyed=path not in open_paths)
    return described


def _schemas() -> dict[str, Any]:
    routes = _MODEL_ROUTES.values()
    kinds: dict[type[BaseModel], None] = {wire.ErrorBody: None}  # a set that keeps its order
    for route in routes:
        kinds |= dict.fromkeys(kind for kind in (route.asked, route.answered, route.event) if kind)
    _, schema = models_json_schema([(kind, "validation") for kind in kinds], ref_template=_TEMPLATE)
    found: dict[str, Any] = schema["$defs"]
    for route in routes:
        _must_name_its_model(found[route.asked.__name__])
    return found


def _must_name_its_model(schema: dict[str, Any]) -> None:
    """An engine may know its only model without being told; the gateway does not."""
    schema["properties"]["model"] = {"type": "string", "pattern": MODEL_PATTERN, "description": "Model or alias."}
    schema["required"] = sorted({*schema.get("required", ()), "model"})


def _model_route(route: _Route) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": _ref(route.answered)}}
    if route.event:
        content["text/event-stream"] = {"itemSchema": _event(route.event)}
    taken = {"application/json": {"schema": _ref(route.asked), "example": route.example}}
    return {
        "post": {
            "tags": ["models"],
            "summary": route.summary,
            "operationId": route.summary.lower().replace(" ", "_"),
            "parameters": [_PREFIX_SHARING],
            "requestBody": {"required": True, "content": taken},
            "responses": {"200": {"description": "The engine's answer.", "content": content}},
        }
    }


def _event(kind: type[BaseModel]) -> dict[str, Any]:
    """An event of a stream (`itemSchema` as in OpenAPI 3.2): an answer's piece, an error, or the end."""
    said = {"contentMediaType": "application/json", "contentSchema": {"anyOf": [_ref(kind), _ref(wire.ErrorBody)]}}
    data = {"type": "string", "if": {"const": "[DONE]"}, "else": said}
    return {"type": "object", "required": ["data"], "properties": {"data": data}}


def _finish(operation: dict[str, Any], *, keyed: bool) -> None:
    """Errors in their real shape, and the key, on every operation."""
    error = {"application/json": {"schema": _ref(wire.ErrorBody)}}
    responses = operation["responses"]
    for status, text in _ERRORS.items():
        if status == "422" or status not in responses:
            responses[status] = {"description": text, "content": error}
    if keyed:
        operation["security"] = [{"key": []}]


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _TEMPLATE.format(model=model.__name__)}
