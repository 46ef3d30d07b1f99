"""Adapters on their way into vLLM, and names on their way out."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from safetensors.torch import save_file

from terascope.core.errors import BadRequest, ModelUnavailable
from terascope.engines.contract import EngineCall, Headers
from terascope.engines.vllm.adapters import Adapters, Renamed, name_of
from terascope.internals.lora import CONFIG, WEIGHTS

from .conftest import files_of

LAYER = "model.layers.0.self_attn.q_proj"


class Said:
    """An answer in pieces."""

    status = 200

    def __init__(self, pieces: list[bytes]) -> None:
        self.headers = Headers({"content-length": "1", "content-type": "text/event-stream"})
        self._pieces = pieces

    async def chunks(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece

    async def aclose(self) -> None:
        self._pieces = []


class Server:
    """Takes adapters as vLLM does, and counts them."""

    def __init__(self, status: int = 200, said: bytes = b"Success") -> None:
        self.calls: list[EngineCall] = []
        self._answer = status, said

    async def send(self, call: EngineCall) -> tuple[int, bytes]:
        self.calls.append(call)
        return self._answer


@given(some.lists(some.binary(max_size=5)), some.integers(1, 9))
def test_names_are_replaced_wherever_they_are_cut(noise: list[bytes], size: int) -> None:
    whole = b'{"model":"adapter-1"}'.join([b"", *noise, b'"adapter-'])
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    renamed = Renamed(Said(pieces), "adapter-1", "smol@1")

    async def read() -> bytes:
        return b"".join([chunk async for chunk in renamed.chunks()])

    assert asyncio.run(read()) == whole.replace(b'"adapter-1"', b'"smol@1"')
    assert renamed.headers == {"content-type": "text/event-stream"}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    save_file({f"{LAYER}.weight": torch.zeros(6, 8)}, tmp_path / "base" / "model.safetensors")
    return tmp_path / "base"


def adapter(directory: Path, layer: str = LAYER, width: int = 8) -> Path:
    directory.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    (directory / CONFIG).write_bytes(orjson.dumps(config))
    name = f"base_model.model.{layer}"
    tensors = {f"{name}.lora_A.weight": torch.zeros(2, width), f"{name}.lora_B.weight": torch.zeros(6, 2)}
    save_file(tensors, directory / WEIGHTS)
    return directory


async def test_it_is_read_once(base: Path, tmp_path: Path) -> None:
    server = Server()
    adapters, files = Adapters(server.send, base), files_of(adapter(tmp_path / "a"))
    names = await asyncio.gather(*(adapters.name_of(files) for _ in range(5)))
    assert set(names) == {name_of(files)}
    [call] = server.calls
    assert orjson.loads(call.body) == {"lora_name": name_of(files), "lora_path": str(tmp_path / "a")}
    adapters.forget(files)
    await adapters.name_of(files)
    assert len(server.calls) == 2


async def test_one_that_is_there_already_is_taken(base: Path, tmp_path: Path) -> None:
    server = Server(400, orjson.dumps({"error": {"message": "The lora adapter 'a' has already been loaded."}}))
    assert await Adapters(server.send, base).name_of(files_of(adapter(tmp_path / "a")))


@pytest.mark.parametrize(
    ("layer", "width", "words"), [(LAYER, 4, r"\[8, 6\] wide \(in, out\)"), ("model.other.q_proj", 8, "has no layer")]
)
async def test_one_of_another_model_never_reaches_vllm(
    base: Path, tmp_path: Path, layer: str, width: int, words: str
) -> None:
    server = Server()
    with pytest.raises(BadRequest, match=words):
        await Adapters(server.send, base).name_of(files_of(adapter(tmp_path / "a", layer, width)))
    assert server.calls == []


async def test_what_vllm_does_not_take_is_tried_anew(base: Path, tmp_path: Path) -> None:
    server = Server(500, orjson.dumps({"error": {"message": "LoRA rank 2 is greater than max_lora_rank 1."}}))
    adapters, files = Adapters(server.send, base), files_of(adapter(tmp_path / "a"))
    for _ in range(2):
        with pytest.raises(BadRequest, match="max_lora_rank 1"):
            await adapters.name_of(files)
    assert len(server.calls) == 2


async def test_files_that_changed_are_not_served(base: Path, tmp_path: Path) -> None:
    files = files_of(adapter(tmp_path / "a"))
    (tmp_path / "a" / WEIGHTS).write_bytes(b"x")
    with pytest.raises(ModelUnavailable, match="was changed"):
        await Adapters(Server().send, base).name_of(files)
