"""JSON schemas for llama.cpp: it makes a grammar of them, and leaves out what it has no rule for without a word."""

from typing import Any

from terascope.core.errors import UnsupportedFeature

_LEFT_OUT = (
    "multipleOf", "uniqueItems", "minProperties", "maxProperties", "patternProperties", "propertyNames", "contains",
    "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "unevaluatedProperties", "unevaluatedItems",
)  # fmt: skip
_OF_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
"""Heeded of integers only."""
_MAPS = ("properties", "$defs", "definitions")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_ONE = ("items", "additionalProperties")


def check_schema(schema: dict[str, Any]) -> None:
    """Raise `UnsupportedFeature` when an answer could break `schema`, since a part of it would be passed over."""
    waiting: list[Any] = [schema]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            _check(one)
            waiting += _inside(one)


def _check(schema: dict[str, Any]) -> None:
    found = [name for name in _LEFT_OUT if name in schema]
    if schema.get("type") != "integer":
        found += [name for name in _OF_NUMBERS if name in schema]
    if found:
        told = f"llama.cpp's server does not enforce `{found[0]}` of a schema; leave it out and check the answer"
        raise UnsupportedFeature(told, param="response_format")


def _inside(schema: dict[str, Any]) -> list[Any]:
    maps = [schema[name] for name in _MAPS if isinstance(schema.get(name), dict)]
    lists = [schema[name] for name in _LISTS if isinstance(schema.get(name), list)]
    return [
        *(schema[name] for name in _ONE if name in schema),
        *(inner for one in maps for inner in one.values()),
        *(inner for one in lists for inner in one),
    ]
