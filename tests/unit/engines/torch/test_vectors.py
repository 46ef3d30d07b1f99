"""Vectors of any layer, of encoders and decoders, against plain transformers."""

import asyncio
import base64
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModel, LlamaForCausalLM

from terascope.engines.torch.attachment import Part
from terascope.engines.torch.encoder import Encoder, load_encoder
from terascope.engines.torch.gathering import Gatherer
from terascope.engines.torch.model import CausalModel
from terascope.engines.torch.pooling import EACH, POOLINGS, WIRE, Ask
from terascope.engines.torch.settings import WorkerSettings
from terascope.engines.torch.text_attention import Texts
from terascope.engines.torch.windows import Around, Truncate, Windows, cut, divide
from terascope.protocol.openai import EmbeddingList

from .conftest import Client
from .driver import Driver, plan

PATH = "v1/embeddings"
TEXTS = ["The quick brown fox", "a", "emoji and 12345 numbers " * 12, "names: none"]
WORDS = ["the cat", "the dogs", "a", "the cat the dog the cats the dogs " * 3]
POOLED: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda s: s.mean(0),
    "cls": lambda s: s[0],
    "last": lambda s: s[-1],
    "max": lambda s: s.amax(0),
    "weighted": lambda s: (s * torch.arange(1, len(s) + 1)[:, None]).sum(0) / sum(range(len(s) + 1)),
    "none": lambda s: s,
}


class Plain:
    """A model as transformers itself runs it."""

    def __init__(self, model: Any, tokens: Callable[[str], list[int]]) -> None:
        self.model, self.tokens = model.eval(), tokens

    def states(self, tokens: list[int], layer: int = -1) -> Tensor:
        with torch.inference_mode():
            output = self.model(input_ids=torch.tensor([tokens]), output_hidden_states=True)
        found: Tensor = output.hidden_states[layer][0]
        return found


@pytest.fixture(scope="module")
def encoder(encoder_dir: Path) -> Encoder:
    return load_encoder(WorkerSettings(encoder_dir, "tiny"), lambda _: None)


@pytest.fixture(scope="module", params=["decoder", "encoder"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(kind: str, tiny: CausalModel, encoder: Encoder) -> CausalModel | Encoder:
    return tiny if kind == "decoder" else encoder


@pytest.fixture
def texts(kind: str) -> list[str]:
    return TEXTS if kind == "decoder" else WORDS


@pytest.fixture
def plain(kind: str, model: CausalModel | Encoder, tiny_dir: Path, encoder_dir: Path) -> Plain:
    found = LlamaForCausalLM.from_pretrained(tiny_dir) if kind == "decoder" else AutoModel.from_pretrained(encoder_dir)
    return Plain(found, lambda text: model.vocabulary.encode(text, special=True))


@pytest.fixture
async def client(model: CausalModel | Encoder, start: Callable[..., Any]) -> Client:
    found: Client = await start(model)
    return found


@pytest.mark.parametrize("pooling", list(POOLED))
@pytest.mark.parametrize("layer", [None, 0, 1, 2, -2])
async def test_every_pooling_of_every_layer(
    client: Client, plain: Plain, texts: list[str], pooling: str, layer: int | None
) -> None:
    options = {} if layer is None else {"layer": layer}
    answer = await client.ask(PATH, input=texts, pooling=pooling, normalize=False, **options)
    found = EmbeddingList.model_validate(answer)
    for text, one in zip(texts, found.data, strict=True):
        expected = POOLED[pooling](plain.states(plain.tokens(text), -1 if layer is None else layer))
        torch.testing.assert_close(torch.tensor(one.embedding), expected, atol=1e-4, rtol=1e-4)
    assert found.usage.prompt_tokens == sum(len(plain.tokens(text)) for text in texts)


async def test_defaults(client: Client, plain: Plain, kind: str, texts: list[str]) -> None:
    """A decoder's is its last token's, as it is for vLLM; what was done is said."""
    status, answer, headers = await client.post(PATH, {"model": "tiny", "input": texts})
    pooling = "last" if kind == "decoder" else "mean"
    assert status == 200
    for text, one in zip(texts, answer["data"], strict=True):
        expected = torch.nn.functional.normalize(POOLED[pooling](plain.states(plain.tokens(text))), dim=-1)
        torch.testing.assert_close(torch.tensor(one["embedding"]), expected, atol=1e-5, rtol=0)
        assert one.keys() == {"object", "index", "embedding"}
    assert f'"layer":"last","pooling":"{pooling}","normalize":true,"truncate":"error"' in headers["x-terascope-applied"]


async def test_a_vector_for_each_token_in_base64(client: Client) -> None:
    floats = (await client.ask(PATH, input="a cat", pooling="none"))["data"][0]
    packed = (await client.ask(PATH, input="a cat", pooling="none", encoding_format="base64"))["data"][0]
    numbers = np.frombuffer(base64.b64decode(packed["embedding"]), "<f4").reshape(packed["shape"])
    assert numbers.tolist() == floats["embedding"]


async def test_dimensions_say_how_they_were_made(client: Client) -> None:
    status, answer, headers = await client.post(PATH, {"model": "tiny", "input": "a", "dimensions": 8})
    assert (status, len(answer["data"][0]["embedding"])) == (200, 8)
    assert '"dimensions":8,"dimensions_by":"truncation"' in headers["x-terascope-applied"]
    whole = (await client.ask(PATH, input="a", normalize=False))["data"][0]["embedding"]
    bare = (await client.ask(PATH, input="a", normalize=False, dimensions=8))["data"][0]["embedding"]
    assert bare == pytest.approx(whole[:8], abs=1e-6)


async def test_matryoshka_is_said_where_the_model_was_trained_for_it(
    encoder_dir: Path, tmp_path: Path, start: Callable[..., Any]
) -> None:
    model = AutoModel.from_pretrained(encoder_dir)
    model.config.matryoshka_dimensions = [8, 16]
    model.save_pretrained(tmp_path / "model")
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "model" / name).write_bytes((encoder_dir / name).read_bytes())
    client: Client = await start(load_encoder(WorkerSettings(tmp_path / "model", "tiny"), lambda _: None))
    for dimensions, by in ((8, "matryoshka"), (9, "truncation")):
        _, _, headers = await client.post(PATH, {"model": "tiny", "input": "a", "dimensions": dimensions})
        assert f'"dimensions_by":"{by}"' in headers["x-terascope-applied"]


@pytest.mark.parametrize("side", ["start", "end"])
async def test_what_is_too_long_is_cut_only_when_told(
    client: Client, model: CausalModel | Encoder, plain: Plain, side: str
) -> None:
    text = "the cat a dog " * (80 if model.context_length == 512 else 12)
    tokens, most = plain.tokens(text), model.context_length
    around = Around.of(model.vocabulary)
    assert len(tokens) > most
    error = await client.refused(PATH, input=["a", text])
    assert error["code"] == "context_length_exceeded"
    found = await client.ask(PATH, input=text, truncate=side, pooling="none", normalize=False)
    own, room = around.inside(tokens), most - around.count
    kept = [*around.before, *(own[:room] if side == "end" else own[-room:]), *around.after]
    torch.testing.assert_close(torch.tensor(found["data"][0]["embedding"]), plain.states(kept), atol=1e-4, rtol=1e-4)
    assert found["usage"]["prompt_tokens"] == most


async def test_windows(client: Client, model: CausalModel | Encoder, plain: Plain) -> None:
    text, size, overlap = "the cat a dog " * 20, 20, 5
    around = Around.of(model.vocabulary)
    own = list(around.inside(plain.tokens(text)))
    pieces = list(divide(own, around, Windows(size, overlap)))
    states = [plain.states(list(piece.tokens)) for piece in pieces]
    windows: dict[str, Any] = {"size": size, "overlap": overlap}
    asked: dict[str, Any] = {"input": ["a", text], "pooling": "mean", "normalize": False}

    each = (await client.ask(PATH, **asked, windows=windows | {"combine": "none"}))["data"][1]
    torch.testing.assert_close(
        torch.tensor(each["embedding"]), torch.stack([one.mean(0) for one in states]), atol=1e-5, rtol=1e-4
    )
    assert each["windows"] == [[piece.start, piece.end] for piece in pieces]

    joint = (await client.ask(PATH, **asked, windows=windows))["data"][1]["embedding"]
    torch.testing.assert_close(torch.tensor(joint), torch.cat(states).mean(0), atol=1e-5, rtol=1e-4)

    tokens = (await client.ask(PATH, **asked | {"pooling": "none"}, windows=windows))["data"][1]["embedding"]
    assert len(tokens) == len(own) + around.count


@given(
    tokens=st.lists(st.integers(0, 9), min_size=1, max_size=60),
    around=st.builds(Around, st.tuples(), st.tuples(st.just(1)) | st.tuples()) | st.just(Around((101,), (102,))),
    size=st.integers(4, 20),
    overlap=st.integers(0, 9),
)
def test_windows_have_every_token_once(tokens: list[int], around: Around, size: int, overlap: int) -> None:
    overlap = min(overlap, (size - around.count) // 2)
    pieces = list(divide(tokens, around, Windows(size, overlap)))
    kept = [token for one in pieces for token in one.tokens[one.front : len(one.tokens) - one.back]]
    assert kept == [*around.before, *tokens, *around.after]
    assert all(len(one.tokens) <= size for one in pieces)
    assert all(b.start == a.end - overlap for a, b in itertools.pairwise(pieces))
    assert all(one.tokens == [*around.before, *tokens[one.start : one.end], *around.after] for one in pieces)
    for side in (Truncate.START, Truncate.END):
        short = cut(tokens, around, size, side)
        assert len(short.tokens) == min(size, len(tokens) + around.count)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.sampled_from(sorted({*POOLINGS, EACH})), st.data())
def test_states_in_parts_pool_as_whole_ones(lengths: list[int], pooling: str, data: st.DataObject) -> None:
    """Also when the row is computed again from anywhere."""
    states = torch.randn(sum(lengths), 4, generator=torch.Generator().manual_seed(sum(lengths)))

    class Given(torch.nn.Module):
        base_model: Any
        now: Tensor

        def forward(self) -> tuple[Tensor]:
            return (self.now[None],)

    module = Given()
    object.__setattr__(module, "base_model", module)
    gatherer = Gatherer(None, Ask(pooling))  # type: ignore[arg-type]  # needed for other layers only
    at = 0
    for length in lengths:
        start_at = data.draw(st.integers(0, at))
        module.now = torch.cat([torch.full((2, 4), torch.nan), states[start_at : at + length]])
        with gatherer.attach(module, Part(2, 2 + at + length - start_at, start_at)):
            module()
        at += length
    whole = states if pooling == EACH else POOLINGS[pooling](states, Texts([at], states.device))[0]
    torch.testing.assert_close(gatherer.vector(), whole, atol=1e-5, rtol=1e-5)


@settings(max_examples=15, deadline=None)
@given(
    rows=st.lists(st.integers(1, 90), min_size=1, max_size=6),
    asks=st.lists(st.tuples(st.sampled_from(sorted(WIRE)), st.sampled_from([None, 0, 1])), min_size=6, max_size=6),
    cache=st.sampled_from([128, 4000]),
)
def test_vectors_beside_answers(
    tiny: CausalModel, rows: list[int], asks: list[tuple[str, int | None]], cache: int
) -> None:
    """In steps with rows that answer, in parts, and computed again after their memory was needed."""
    driver = Driver(tiny, cache_tokens=cache, step_tokens=48)
    told = plan([5, 9, 3, 8] * 5, 30)
    expected = Driver(tiny).alone(told).tokens()
    answer = driver.ask(told)
    tokens = [[(n * 31 + i * 7) % 300 for i in range(length)] for n, length in enumerate(rows)]
    gatherers = [Gatherer(tiny.packed, Ask(WIRE[pooling], layer)) for pooling, layer in asks]
    taps = tiny.packed.taps
    for row, one in zip(tokens, gatherers, strict=False):
        driver.ask(plan(row, 0, attachments=[one]))
    driver.finish()
    assert answer.tokens() == expected
    for row, one, (pooling, layer) in zip(tokens, gatherers, asks, strict=False):
        with torch.inference_mode():
            module = tiny.packed.module
            alone = Gatherer(tiny.packed, Ask(WIRE[pooling], layer))
        other = Driver(tiny)
        other.alone(plan(row, 0, attachments=[alone]))
        torch.testing.assert_close(one.vector(), alone.vector(), atol=1e-4, rtol=1e-4)
        assert module is tiny.packed.module
    assert taps is tiny.packed.taps


async def test_a_stream_of_many_inputs(client: Client) -> None:
    many = [f"{'the ' * (i % 5)}cat" for i in range(5000)]
    events = await client.events(PATH, input=many, dimensions=4)
    assert events.pop() == "[DONE]"
    data = [one for event in events for one in event["data"]]
    assert [one["index"] for one in data] == list(range(5000))
    assert len(events) > 10
    counts = [event["usage"]["total_tokens"] for event in events]
    assert counts == sorted(counts)
    some = (await client.ask(PATH, input=many[:10], dimensions=4))["data"]
    for one, right in zip(data, some, strict=False):
        assert one["embedding"] == pytest.approx(right["embedding"], abs=1e-5)


async def test_a_stream_that_fails_ends_in_an_error(client: Client) -> None:
    events = await client.events(PATH, input=["a"] * 300 + ["the " * 600])
    assert (events[-1]["error"]["code"], len(events[0]["data"])) == ("context_length_exceeded", 256)
    error = await client.refused(PATH, input=["a", "the " * 600], stream=True)
    assert error["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"layer": 3}, "layer"),
        ({"layer": -4}, "layer"),
        ({"layer": "last"}, "layer"),
        ({"pooling": "median"}, "pooling"),
        ({"truncate": True}, "truncate"),
        ({"windows": {"size": 10_000}}, "windows.size"),
        ({"windows": {"size": 20, "overlap": 11}}, "windows.overlap"),
        ({"windows": {"size": 4, "overlap": 3}}, "windows.overlap"),
        ({"windows": {"size": 0}}, "windows.size"),
        ({"windows": {}, "truncate": "end"}, "truncate"),
        ({"windows": 7}, "windows"),
        ({"input": ["x"] * 2049}, "input"),
        ({"input": ["x"] * 100_001, "stream": True}, "input"),
        ({"input": ["x", ""], "stream": True}, "input"),
    ],
)
async def test_what_cannot_be(client: Client, options: dict[str, Any], param: str) -> None:
    assert (await client.refused(PATH, **{"input": "a"} | options))["param"] == param


async def test_mixed_asks_share_batches(client: Client, plain: Plain, texts: list[str]) -> None:
    asks = [{"pooling": pooling, "layer": layer} for pooling in POOLED for layer in (0, 1, 2)]
    answers = await asyncio.gather(*(client.ask(PATH, input=texts, normalize=False, **ask) for ask in asks))
    for ask, answer in zip(asks, answers, strict=True):
        for text, one in zip(texts, answer["data"], strict=True):
            expected = POOLED[str(ask["pooling"])](plain.states(plain.tokens(text), int(ask["layer"])))
            torch.testing.assert_close(torch.tensor(one["embedding"]), expected, atol=1e-4, rtol=1e-4)


async def test_a_decoder_with_a_number_that_is_none(broken_tiny: CausalModel, start: Callable[..., Any]) -> None:
    client: Client = await start(broken_tiny)
    fine, bad = await asyncio.gather(
        client.ask(PATH, input=[[5, 6]] * 10), client.post(PATH, {"model": "tiny", "input": [[5], [300, 7]]})
    )
    assert all(np.isfinite(one["embedding"]).all() for one in fine["data"])
    assert (bad[0], bad[1]["error"]["code"]) == (500, "engine_nan")
