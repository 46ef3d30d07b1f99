"""A route for hidden states in vLLM's own server: `/v1/terascope/states`, behind vLLM's key as all of `/v1`.

vLLM loads this file by its bare name, from a directory on its path, as `--middleware`. Of vLLM it uses what its own
routes use, and calls into the workers only the methods of `terascope_states.States`: no development mode is needed.
"""

import asyncio
import base64
import json
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

PATH = "/v1/terascope/states"
WANTED = "terascope_states"
_AT_ONCE = 256
"""How many inputs of one request wait inside vLLM at once."""
_FIELDS = ("layer", "pooling", "scaled", "dimensions")
_TRIAL = [1, 2, 3]
"""Tokens that every vocabulary has, from which it shows how a model's layers are read."""

_Found = tuple[bytes, list[int], int]
"""An input's vectors as float32, their shape, and how many tokens it has."""
_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_App = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


class Route:
    """Middleware that adds the route when the server starts, and passes everything on as it is."""

    def __init__(self, app: _App) -> None:
        self._app = app

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        if scope["type"] == "lifespan":
            engine = Gatherer(scope["app"])
            scope["app"].router.add_route(PATH, engine.told, methods=["GET"])
            scope["app"].router.add_route(PATH, engine.answered, methods=["POST"])
        await self._app(scope, receive, send)


class Gatherer:
    """Asks the engine of one server for hidden states."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._opened: dict[str, int] = {}
        self._opening = asyncio.Lock()

    async def told(self, _: Request) -> Response:
        """GET: how many `layers` can be read (0: only the model's end), and the `width` of states."""
        return JSONResponse(await self._open())

    async def answered(self, request: Request) -> Response:
        """POST: the vectors of `inputs`, texts or lists of tokens, as OpenAI's list of embeddings of `model`.

        `layer`, `pooling`, `scaled` and `dimensions` are as in `terascope_states.Gathered`, `priority` as vLLM has it.
        With `base64` vectors are little-endian float32, and an item that has several says their `shape`. A client that
        leaves ends the work.
        """
        asked = await request.json()
        work = asyncio.ensure_future(self._vectors(asked))
        gone = asyncio.ensure_future(_left(request))
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if not work.done():
            work.cancel()
            await asyncio.wait((work,))
            return Response(status_code=499)  # read by nobody
        try:
            return Response(await asyncio.to_thread(_body, asked, await work), media_type="application/json")
        except ValueError as error:  # what vLLM says of a wrong prompt
            message = {"message": str(error), "type": "invalid_request_error", "param": "input", "code": None}
            return JSONResponse({"error": message}, status_code=400)

    async def _open(self) -> dict[str, int]:
        async with self._opening:
            if not self._opened:
                await self._call("terascope_open")
                await self._states(_TRIAL, dict.fromkeys(_FIELDS) | {"pooling": "last"}, 0)
                self._opened = await self._call("terascope_open")
        return self._opened

    async def _vectors(self, asked: dict[str, Any]) -> list[_Found]:
        await self._open()
        room = asyncio.Semaphore(_AT_ONCE)

        async def one(given: str | list[int]) -> _Found:
            async with room:
                return await self._states(given, asked, asked["priority"])

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(given)) for given in asked["inputs"]]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _states(self, given: str | list[int], asked: dict[str, Any], priority: int) -> _Found:
        """The states of one input, computed whole: of no prefix that is known already, and known to nobody after."""
        from vllm import SamplingParams
        from vllm.renderers.inputs.preprocess import parse_model_prompt

        engine, key = self._app.state.engine_client, f"states-{uuid.uuid4().hex}"
        prompt = parse_model_prompt(engine.model_config, given)
        [rendered] = await engine.renderer.render_cmpl_async([prompt], prompt_extras={"cache_salt": key})
        length = len(rendered["prompt_token_ids"])
        wanted = {"key": key, "length": length, **{name: asked[name] for name in _FIELDS}}
        parameters = SamplingParams(
            max_tokens=1, detokenize=False, skip_reading_prefix_cache=True, extra_args={WANTED: wanted}
        )
        try:
            async for _ in engine.generate(rendered, parameters, key, priority=priority):
                pass
        finally:
            found = await asyncio.shield(self._call("terascope_take", key))
        if found is None or "error" in found:
            raise RuntimeError(f"no states came: {found['error'] if found else 'vLLM computed none'}")
        return found["data"], found["shape"], length

    async def _call(self, method: str, *arguments: str) -> Any:
        """What the first rank that has something says."""
        told = await self._app.state.engine_client.collective_rpc(method, args=arguments)
        return next((one for one in told if one is not None), None)


def _body(asked: dict[str, Any], found: list[_Found]) -> bytes:
    items = [_item(index, data, shape, asked["base64"]) for index, (data, shape, _) in enumerate(found)]
    tokens = sum(length for *_, length in found)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json.dumps({"object": "list", "data": items, "model": asked["model"], "usage": usage}).encode()


def _item(index: int, data: bytes, shape: list[int], as_base64: bool) -> dict[str, Any]:
    told: dict[str, Any] = {"object": "embedding", "index": index}
    if as_base64:
        told["embedding"] = base64.b64encode(data).decode()
        return told | ({"shape": shape} if len(shape) > 1 else {})
    return told | {"embedding": memoryview(data).cast("f", shape).tolist()}


async def _left(request: Request) -> None:
    """Return when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        continue
