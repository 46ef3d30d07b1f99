"""LoRA adapters in vLLM: each is read when it is first asked for, under a name of its own that no client sees.

What is in memory is vLLM's to decide: it keeps `max-cpu-loras` of them, reads others again from their files, and
computes `max-loras` at once.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import orjson

from terascope.core.errors import BadRequest, ModelUnavailable
from terascope.engines.adapter_files import AdapterFiles
from terascope.engines.contract import EngineAnswer, EngineCall, Headers
from terascope.engines.vllm.weights import header_of
from terascope.internals.lora import CONFIG, WEIGHTS, modules_of, read_spec
from terascope.protocol.errors import engine_error

_MOST_TOLD = 2000  # characters of what vLLM says of an adapter

Send = Callable[[EngineCall], Awaitable[tuple[int, bytes]]]


class Adapters:
    """Has vLLM read adapters, each once. For one event loop."""

    def __init__(self, send: Send, base: Path) -> None:
        """`send` asks vLLM and returns its status and body; `base` has the files of the model."""
        self._send = send
        self._base = base
        self._loading: dict[str, asyncio.Task[None]] = {}

    async def name_of(self, files: AdapterFiles) -> str:
        """Return vLLM's name of an adapter, which it has read.

        Raises `BadRequest` for one that vLLM does not take, `ModelUnavailable` when its files are gone or changed, and
        what asking vLLM raises; the next who asks tries anew. Cancelled, the reading goes on for those who come later.
        """
        loading = self._loading.get(files.digest)
        if loading is None:
            loading = self._loading[files.digest] = asyncio.create_task(self._load(files))
            loading.add_done_callback(lambda done: self._loaded(files.digest, done))
        await asyncio.shield(loading)
        return name_of(files)

    def forget(self, files: AdapterFiles) -> None:
        """Have an adapter read again: the server that had read it may be another now."""
        self._loading.pop(files.digest, None)

    async def _load(self, files: AdapterFiles) -> None:
        await asyncio.to_thread(_check, files, self._base)
        name = name_of(files)
        body = orjson.dumps({"lora_name": name, "lora_path": str(files.directory)})
        status, said = await self._send(EngineCall(name, "load_lora_adapter", body))
        message = str(engine_error(said).get("message") or "")[:_MOST_TOLD]
        if status == 200 or "already been loaded" in message:  # by a gateway before this one
            return
        raise _unfit(files, message)

    def _loaded(self, digest: str, done: "asyncio.Task[None]") -> None:
        if done.cancelled() or done.exception() is not None:
            self._loading.pop(digest, None)


class Renamed:
    """An answer in which an adapter's name is that of the model, which the gateway knows to replace."""

    def __init__(self, answer: EngineAnswer, name: str, model: str) -> None:
        self.status = answer.status
        self.headers = Headers({key: value for key, value in answer.headers.items() if key != "content-length"})
        self._answer = answer
        self._from, self._to = orjson.dumps(name), orjson.dumps(model)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body; what may be the beginning of the name waits for what follows it."""
        rest = b""
        async for chunk in self._answer.chunks():
            whole = (rest + chunk).replace(self._from, self._to)
            cut = len(whole) - _begun(whole, self._from)
            rest = whole[cut:]
            if cut:
                yield whole[:cut]
        if rest:
            yield rest

    async def aclose(self) -> None:
        await self._answer.aclose()


def name_of(files: AdapterFiles) -> str:
    """What vLLM calls an adapter: the same bytes, the same name."""
    return f"adapter-{files.digest[:32]}"


def _begun(whole: bytes, name: bytes) -> int:
    """How many bytes at the end of `whole` could be the beginning of `name`."""
    return next((size for size in range(min(len(name) - 1, len(whole)), 0, -1) if whole.endswith(name[:size])), 0)


def _check(files: AdapterFiles, base: Path) -> None:
    """Raise for files that are not those that were added, and for an adapter that does not fit.

    vLLM 0.32 takes one of another width without a word, and answers with a part of it.
    """
    for name, digest in files.sha256.items():
        try:
            found = _sha256(files.directory / name)
        except OSError as error:
            raise _gone(files, f"{name} cannot be read", repr(error)) from None
        if found != digest:
            raise _gone(files, f"{name} was changed")
    spec = read_spec((files.directory / CONFIG).read_bytes())
    widths = modules_of(spec, shapes_in(files.directory / WEIGHTS))
    known = {name: shape for path in base.glob("*.safetensors") for name, shape in shapes_in(path).items()}
    for module, (width, out) in widths.items():
        if known.get(f"{module}.weight", (out, width)) != (out, width):
            raise _unfit(
                files, f"{module} is {list(known[f'{module}.weight'][::-1])} wide (in, out), not {[width, out]}"
            )
        if known and not any(name.startswith(f"{module}.") for name in known):
            raise _unfit(files, f"the model has no layer {module}")


def shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in a safetensors file, by name. Raises `BadRequest` for one that is damaged."""
    try:
        header, _ = header_of(path)
        return {name: tuple(said["shape"]) for name, said in header.items() if name != "__metadata__"}
    except (OSError, ValueError, AttributeError, KeyError, TypeError, MemoryError, OverflowError) as error:
        raise BadRequest(f"{path.name} cannot be read: {error!r}"[:200], param="model") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unfit(files: AdapterFiles, why: str) -> BadRequest:
    return BadRequest(f"the adapter {files.name} does not fit this model as vLLM serves it: {why}", param="model")


def _gone(files: AdapterFiles, what: str, detail: str = "") -> ModelUnavailable:
    return ModelUnavailable(
        f"the adapter {files.name} cannot be loaded: {what} since it was added; ask an operator to add it again",
        detail=detail,
    )
