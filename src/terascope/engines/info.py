"""What our own engines answer at `/terascope/info`: an `EngineInfo` as JSON."""

from dataclasses import asdict

import orjson

from terascope.core.errors import EngineUnreachable
from terascope.core.models import Capabilities
from terascope.engines.contract import EngineInfo


def info_json(info: EngineInfo) -> bytes:
    """Return `info` as JSON; sets as sorted lists, `details` as an object."""
    capabilities = {
        "endpoints": sorted(info.capabilities.endpoints),
        "features": sorted(info.capabilities.features),
    }
    return orjson.dumps(asdict(info) | {"capabilities": capabilities, "details": dict(info.details)})


def read_info(body: bytes) -> EngineInfo:
    """Return what `body` says. Raises `EngineUnreachable` when it is not an engine's own description."""
    try:
        said = orjson.loads(body)
        able = said["capabilities"]
        return EngineInfo(
            engine=str(said["engine"]),
            version=str(said["version"]),
            capabilities=Capabilities(frozenset(map(str, able["endpoints"])), frozenset(map(str, able["features"]))),
            context_length=int(said.get("context_length") or 0),
            dtype=str(said.get("dtype") or ""),
            device=str(said.get("device") or ""),
            details=tuple((str(name), str(value)) for name, value in (said.get("details") or {}).items()),
            slots=max(0, int(said.get("slots") or 0)),
            extra=max(0, int(said.get("extra") or 0)),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EngineUnreachable("the engine's description of itself cannot be read", detail=repr(error)) from error
