"""The description of the API: FastAPI's own for its routes, and the wire models for the routes to models."""

from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from terascope._version import __version__
from terascope.core.models import MODEL_PATTERN
from terascope.protocol import openai as wire

_TEMPLATE = "#/components/schemas/{model}"
_MODEL_ROUTES: dict[str, tuple[str, type[BaseModel], type[BaseModel], bool]] = {
    "/v1/chat/completions": ("Chat", wire.ChatCompletionRequest, wire.ChatCompletion, True),
    "/v1/completions": ("Complete a text", wire.CompletionRequest, wire.Completion, True),
    "/v1/embeddings": ("Turn texts into vectors", wire.EmbeddingRequest, wire.EmbeddingList, False),
    "/tokenize": ("Turn a text into token ids", wire.TokenizeRequest, wire.TokenizeResponse, False),
    "/detokenize": ("Turn token ids into a text", wire.DetokenizeRequest, wire.DetokenizeResponse, False),
}
_OPEN = ("/health", "/ready")  # no key needed
_ERRORS = {
    "400": "The request is not valid, or no engine of the model can do what is asked.",
    "401": "No key, or not a valid one.",
    "403": "The key lacks the scope.",
    "404": "There is no such thing.",
    "405": "The path does not take this method.",
    "408": "The client was too slow.",
    "409": "The change contradicts what is there.",
    "413": "The body is too large.",
    "422": "The engine cannot process the request.",
    "429": "A limit was reached.",
    "500": "Something is wrong here.",
    "502": "The engine failed.",
    "503": "Not now; try again.",
    "504": "A time limit passed.",
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
    described["paths"] = {path: _model_route(*route) for path, route in _MODEL_ROUTES.items()} | described["paths"]
    open_paths = _OPEN if app.state.services.config.auth.metrics == "operator" else (*_OPEN, "/metrics")
    for path, methods in described["paths"].items():
        for operation in methods.values():
            _finish(operation, keyed=path not in open_paths)
    return described


def _schemas() -> dict[str, Any]:
    asked: list[tuple[type[BaseModel], Any]] = [(route[1], "validation") for route in _MODEL_ROUTES.values()]
    answered: list[tuple[type[BaseModel], Any]] = [(route[2], "validation") for route in _MODEL_ROUTES.values()]
    _, schema = models_json_schema([*asked, *answered, (wire.ErrorBody, "validation")], ref_template=_TEMPLATE)
    found: dict[str, Any] = schema["$defs"]
    for kind, _ in asked:
        _must_name_its_model(found[kind.__name__])
    return found


def _must_name_its_model(schema: dict[str, Any]) -> None:
    """An engine may know its only model without being told; the gateway does not."""
    schema["properties"]["model"] = {"type": "string", "pattern": MODEL_PATTERN, "description": "Model or alias."}
    schema["required"] = sorted({*schema.get("required", ()), "model"})


def _model_route(summary: str, asked: type[BaseModel], answered: type[BaseModel], streams: bool) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref(answered)}}
    if streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    return {
        "post": {
            "tags": ["models"],
            "summary": summary,
            "operationId": summary.lower().replace(" ", "_"),
            "requestBody": {"required": True, "content": {"application/json": {"schema": _ref(asked)}}},
            "responses": {"200": {"description": "The engine's answer.", "content": content}},
        }
    }


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
