"""Vectors in place of tokens, over HTTP: rows of the embedding table mean what their text means."""

import asyncio
import base64
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from terascope.core.errors import BadRequest
from terascope.engines.torch.embeds import VectorForm, read_vectors
from terascope.engines.torch.model import CausalModel
from terascope.engines.torch.prompts import Slots, joined

from .conftest import Client
from .sent import as_npy, as_safetensors, rows_of

CHAT, TEXT = "v1/chat/completions", "v1/completions"
SAID = "The quick brown fox jumps over the lazy dog and the population is 12345 numbers"
OPTIONS: dict[str, Any] = {"max_tokens": 12, "temperature": 0, "ignore_eos": True, "logprobs": 3}
FORM = VectorForm(4, torch.float32)
ZEROS = torch.zeros(3, 4)


@pytest.fixture
def tokens(tiny: CausalModel) -> list[int]:
    return tiny.vocabulary.encode(SAID, special=True)


@pytest.fixture
def sent(tiny: CausalModel, tokens: list[int]) -> str:
    """The text as the rows of the embedding table."""
    return as_npy(rows_of(tiny, tokens))


def _logprobs(answer: Any) -> list[float]:
    return [float(one) for one in answer["choices"][0]["logprobs"]["token_logprobs"]]


def _same(answer: Any, expected: Any) -> None:
    assert answer["choices"][0]["text"] == expected["choices"][0]["text"]
    assert answer["choices"][0]["logprobs"]["tokens"] == expected["choices"][0]["logprobs"]["tokens"]
    assert _logprobs(answer) == pytest.approx(_logprobs(expected), abs=1e-4)
    used = {key: value for key, value in answer["usage"].items() if key != "prompt_tokens_details"}
    assert used.items() <= expected["usage"].items()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 1.3, "seed": 7, "top_p": 0.9},
        {"logit_bias": {"300": 5}, "frequency_penalty": 1.5, "presence_penalty": 0.5},
        {"temperature": 0.8, "seed": 1, "min_p": 0.05, "n": 2},
        {"structured_outputs": {"choice": ["yes", "no"]}, "ignore_eos": False},
        {"reproducible": True, "seed": 3, "temperature": 1},
        {"stop": ["e", "a"], "min_tokens": 4},
    ],
)
async def test_table_rows_are_the_text(client: Client, sent: str, options: dict[str, Any]) -> None:
    asked = OPTIONS | options
    _same(await client.ask(TEXT, prompt_embeds=sent, **asked), await client.ask(TEXT, prompt=SAID, **asked))


async def test_every_file_is_the_same_vectors(client: Client, tiny: CausalModel, tokens: list[int]) -> None:
    rows = rows_of(tiny, tokens)
    expected = await client.ask(TEXT, prompt=SAID, **OPTIONS)
    exact = [rows.double().numpy(), np.asfortranarray(rows.numpy()), rows.numpy().astype(">f4")]
    for text in (as_safetensors(rows), as_safetensors(rows.double()), *map(as_npy, exact)):
        _same(await client.ask(TEXT, prompt_embeds=text, **OPTIONS), expected)


async def test_halves_are_taken(client: Client, tiny: CausalModel, tokens: list[int]) -> None:
    rows = rows_of(tiny, tokens).bfloat16()
    expected = await client.ask(TEXT, prompt_embeds=as_safetensors(rows.float()), **OPTIONS)
    _same(await client.ask(TEXT, prompt_embeds=as_safetensors(rows), **OPTIONS), expected)


async def test_parts_in_their_order(client: Client, tiny: CausalModel, tokens: list[int]) -> None:
    for first, last in ((0, 3), (2, 9), (5, len(tokens))):
        middle = as_safetensors(rows_of(tiny, tokens[first:last]))
        parts = [
            {"type": "tokens", "tokens": tokens[:first]},
            {"type": "prompt_embeds", "prompt_embeds": middle},
            {"type": "tokens", "tokens": tokens[last:]},
        ]
        answer = await client.ask(
            TEXT, prompt_embeds=[one for one in parts if one != {"type": "tokens", "tokens": []}], **OPTIONS
        )
        _same(answer, await client.ask(TEXT, prompt=SAID, **OPTIONS))


async def test_several_prompts(client: Client, tiny: CausalModel, sent: str) -> None:
    other = [{"type": "text", "text": "names"}, {"type": "prompt_embeds", "prompt_embeds": sent}]
    both = await client.ask(TEXT, prompt_embeds=[[{"type": "text", "text": SAID}], other], **OPTIONS)
    alone = await client.ask(TEXT, prompt_embeds=other, **OPTIONS)
    plain = await client.ask(TEXT, prompt=SAID, **OPTIONS)
    assert [one["text"] for one in both["choices"]] == [plain["choices"][0]["text"], alone["choices"][0]["text"]]
    found = await client.ask(TEXT, prompt_embeds=[sent, sent], **OPTIONS)
    assert [one["text"] for one in found["choices"]] == [plain["choices"][0]["text"]] * 2


async def test_streams(client: Client, sent: str) -> None:
    events = await client.events(TEXT, prompt_embeds=sent, **OPTIONS)
    whole = await client.ask(TEXT, prompt=SAID, **OPTIONS)
    assert "".join(one["choices"][0]["text"] for one in events[:-1]) == whole["choices"][0]["text"]


async def test_a_repetition_penalty_knows_no_vectors(client: Client, sent: str) -> None:
    """They are no tokens: the first answer is that of a text without a penalty, wherever that repeats nothing."""
    plain = await client.ask(TEXT, prompt_embeds=sent, **OPTIONS)
    punished = await client.ask(TEXT, prompt_embeds=sent, repetition_penalty=2.0, **OPTIONS)
    assert punished["choices"][0]["logprobs"]["tokens"][0] == plain["choices"][0]["logprobs"]["tokens"][0]
    tokens = punished["choices"][0]["logprobs"]["tokens"]
    assert len(set(tokens)) > len(set(plain["choices"][0]["logprobs"]["tokens"])) or len(set(tokens)) == len(tokens)


async def test_echo_of_a_prompt_with_vectors(client: Client, tiny: CausalModel, tokens: list[int]) -> None:
    """Vectors have no text and no log-probability; the tokens after them have what they have after the text."""
    options: dict[str, Any] = {"max_tokens": 2, "temperature": 0, "echo": True, "logprobs": 2}
    parts = [
        {"type": "prompt_embeds", "prompt_embeds": as_npy(rows_of(tiny, tokens[:4]))},
        {"type": "tokens", "tokens": tokens[4:]},
    ]
    found = (await client.ask(TEXT, prompt_embeds=parts, **options))["choices"][0]
    plain = (await client.ask(TEXT, prompt=tokens, **options))["choices"][0]
    assert found["text"] == tiny.vocabulary.decode(tokens[4:]) + plain["text"][len(SAID) :]
    told, right = found["logprobs"], plain["logprobs"]
    assert told["tokens"] == [""] * 4 + right["tokens"][4:]
    assert told["token_logprobs"][:4] == told["top_logprobs"][:4] == [None] * 4
    assert told["token_logprobs"][4:] == pytest.approx(right["token_logprobs"][4:], abs=1e-4)
    assert told["text_offset"][:5] == [0] * 5


async def test_chats_take_parts(client: Client, tiny: CausalModel, tokens: list[int]) -> None:
    options: dict[str, Any] = {"max_tokens": 8, "temperature": 0, "logprobs": True}
    message = {"role": "user", "content": f"names {SAID} none"}
    plain = await client.ask(CHAT, messages=[{"role": "system", "content": "a"}, message], **options)
    parts = [
        {"type": "text", "text": "names "},
        {"type": "prompt_embeds", "prompt_embeds": as_safetensors(rows_of(tiny, tokens))},
        {"type": "text", "text": " none"},
    ]
    messages = [{"role": "system", "content": "a"}, {"role": "user", "content": parts}]
    found = await client.ask(CHAT, messages=messages, **options)
    assert found["choices"][0]["message"] == plain["choices"][0]["message"]
    told, right = (one["choices"][0]["logprobs"]["content"] for one in (found, plain))
    assert [one["logprob"] for one in told] == pytest.approx([one["logprob"] for one in right], abs=1e-4)
    assert found["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"]


async def test_a_template_that_loses_vectors_is_told(client: Client, sent: str) -> None:
    """This one writes every message twice when it is to shout."""
    part = {"type": "prompt_embeds", "prompt_embeds": sent}
    error = await client.refused(
        CHAT, messages=[{"role": "user", "content": [part]}], chat_template_kwargs={"shout": True}
    )
    assert (error["param"], "template" in error["message"]) == ("messages", True)


@given(st.lists(st.text(alphabet="0123456789 ab", max_size=50), min_size=1, max_size=5))
def test_no_text_means_a_place(texts: list[str]) -> None:
    slots = Slots()
    marks = [slots.mark(str(number)) for number in range(len(texts) - 1)]
    written = "".join(text + mark for text, mark in zip(texts, [*marks, ""], strict=True))
    assert slots.split(written) == list(zip(texts, [*map(str, range(len(marks))), ""], strict=True))
    if marks:
        with pytest.raises(BadRequest):
            slots.split(written + marks[0])


async def test_beside_others(client: Client, tiny: CausalModel, sent: str) -> None:
    others = [client.ask(TEXT, prompt=f"{number} names", **OPTIONS) for number in range(6)]
    found, *beside = await asyncio.gather(client.ask(TEXT, prompt_embeds=sent, **OPTIONS), *others)
    _same(found, await client.ask(TEXT, prompt=SAID, **OPTIONS))
    for number, one in enumerate(beside):
        _same(one, await client.ask(TEXT, prompt=f"{number} names", **OPTIONS))


async def test_receipts_and_usage_count_vectors(client: Client, sent: str, tokens: list[int]) -> None:
    status, answer, headers = await client.post(TEXT, {"model": "tiny", "prompt_embeds": sent, "max_tokens": 1})
    assert (status, answer["usage"]["prompt_tokens"]) == (200, len(tokens))
    assert f'"vectors":{len(tokens)}' in headers["x-terascope-applied"]


class _Poison:
    """Raises the alarm when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return (open, ("/nonexistent/poison",))


def _poisoned_npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([_Poison()], dtype=object), allow_pickle=True)
    return file.getvalue()


def _torch_saved() -> bytes:
    file = io.BytesIO()
    torch.save(ZEROS, file)
    return file.getvalue()


def _npy_claiming(shape: str, body: bytes = b"", descr: str = "'<f4'") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("%%%", "base64"),
        ("", "safetensors"),
        (_b64(pickle.dumps(_Poison())), "pickle"),
        (_b64(_poisoned_npy()), "float32"),
        (_b64(_torch_saved()), "archive"),
        (as_npy(torch.zeros(3, 5)), r"\[n, 4\]"),
        (as_npy(torch.zeros(4)), r"\[n, 4\]"),
        (as_npy(torch.zeros(1, 3, 4)), r"\[n, 4\]"),
        (as_npy(torch.zeros(0, 4)), "no vector"),
        (as_npy(np.zeros((3, 4), dtype=np.int64)), "float32"),
        (as_npy(np.zeros((3, 4), dtype=np.complex64)), "float32"),
        (as_npy(np.zeros(3, dtype=[("a", "f4")])), "float32"),
        (as_npy(np.full((3, 4), np.nan, dtype=np.float32)), "NaN"),
        (as_npy(np.full((3, 4), np.inf)), "infinite"),
        (as_npy(np.full((3, 4), 1e300)), "too large for float32"),
        (as_npy(torch.zeros(33, 4)), "context"),
        (as_npy(torch.zeros(33_000, 4)), "context"),
        (as_safetensors(ZEROS, ZEROS), "one array"),
        (as_safetensors(torch.zeros(3, 4, dtype=torch.int64)), "I64"),
        (_b64(_npy_claiming("(4611686018427387904, 4)")), "bytes"),
        (_b64(_npy_claiming("(3, 4)", b"\0" * 47)), "bytes"),
        (_b64(_npy_claiming("(-1, 4)", b"\0" * 16)), "bytes"),
        (_b64(_npy_claiming("(__import__('os').getpid(), 4)")), "npy"),
        (_b64(_npy_claiming("(1, 4)", b"\0" * 16, "'|O'")), "float32"),
        (_b64(b"\x93NUMPY\x09\x00"), "npy"),
        (_b64(b"\x93NUMPY\x01\x00\xff\xff{"), "npy"),
    ],
)
def test_bad_vectors_are_refused(text: str, words: str) -> None:
    with pytest.raises(BadRequest, match=words) as caught:
        read_vectors(text, FORM, 32, "prompt_embeds")
    assert caught.value.param == "prompt_embeds"


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00"]))
def test_no_bytes_do_harm(data: bytes, start: bytes) -> None:
    try:
        found = read_vectors(_b64(start + data), FORM, 32, "prompt_embeds")
    except BadRequest:
        return
    assert found.shape[1] == 4


def test_a_pickle_is_never_opened() -> None:
    with pytest.raises(BadRequest):
        read_vectors(_b64(pickle.dumps(_Poison())), FORM, 32, "x")
    with pytest.raises(FileNotFoundError):
        pickle.loads(pickle.dumps(_Poison()))  # noqa: S301 - that it would have been seen


async def test_impossible_prompts(client: Client, sent: str) -> None:
    part = {"type": "prompt_embeds", "prompt_embeds": sent}
    for body, param in (
        ({"prompt_embeds": sent, "prompt": "a"}, "prompt_embeds"),
        ({"prompt_embeds": [{"type": "image", "text": "a"}]}, "prompt_embeds"),
        ({"prompt_embeds": [{"type": "prompt_embeds", "text": "a"}]}, "prompt_embeds"),
        ({"prompt_embeds": [{"type": "tokens", "tokens": [10_000]}]}, "prompt_embeds"),
        ({"prompt_embeds": []}, "prompt"),
        ({"prompt_embeds": as_npy(torch.zeros(512, 64)), "max_tokens": 1}, "prompt"),
        ({}, "prompt"),
    ):
        assert (await client.refused(TEXT, **body))["param"] == param
    error = await client.refused(CHAT, messages=[{"role": "user", "content": [{"type": "prompt_embeds"}]}])
    assert error["param"] == "messages"
    error = await client.refused("tokenize", messages=[{"role": "user", "content": [part]}])
    assert error["code"] == "unsupported_feature"


async def test_the_largest_numbers_harm_nobody(client: Client, sent: str) -> None:
    huge = as_npy(np.full((3, 64), 3e38, dtype=np.float32))
    _, fine = await asyncio.gather(
        client.post(TEXT, {"model": "tiny", "prompt_embeds": huge}), client.ask(TEXT, prompt_embeds=sent, **OPTIONS)
    )
    _same(fine, await client.ask(TEXT, prompt=SAID, **OPTIONS))


def test_pieces_are_joined_in_order() -> None:
    found = joined([[1, 2], ZEROS, [], torch.ones(2, 4), [3]])
    assert list(found.tokens) == [1, 2, -1, -1, -1, -1, -1, 3]
    assert [(one.place, len(one.vectors)) for one in found.inserts] == [(2, 3), (5, 2)]
    assert found.vectors == 5


async def test_a_soft_prompt_stands_before_everything(client: Client, tiny: CausalModel, tokens: list[int]) -> None:
    """Before what the tokenizer adds, too, and before each of several prompts."""
    soft, rest = as_safetensors(rows_of(tiny, tokens[:6])), tokens[6:]
    plain = await client.ask(TEXT, prompt=tokens, **OPTIONS)
    _same(await client.ask(TEXT, prompt=rest, soft_prompt=soft, **OPTIONS), plain)
    sent = as_npy(rows_of(tiny, rest))
    _same(await client.ask(TEXT, prompt_embeds=sent, soft_prompt=soft, **OPTIONS), plain)
    both = await client.ask(TEXT, prompt=[rest, rest], soft_prompt=soft, **OPTIONS)
    assert [one["text"] for one in both["choices"]] == [plain["choices"][0]["text"]] * 2
    messages = [{"role": "user", "content": "a"}]
    bare = await client.ask(CHAT, messages=messages, max_tokens=1)
    more = await client.ask(CHAT, messages=messages, max_tokens=1, soft_prompt=soft)
    assert more["usage"]["prompt_tokens"] == bare["usage"]["prompt_tokens"] + 6


@pytest.mark.parametrize("activation", ["gelu", "relu", "silu", "tanh"])
async def test_vectors_go_through_a_projector(
    client: Client, tiny: CausalModel, tokens: list[int], activation: str
) -> None:
    """As through the same layers of torch, which know nothing of the engine."""
    torch.manual_seed(4)
    layers = torch.nn.Sequential(torch.nn.Linear(10, 32), torch.nn.Linear(32, 64, bias=False))
    between = {"gelu": torch.nn.GELU(), "relu": torch.nn.ReLU(), "silu": torch.nn.SiLU(), "tanh": torch.nn.Tanh()}
    whole = torch.nn.Sequential(layers[0], between[activation], layers[1])
    own = torch.randn(7, 10)
    with torch.no_grad():
        expected = whole(own)
    encoder = {"data": base64.b64encode(safetensors.torch.save(layers.state_dict())).decode(), "activation": activation}
    parts = [{"type": "prompt_embeds", "prompt_embeds": as_npy(own)}, {"type": "tokens", "tokens": tokens}]
    mapped = [{"type": "prompt_embeds", "prompt_embeds": as_npy(expected)}, *parts[1:]]
    right = await client.ask(TEXT, prompt_embeds=mapped, **OPTIONS)
    for _ in range(2):
        _same(await client.ask(TEXT, prompt_embeds=parts, encoder=encoder, **OPTIONS), right)
    messages = [{"role": "user", "content": [parts[0]]}]
    assert (await client.ask(CHAT, messages=messages, encoder=encoder, max_tokens=1))["usage"]["prompt_tokens"] > 7


async def test_impossible_projectors(client: Client, sent: str) -> None:
    narrow = base64.b64encode(safetensors.torch.save({"0.weight": torch.zeros(9, 64)})).decode()
    huge = base64.b64encode(safetensors.torch.save({"0.weight": torch.full((64, 64), 3e38)})).decode()
    for encoder, words in (
        ({"data": narrow}, "gives 9 numbers"),
        ({"data": narrow, "activation": "step"}, "activation"),
        ({"data": _b64(pickle.dumps(_Poison()))}, "safetensors"),
        ({"data": as_npy(ZEROS)}, "safetensors"),
        ("mine", "by name"),
        ({}, "encoder.data"),
    ):
        error = await client.refused(TEXT, prompt_embeds=sent, encoder=encoder)
        assert error["param"].startswith("encoder")
        assert words in error["message"]
    error = await client.refused(TEXT, prompt_embeds=sent, encoder={"data": huge})
    assert "too large" in error["message"]
