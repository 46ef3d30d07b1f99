"""Every error that can reach a user.

    ServiceError
    ├── BadRequest             400  the request will fail again as it is
    │   ├── BodyTooLarge       413
    │   ├── MethodNotAllowed   405
    │   ├── RequestTimeout     408  the client was too slow to send its request
    │   ├── UnsupportedFeature 400  no engine of that model can do what is asked
    │   ├── ContextLengthExceeded 400  prompt and answer do not fit into the model's context
    │   ├── BackupUnusable     400  a file is no whole backup that this program can restore
    │   ├── QuotaExceeded      413  the project keeps as many bytes of files as it may
    │   ├── Conflict           409
    │   └── RangeNotSatisfiable 416  nothing of the file is at the `Range` that was asked for
    ├── NotAuthenticated       401  no key, or not a valid one
    │   └── InvalidToken       401  a token that is not, or no longer, valid here
    ├── NotAllowed             403
    ├── AllocationExhausted    402  the project has not enough service units left
    ├── NotFound               404
    │   ├── ModelNotFound      404
    │   └── FileLost           404  a file is known, but its content is not in the store any more
    ├── RateLimited            429
    ├── Overloaded             503  try again later
    │   ├── ModelUnavailable   503  the model has no replica that can answer
    │   ├── EngineOutOfMemory  503  the engine's memory did not suffice for the request
    │   ├── IssuerUnavailable  503  the issuer of a token cannot be asked just now
    │   ├── StorageUnavailable 503  the store of files cannot be used just now
    │   └── ServerStopping     503  the gateway is being stopped
    ├── StorageFull            507  the store of files has no room left
    ├── EngineError            502  the engine failed before it answered
    │   └── EngineUnreachable  502  no connection to the engine
    ├── EngineLost             502  the engine was lost in mid-answer
    ├── EngineNan              500  the model computed something that is not a number
    ├── IdleTimeout            504  the engine said nothing for too long
    ├── DeadlineExceeded       504  the client's own deadline passed
    ├── SourceUnavailable      502  a model could not be fetched or read just now
    ├── ConfigError            -    the configuration is wrong; `terascope` does not start
    ├── GatewayUnreachable     503  a client has no connection to the gateway
    └── InternalError          500

`str(error)` is safe to show to the user; `detail` goes to the log only.
"""

from collections.abc import Mapping


class ServiceError(Exception):
    """Root of all errors that Terascope raises on purpose.

    Attributes, set by each class: `status` (HTTP), `code` (stable, one page each in docs/errors), `type` (OpenAI's
    `error.type`), `retryable` (the same request may succeed later).
    """

    status: int = 500
    code: str = "internal_error"
    type: str = "server_error"
    retryable: bool = False

    def __init__(
        self, message: str, *, param: str | None = None, detail: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.detail = detail
        self.retry_after = retry_after
        self.headers: Mapping[str, str] = {}  # that go with it, by name
        self.request_id = ""  # of an error that a client received: what the gateway's log has it under


class InternalError(ServiceError):
    """Something is wrong in Terascope itself; the log has the reason under the request id."""


class BadRequest(ServiceError):
    """The request is not valid; it will fail again until it is changed."""

    status = 400
    code = "invalid_request"
    type = "invalid_request_error"


class BodyTooLarge(BadRequest):
    """The request's body is over `server.max_body_bytes`."""

    status = 413
    code = "body_too_large"


class MethodNotAllowed(BadRequest):
    """The path exists but does not take this method."""

    status = 405
    code = "method_not_allowed"
    allow = ""
    """The methods that the path does take, for the `Allow` header."""


class RequestTimeout(BadRequest):
    """The client did not send its request within `server.request_timeout_s`."""

    status = 408
    code = "request_timeout"
    retryable = True


class UnsupportedFeature(BadRequest):
    """No engine of that model can do what is asked."""

    code = "unsupported_feature"


class ContextLengthExceeded(BadRequest):
    """Prompt and answer together are longer than what the model can take."""

    code = "context_length_exceeded"


class BackupUnusable(BadRequest):
    """A file cannot be restored: it is no backup, not a whole one, or one of a newer Terascope."""

    code = "backup_unusable"


class QuotaExceeded(BadRequest):
    """The project would keep more bytes of files than it may; it has to delete some."""

    status = 413
    code = "quota_exceeded"


class Conflict(BadRequest):
    """The change contradicts what is there."""

    status = 409
    code = "conflict"


class RangeNotSatisfiable(BadRequest):
    """The file has nothing at the `Range` that was asked for; `Content-Range` says how long it is."""

    status = 416
    code = "range_not_satisfiable"


class NotAuthenticated(ServiceError):
    """There is no key, or it is unknown, expired or revoked."""

    status = 401
    code = "invalid_api_key"
    type = "authentication_error"


class InvalidToken(NotAuthenticated):
    """The token is forged, malformed, expired, or not meant for this gateway."""

    code = "invalid_token"


class NotAllowed(ServiceError):
    """The key is valid but lacks the scope."""

    status = 403
    code = "not_allowed"
    type = "permission_error"


class AllocationExhausted(ServiceError):
    """The project that is to pay has not enough service units left."""

    status = 402
    code = "allocation_exhausted"
    type = "allocation_error"


class NotFound(ServiceError):
    """There is nothing of that name."""

    status = 404
    code = "not_found"
    type = "invalid_request_error"


class ModelNotFound(NotFound):
    """There is no model of that name."""

    code = "model_not_found"


class FileLost(NotFound):
    """The file is known, but its content is not in the store of files any more."""

    code = "file_lost"


class RateLimited(ServiceError):
    """A limit was reached; `Retry-After` says when to come back."""

    status = 429
    code = "rate_limit_exceeded"
    type = "rate_limit_error"
    retryable = True


class Overloaded(ServiceError):
    """Terascope cannot take the request now."""

    status = 503
    code = "overloaded"
    retryable = True


class ModelUnavailable(Overloaded):
    """The model has no replica that can answer, and none is on its way."""

    code = "model_unavailable"


class EngineOutOfMemory(Overloaded):
    """The engine's memory did not suffice for the request; others go on."""

    code = "engine_out_of_memory"


class IssuerUnavailable(Overloaded):
    """The issuer of a token cannot be asked for its keys just now, so the token cannot be judged."""

    code = "issuer_unavailable"


class StorageUnavailable(Overloaded):
    """The store of files cannot be read or written just now."""

    code = "storage_unavailable"


class StorageFull(ServiceError):
    """The store of files has no room left; what was being written to it is gone."""

    status = 507
    code = "storage_full"


class ServerStopping(Overloaded):
    """The gateway is being stopped, and the answer would have taken longer than it waits."""

    code = "server_stopping"


class EngineError(ServiceError):
    """The engine failed before it answered."""

    status = 502
    code = "engine_error"
    retryable = True


class EngineUnreachable(EngineError):
    """No connection to the engine could be made, or it closed before it answered."""

    code = "engine_unreachable"


class EngineLost(ServiceError):
    """The engine was lost in mid-answer; what came before is incomplete."""

    status = 502
    code = "engine_lost"
    retryable = True


class EngineNan(ServiceError):
    """The model computed something that is not a number for this request; its answer would mean nothing."""

    code = "engine_nan"


class IdleTimeout(ServiceError):
    """The engine said nothing for `server.idle_timeout_s`."""

    status = 504
    code = "idle_timeout"
    retryable = True


class DeadlineExceeded(ServiceError):
    """The deadline that the client set in `X-Terascope-Deadline` passed."""

    status = 504
    code = "deadline_exceeded"


class SourceUnavailable(ServiceError):
    """A model could not be fetched or kept just now: its source is out of reach, or the disk is full."""

    status = 502
    code = "source_unavailable"
    retryable = True


class GatewayUnreachable(ServiceError):
    """A client could not reach the gateway, or the connection broke before the answer was whole."""

    status = 503
    code = "gateway_unreachable"
    retryable = True


class ConfigError(ServiceError):
    """The configuration is wrong; the message names the key and what to write."""

    code = "invalid_configuration"


def all_errors() -> tuple[type[ServiceError], ...]:
    """Return every error class, the root first: what the error pages and the tests walk."""
    found: list[type[ServiceError]] = [ServiceError]
    for error in found:
        found.extend(error.__subclasses__())
    return tuple(found)
