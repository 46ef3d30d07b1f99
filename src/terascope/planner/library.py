"""The models that the planner knows by name."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from terascope.core.errors import ModelNotFound
from terascope.planner.configs import parse_config, read_config
from terascope.planner.shapes import Architecture


@dataclass(frozen=True, slots=True)
class Published:
    """What others say of a model, beside what its shapes give."""

    name: str
    figures: str
    """As published: all parameters and those that a token passes, such as `1T/32B`; empty where nothing was found."""
    deviation: str
    """Why that is not what the shapes give, to its rounding; empty where it is."""
    source: str
    parameters: float
    """Billions, computed when the shapes were collected; 0 where that was not done."""
    active: float
    cache_bytes: int
    """Bytes of KV cache for each token in bf16, likewise."""
    fixed_bytes: int


def load_data(name: str) -> Any:
    """The YAML file `name` that ships with the planner."""
    text = files("terascope.planner").joinpath("data", name).read_text(encoding="utf-8")
    return yaml.load(text, _LOADER)  # noqa: S506 - both loaders are safe


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one written in C where libyaml is there


def find_model(name: str) -> Architecture:
    """Return the model called `name`: of the library, or the path of a `config.json` or of a directory with one.

    Names are compared without their owner and without case. Raises `ModelNotFound` that says what is near; `BadRequest`
    when a file is there and cannot be used.
    """
    if (path := Path(name)).exists() and (path.is_file() or (path / "config.json").exists()):
        return read_config(path)
    found = _names().get(name.lower()) or _names().get(_short(name))
    if found is None:
        near = difflib.get_close_matches(_short(name), [one for one in _names() if "/" not in one], 3)
        raise ModelNotFound(
            f"the planner knows no model {name!r}{'; near are ' + ', '.join(near) if near else ''}; give the path of a "
            "config.json, or one of `terascope plan --list models`",
            param="model",
        )
    return _architecture(*found)


def library() -> tuple[Architecture, ...]:
    """All models of the library, without the variants in other number formats."""
    return tuple(_architecture(entry["name"], "") for entry in _entries())


def published() -> tuple[Published, ...]:
    """What is published of each model of the library, in the same order."""
    return tuple(
        Published(
            one["name"],
            one.get("published", ""),
            one.get("deviation", ""),
            one["source"],
            one.get("parameters_1e9", 0.0),
            one.get("active_1e9", 0.0),
            one.get("kv_bytes_per_token", 0),
            one.get("kv_fixed_bytes", 0),
        )
        for one in _entries()
    )


@cache
def _entries() -> tuple[Mapping[str, Any], ...]:
    return tuple(load_data("models.yaml"))


@cache
def _names() -> Mapping[str, tuple[str, str]]:
    """Every name in lower case, with and without its owner: the name it is shown by, and its format if that differs."""
    found: dict[str, tuple[str, str]] = {}
    for entry in _entries():
        for name in (entry["name"], *entry.get("also", ())):
            shown = name if "/" in name else entry["name"]  # a nickname is nothing that a hub knows
            found |= dict.fromkeys((name.lower(), _short(name)), (shown, ""))
        for name, number_format in entry.get("variants", {}).items():
            found |= dict.fromkeys((name.lower(), _short(name)), (name, number_format))
    return found


@cache
def _architecture(name: str, number_format: str) -> Architecture:
    entry = next(one for one in _entries() if name in (one["name"], *one.get("also", ()), *one.get("variants", ())))
    shapes = parse_config(entry["config"], name, where=f"the library's {name}")
    return replace(shapes, native=number_format or shapes.native, source=entry["source"])


def _short(name: str) -> str:
    return name.rpartition("/")[2].lower()
