"""The routes to models: `/v1/chat/completions` and its kin. They do nothing but call the one page."""

import asyncio
import logging
from collections.abc import Callable

from terascope.core.config import ServerConfig
from terascope.core.errors import BadRequest, InternalError, ServiceError
from terascope.core.models import Mode
from terascope.core.projects import Qos
from terascope.gateway.asgi import HttpReply, Receive, Scope, Send, forget_client, header, read_body, when_client_leaves
from terascope.inference.inference import Asked, Inference, stopping

log = logging.getLogger(__name__)
_CLASSES = {qos.value: qos for qos in Qos}


class ModelRoute:
    """One path that asks a model."""

    def __init__(self, endpoint: str, mode: Mode, inference: Inference, config: ServerConfig) -> None:
        self._endpoint = endpoint
        self._mode = mode
        self._inference = inference
        self._config = config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = scope["terascope.request_id"]
        reply = HttpReply(send, request_id)
        when_client_leaves(scope, _ending(reply))
        try:
            asked = Asked(
                request_id, header(scope, b"authorization"), self._endpoint, self._mode,
                body=lambda: read_body(scope, receive, most=self._config.max_body_bytes),
                deadline_s=lambda: _deadline(scope),
                shares_with_all=lambda: _shares_with_all(scope),
                project=header(scope, b"x-terascope-project"), qos=lambda: _qos(scope),
            )  # fmt: skip
            await self._inference.answer(asked, reply)
        except ServiceError as error:
            _log(error, request_id)
            await reply.fail(error)
        except asyncio.CancelledError:
            if not reply.gone:
                await reply.fail(stopping())
                raise
            log.info("the client left", extra={"request_id": request_id})
        except Exception:
            log.exception("unexpected error", extra={"request_id": request_id})
            await reply.fail(InternalError("something went wrong here; the log has the reason under this request id"))
        finally:
            forget_client(scope)


def _ending(reply: HttpReply) -> Callable[[], None]:
    """What ends the present task when the client has left."""
    task = asyncio.current_task()

    def gone() -> None:
        reply.gone = True
        if task is not None:
            task.cancel()

    return gone


def _deadline(scope: Scope) -> float | None:
    text = header(scope, b"x-terascope-deadline")
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 1e9:
        raise BadRequest("X-Terascope-Deadline must be a number of seconds above 0", param="X-Terascope-Deadline")
    return seconds


def _shares_with_all(scope: Scope) -> bool:
    sharing = header(scope, b"x-terascope-prefix-sharing", "own")
    if sharing not in ("own", "all"):
        raise BadRequest("X-Terascope-Prefix-Sharing must be `own` or `all`", param="X-Terascope-Prefix-Sharing")
    return sharing == "all"


def _qos(scope: Scope) -> Qos:
    found = _CLASSES.get(header(scope, b"x-terascope-qos", Qos.INTERACTIVE))
    if found is None:
        raise BadRequest(f"X-Terascope-QOS must be one of {', '.join(Qos)}", param="X-Terascope-QOS")
    return found


def _log(error: ServiceError, request_id: str) -> None:
    """What the client did wrong is told to it alone: message and parameter may quote its request."""
    level, message = (logging.WARNING, error.message) if error.status >= 500 else (logging.INFO, "refused")
    log.log(level, "%s: %s", error.code, error.detail or message, extra={"request_id": request_id})
