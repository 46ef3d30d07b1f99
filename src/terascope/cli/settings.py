"""Reads `terascope.yaml` into the configuration tree; the only place that does."""

import difflib
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from platformdirs import user_cache_path, user_data_path
from pydantic import TypeAdapter, ValidationError

from terascope.core import environment
from terascope.core.config import DEFAULT_DEPLOYMENTS, DEFAULT_MODELS, Config
from terascope.core.errors import ConfigError


def load(path: Path | None) -> Config:
    """Return the configuration of the file at `path`; without one, the default that serves two small models.

    Raises `ConfigError` that names the key and what is wrong with it.
    """
    if path is None:
        return replace(Config(), models=dict(DEFAULT_MODELS), deployments=list(DEFAULT_DEPLOYMENTS))
    return parse(_read(path), str(path))


def parse(value: Any, where: str = "the configuration") -> Config:
    """Return the configuration that `value`, a parsed YAML document, describes.

    Raises `ConfigError` for unknown keys and values of the wrong kind.
    """
    value = {} if value is None else value
    _refuse_unknown(value, Config, where, "")
    try:
        return TypeAdapter(Config).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{where}: {key}: {first['msg']}") from None


def data_dir(given: Path | None) -> Path:
    """The data directory: as given, from the environment, or the user's own."""
    return (given or environment.data_dir() or user_data_path("terascope")).absolute()


def cache_dir() -> Path:
    """Where fetched models are kept, shared by all data directories."""
    return (environment.cache_dir() or user_cache_path("terascope")).absolute()


def database_url(config: Config, data_dir: Path) -> str:
    """The URL of the database that a gateway with `config` over `data_dir` has."""
    from terascope.store.database import sqlite_url  # most commands need no database

    return config.database.url or sqlite_url(data_dir / "terascope.db")


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None


def _refuse_unknown(value: Any, kind: Any, where: str, prefix: str) -> None:
    """Walk `value` beside the dataclass tree `kind`."""
    if is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        known = [field.name for field in fields(kind)]
        for name, inner in value.items():
            if name not in known:
                raise ConfigError(f"{where}: there is no key {prefix}{name}{_nearest(str(name), known)}")
            _refuse_unknown(inner, hints[name], where, f"{prefix}{name}.")
    elif get_origin(kind) is list and isinstance(value, list):
        for number, inner in enumerate(value):
            _refuse_unknown(inner, get_args(kind)[0], where, f"{prefix}{number}.")
    elif get_origin(kind) is dict and isinstance(value, dict):
        for name, inner in value.items():
            _refuse_unknown(inner, get_args(kind)[1], where, f"{prefix}{name}.")


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
