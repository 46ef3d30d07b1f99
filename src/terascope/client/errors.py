"""Turns what went wrong, on the wire or on the way, into one of our errors."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from terascope.core.errors import (
    BadRequest,
    ConfigError,
    EngineError,
    GatewayUnreachable,
    InternalError,
    ServiceError,
    all_errors,
)
from terascope.protocol.errors import engine_error


def _known() -> tuple[dict[str, type[ServiceError]], dict[int, type[ServiceError]]]:
    """The most general class of every code and of every status that a gateway sends."""
    codes: dict[str, type[ServiceError]] = {InternalError.code: InternalError}
    statuses: dict[int, type[ServiceError]] = {InternalError.status: InternalError}
    for error in (one for one in all_errors() if one.__module__ == ServiceError.__module__):
        codes.setdefault(error.code, error)
        if error not in (GatewayUnreachable, ConfigError):
            statuses.setdefault(error.status, error)
    return codes, statuses


_BY_CODE, _BY_STATUS = _known()


def error_of(told: Mapping[str, Any], status: int = EngineError.status) -> ServiceError:
    """The error that the `error` object `told` describes: by its code, else by the status it came with.

    A code that only an engine knows is kept on the error.
    """
    code = str(told.get("code") or "")
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status) or (BadRequest if 400 <= status < 500 else InternalError)
    param = told.get("param")
    error = kind(str(told.get("message") or kind.__doc__), param=None if param is None else str(param))
    error.status = status
    error.code = code or error.code
    error.type = str(told.get("type") or error.type)
    error.request_id = str(told.get("request_id") or "")
    return error


def error_from(response: httpx.Response, url: str) -> ServiceError:
    """The error of an answer that is not 2xx; its body has been read."""
    told = engine_error(response.content)
    if not told:
        return stranger(url, f"HTTP {response.status_code}, {response.headers.get('content-type') or 'no body'}")
    error = error_of(told, response.status_code)
    error.request_id = error.request_id or response.headers.get("x-request-id", "")
    error.retry_after = _seconds(response.headers.get("retry-after", ""))
    return error


def stranger(url: str, what: str) -> GatewayUnreachable:
    """The error for an answer that no gateway gives."""
    return GatewayUnreachable(f"what answers at {url} is not a Terascope gateway ({what}); check TERASCOPE_URL")


@contextmanager
def told(url: str) -> Iterator[None]:
    """Inside, whatever httpx raises becomes `GatewayUnreachable` with the next step."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise GatewayUnreachable(
            f"no connection to {url} ({str(error) or 'it timed out'}); is `terascope serve` running there?"
        ) from error
    except httpx.TimeoutException as error:
        raise GatewayUnreachable(f"{url} did not answer in time; `terascope doctor` looks at it") from error
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise GatewayUnreachable(f"the connection to {url} broke in mid-answer ({reason}); try again") from error


def _seconds(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
