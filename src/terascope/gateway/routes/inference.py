"""The routes to models: `/v1/chat/completions` and its kin. They do nothing but call the one page."""

import asyncio
import logging

from terascope.core.config import ServerConfig
from terascope.core.errors import BadRequest, InternalError, ServiceError
from terascope.core.models import Mode
from terascope.gateway.asgi import ClientLeft, HttpReply, Receive, Scope, Send, header, leaves, read_body
from terascope.inference.inference import Asked, Inference

log = logging.getLogger(__name__)


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
        client = _Client(receive)
        try:
            asked = Asked(
                request_id, header(scope, b"authorization"), self._endpoint, self._mode,
                body=lambda: self._body(scope, receive, client), deadline_s=_deadline(scope),
            )  # fmt: skip
            await self._inference.answer(asked, reply)
        except ServiceError as error:
            _log(error, request_id)
            await reply.fail(error)
        except ClientLeft:
            log.info("the client left before its request was whole", extra={"request_id": request_id})
        except asyncio.CancelledError:
            if not client.left:
                await reply.fail(InternalError("the server is stopping"))
                raise
        except Exception:  # the request's edge: whatever it was, the client gets an error in OpenAI's shape
            log.exception("unexpected error", extra={"request_id": request_id})
            await reply.fail(InternalError("something went wrong here; the log has the reason under this request id"))
        finally:
            client.forget()

    async def _body(self, scope: Scope, receive: Receive, client: "_Client") -> bytes:
        config = self._config
        body = await read_body(scope, receive, most=config.max_body_bytes, timeout_s=config.request_timeout_s)
        client.watch()
        return body


class _Client:
    """Cancels the current task when the client leaves."""

    def __init__(self, receive: Receive) -> None:
        self.left = False
        self._receive = receive
        self._watcher: asyncio.Task[None] | None = None

    def watch(self) -> None:
        """From now on; the body has been read."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - tells the type checker; a coroutine always runs in a task
        self._watcher = asyncio.ensure_future(leaves(self._receive))
        self._watcher.add_done_callback(lambda watcher: self._gone(watcher, task))

    def forget(self) -> None:
        """No longer."""
        if self._watcher:
            self._watcher.cancel()

    def _gone(self, watcher: asyncio.Future[None], task: asyncio.Task[object]) -> None:
        if not watcher.cancelled() and watcher.exception() is None:
            self.left = True
            task.cancel()


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


def _log(error: ServiceError, request_id: str) -> None:
    level = logging.WARNING if error.status >= 500 else logging.INFO
    log.log(level, "%s: %s", error.code, error.detail or error.message, extra={"request_id": request_id})
