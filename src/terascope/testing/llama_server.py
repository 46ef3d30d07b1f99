"""llama.cpp's own server as the gateway meets it: what it says of itself, and tokens in its own form.

Its answers are those of the echo engine. The shapes are those that its documentation shows.
"""

import orjson

from terascope.engines.echo import text
from terascope.engines.echo.httpd import Exchange
from terascope.engines.echo.model import Settings
from terascope.engines.echo.server import EchoServer

LOADING = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
"""What it says while it loads."""


class LlamaServer:
    """The server. `loading`: whether it still loads its model."""

    def __init__(self, model: str, context_length: int = 4096) -> None:
        self.loading = False
        self._model = model
        self._context_length = context_length
        self._echo = EchoServer(Settings(model, context_length))

    async def handle(self, exchange: Exchange) -> None:
        """Answer one request."""
        request = exchange.request
        if self.loading:
            return await exchange.reply(503, orjson.dumps(LOADING))
        said = self._told(request.path) if request.method == "GET" else self._words(request.path, request.body)
        if said is None:
            return await self._echo.handle(exchange)
        return await exchange.reply(200, orjson.dumps(said))

    def _told(self, path: str) -> object | None:
        if path == "/health":
            return {"status": "ok"}
        if path == "/v1/models":
            meta = {"n_ctx": self._context_length, "n_ctx_train": 8192, "n_vocab": text.VOCABULARY}
            listed = [{"id": self._model, "object": "model", "owned_by": "llamacpp", "meta": meta}]
            return {"object": "list", "data": listed}
        return None

    def _words(self, path: str, body: bytes) -> object | None:
        if path == "/tokenize":
            return {"tokens": text.tokens(orjson.loads(body).get("content", ""))}
        if path == "/detokenize":
            return {"content": text.text_of(orjson.loads(body).get("tokens", []), "tokens")}
        if path == "/apply-template":
            messages = orjson.loads(body)["messages"]
            return {"prompt": "".join(f"{one['role']}: {one['content']}\n" for one in messages)}
        return None
