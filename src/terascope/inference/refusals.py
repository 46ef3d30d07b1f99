"""What an engine's error means to the client: its own words where they are for them, a status that is true."""

import re
from collections.abc import Mapping
from typing import Any

from terascope.core.errors import (
    BadRequest,
    BodyTooLarge,
    EngineError,
    EngineNan,
    Overloaded,
    RateLimited,
    ServiceError,
    UnsupportedFeature,
)

_CODE = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9_.-]{1,64}")
_OUR_KEY = frozenset({401, 403, 407})
_KINDS: dict[int, type[ServiceError]] = {
    400: BadRequest, 413: BodyTooLarge, 422: BadRequest, 404: UnsupportedFeature, 405: UnsupportedFeature,
    429: RateLimited, 501: UnsupportedFeature, 503: Overloaded,
}  # fmt: skip


class EngineSaidError(ServiceError):
    """The engine refused or failed; its own words, type, code and parameter are passed on.

    A code that only repeats the status, as vLLM's do, is none; neither is one of an error that is about the engine.
    """

    def __init__(self, status: int, said: Mapping[str, Any], kind: type[ServiceError], retry_after: str) -> None:
        detail = f"the engine answered with status {status}"
        # the words may quote the prompt: they go to the client, not to the log
        super().__init__(
            _text(said.get("message")) or detail,
            param=_text(said.get("param")),
            detail=detail,
            retry_after=_seconds(retry_after),
        )
        own = {} if kind is UnsupportedFeature else said
        code = _text(own.get("code")) or ""
        self.status = status if kind is BadRequest else kind.status
        self.code = code if _CODE.fullmatch(code) else kind.code  # it goes into the record, where no text may
        self.type = _text(own.get("type")) or kind.type


def refusal(status: int, said: Mapping[str, Any], retry_after: str = "") -> ServiceError:
    """The error to raise for an engine that answered with `status` and `said`, which is `engine_error`'s.

    An engine's 401, 403 and 404 are about this gateway, not about the client.
    """
    if status in _OUR_KEY:  # its words may quote the key
        return EngineError("the engine refuses this gateway's own key", detail=f"it answered with status {status}")
    if status == 404 and _names_model(said):
        return EngineError("the engine does not have the model that it is to serve", detail="it answered 404")
    kind = EngineNan if said.get("code") == EngineNan.code else _KINDS.get(status, EngineError)
    return EngineSaidError(status, said, kind, retry_after)


def _names_model(said: Mapping[str, Any]) -> bool:
    return said.get("param") == "model" or "model" in f"{said.get('code')} {said.get('message')}".lower()


def _text(value: object) -> str | None:
    return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) and value != "" else None


def _seconds(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None
