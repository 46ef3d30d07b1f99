"""The sources, by the word before the colon."""

from collections.abc import Callable
from pathlib import Path

from terascope.catalog.sources.contract import Source
from terascope.catalog.sources.hub import HubSource
from terascope.catalog.sources.path import PathSource
from terascope.catalog.sources.pypi import PackageSource
from terascope.core.clock import Clock
from terascope.core.errors import BadRequest

_KINDS: dict[str, Callable[[str, Path, Clock], Source]] = {
    "path": lambda rest, _cache, _clock: PathSource.parse(rest),
    "hf": lambda rest, _cache, _clock: HubSource.parse(rest),
    "pypi": PackageSource.parse,
}


def parse_source(text: str, cache_dir: Path, clock: Clock) -> Source:
    """Read `path:DIR`, `hf:org/name[@revision]` or `pypi:package==version`; reads nothing else.

    Raises `BadRequest` that says how to write it.
    """
    kind, _, rest = text.strip().partition(":")
    if kind not in _KINDS or not rest:
        raise BadRequest(
            f"{text[:200]!r} is not a model source; write path:DIR, hf:org/name@revision or pypi:package==version",
            param="source",
        )
    return _KINDS[kind](rest.strip(), cache_dir, clock)
