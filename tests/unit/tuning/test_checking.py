"""The first look at a file: every line, however the bytes come; what it may come to at most."""

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.core.errors import BadRequest
from terascope.core.prices import Price
from terascope.core.tuning import DEFAULTS, Hyperparameters, TuningMethod
from terascope.tuning.checking import LineCheck, Size, checked_copy
from terascope.tuning.pricing import cost, most_tokens, weighed

LORA = TuningMethod.LORA
GOOD = json.dumps({"prompt": "a" * 40, "completion": "b"}).encode()


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@given(st.lists(st.sampled_from([GOOD, b"", b"  "]), max_size=6), st.integers(1, 50), st.booleans())
def test_it_is_the_same_however_the_bytes_come(lines: list[bytes], size: int, ended: bool) -> None:
    whole = b"\n".join(lines) + (b"\n" if ended else b"")
    check = LineCheck("training_file", LORA, 10_000)
    for start in range(0, len(whole), size):
        check.feed(whole[start : start + size])
    good = lines.count(GOOD)
    if not good:
        with pytest.raises(BadRequest, match="has no lines"):
            check.end()
        return
    found = check.end()
    assert (found.lines, found.tokens, found.longest) == (good, good * found.longest, len(GOOD) + 64)


async def test_one_bad_line_in_very_many_is_named(tmp_path: Path) -> None:
    many = (GOOD + b"\n") * 20_000
    check = LineCheck("training_file", LORA, 10_000)
    with pytest.raises(BadRequest, match=r"training_file, line 20001: it must be") as found:
        await checked_copy(pieces(many, b'{"prompt": tru', b"e}\n", many), tmp_path / "copy", check)
    assert found.value.param == "training_file"


async def test_the_copy_is_the_file(tmp_path: Path) -> None:
    size = await checked_copy(pieces(GOOD[:9], GOOD[9:] + b"\n", GOOD), tmp_path / "copy", LineCheck("x", LORA, 0))
    assert (tmp_path / "copy").read_bytes() == GOOD + b"\n" + GOOD
    assert size.lines == 2


async def test_where_it_cannot_be_kept(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="could not be kept") as found:
        await checked_copy(pieces(GOOD), tmp_path / "none" / "copy", LineCheck("x", LORA, 0))
    assert getattr(found.value, "code", "") == "storage_full"


def test_what_users_write_is_not_repeated() -> None:
    secret = {"messages": [{"role": "user", "content": "the secret word"}, {"role": 5, "content": "the secret word"}]}
    with pytest.raises(BadRequest) as found:
        LineCheck("training_file", LORA, 0).feed(json.dumps(secret).encode() + b"\n")
    assert "secret" not in found.value.message


def test_vectors_count_as_one_token_each() -> None:
    header = json.dumps({"v": {"dtype": "F32", "shape": [3, 500], "data_offsets": [0, 6000]}}).encode()

    packed = base64.b64encode(len(header).to_bytes(8, "little") + header + bytes(6000)).decode()
    line: dict[str, Any] = {"prompt_embeds": packed, "completion": "b"}
    check = LineCheck("x", TuningMethod.PROJECTOR, 0)
    check.feed(json.dumps(line).encode() + b"\n")
    assert check.size.tokens == len(json.dumps(line)) - len(packed) + 3 + 64


def test_a_line_is_at_most_as_long_as_the_context() -> None:
    check = LineCheck("x", LORA, 50)
    check.feed(GOOD + b"\n" + GOOD + b"\n")
    assert check.end() == Size(2, 100, 50)


def test_a_trained_token_costs_three_of_a_prompt() -> None:
    assert weighed(100, 10) == 310
    assert cost(Price(7, 28), 100, 10) == 7 * 310


@pytest.mark.parametrize(
    ("settings", "sizes", "wanted"),
    [
        # 2 epochs of all; measured before, in the middle and at the end, one line and a bit of 10
        ({"n_epochs": 2}, [Size(10, 1000, 100)], 3 * 2000 + 4 * 200),
        ({"n_epochs": 2, "held_out_share": 0.0}, [Size(10, 1000, 100), Size(2, 50, 30)], 3 * 2000 + 4 * 50),
        ({"n_epochs": 9, "max_steps": 1}, [Size(10, 1000, 100)], 3 * 800 + 11 * 200),
        ({"n_epochs": 1, "eval_every": 1}, [Size(16, 160, 10)], 3 * 160 + 4 * 30),
    ],
)
def test_the_most_that_a_job_can_come_to(settings: dict[str, Any], sizes: list[Size], wanted: int) -> None:
    assert most_tokens(Hyperparameters(**settings), LORA, sizes) == wanted


def test_the_vectors_of_a_soft_prompt_are_computed_with_every_line() -> None:
    settings = DEFAULTS[TuningMethod.SOFT_PROMPT]
    alone = most_tokens(settings, TuningMethod.LORA, [Size(10, 1000, 100)])
    both = most_tokens(settings, TuningMethod.SOFT_PROMPT, [Size(10, 1000, 100)])
    assert both > alone + 3 * settings.n_epochs * settings.vectors * 10
