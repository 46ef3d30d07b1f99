"""Which tokens a line becomes, and which of them are learned: those that an answer would have."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from terascope.core.errors import BadRequest
from terascope.core.tuning import TuningMethod
from terascope.engines.torch.attachment import VECTOR
from terascope.engines.torch.tuning.base import Base
from terascope.engines.torch.tuning.examples import Example, ExampleReader
from terascope.engines.torch.tuning.lines import read_line

from .work import packed


def read(base: Base, line: dict[str, Any], before: int = 0, width: int = 0) -> Example:
    method = TuningMethod.PROJECTOR if width else TuningMethod.LORA
    return ExampleReader(base, before, width).read(read_line(json.dumps(line).encode(), method))


def shown(base: Base, example: Example, *, learned: bool) -> str:
    chosen = [token for token, one in zip(example.tokens, example.learned, strict=True) if one is learned]
    return base.vocabulary.decode(chosen)


def test_only_the_answer_of_a_conversation_is_learned(base: Base) -> None:
    line = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}]}
    example = read(base, line)
    assert shown(base, example, learned=False) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert shown(base, example, learned=True) == "Yes.<|im_end|>\n"


def test_the_prompt_has_the_tokens_that_a_request_has(base: Base) -> None:
    line = {"messages": [{"role": "user", "content": "naïve 123"}, {"role": "assistant", "content": "Yes."}]}
    example = read(base, line)
    asked = "<|im_start|>user\nnaïve 123<|im_end|>\n<|im_start|>assistant\n"
    tokens = base.vocabulary.encode(asked, special=False)
    assert list(example.tokens[: len(tokens)]) == tokens


def test_every_answer_without_the_weight_0_is_learned(base: Base) -> None:
    said = [("user", "a", None), ("assistant", "one", 0), ("user", "b", None), ("assistant", "two", 1)]
    messages = [{"role": role, "content": text, **({} if w is None else {"weight": w})} for role, text, w in said]
    example = read(base, {"messages": messages})
    assert shown(base, example, learned=True) == "two<|im_end|>\n"
    assert "one<|im_end|>" in shown(base, example, learned=False)


def test_a_completion_ends(base: Base) -> None:
    example = read(base, {"prompt": "The quick", "completion": " fox"})
    assert shown(base, example, learned=False) == "The quick"
    assert shown(base, example, learned=True) == " fox<|im_end|>"
    assert base.end == base.vocabulary.encode("<|im_end|>", special=False)[0]


def test_without_anything_before_it_the_first_token_is_not_learned(base: Base) -> None:
    assert next(iter(read(base, {"prompt": "", "completion": "abc"}).learned)) is False
    assert all(read(base, {"prompt": "", "completion": "abc"}, before=2).learned)


def test_vectors_stand_where_they_are_written(base: Base) -> None:
    vectors = np.arange(6).reshape(2, 3)
    parts = [{"type": "text", "text": "ab"}, {"type": "prompt_embeds", "prompt_embeds": packed(vectors)}]
    example = read(base, {"prompt_embeds": parts, "completion": "c"}, width=3)
    before = base.vocabulary.encode("ab", special=True)
    assert list(example.tokens[: len(before) + 2]) == [*before, VECTOR, VECTOR]
    assert example.vectors is not None
    assert torch.equal(example.vectors, torch.tensor(vectors).float())


def test_vectors_stand_in_messages_too(base: Base) -> None:
    first, second = packed([[1.0, 2.0]]), packed([[3.0, 4.0], [5.0, 6.0]])
    content = [{"type": "text", "text": "x"}, {"type": "prompt_embeds", "prompt_embeds": first}]
    messages = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": [{"type": "prompt_embeds", "prompt_embeds": second}]},
        {"role": "assistant", "content": "two"},
    ]
    example = read(base, {"messages": messages}, width=2)
    assert example.vectors is not None
    assert example.vectors.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert list(example.tokens).count(VECTOR) == 3
    assert shown(base, example, learned=True) == "one<|im_end|>\ntwo<|im_end|>\n"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"prompt": "a", "completion": "b " * 600}, "nothing is cut"),
        ({"prompt": "", "completion": "b"}, None),
        ({"messages": [{"role": "critic", "content": "a"}, {"role": "assistant", "content": "b"}]}, "no critics"),
    ],
)
def test_what_cannot_be_learned_is_refused(base: Base, line: dict[str, Any], words: str | None) -> None:
    if words is None:
        assert read(base, line)
        return
    with pytest.raises(BadRequest, match=words):
        read(base, line)


def test_other_widths_are_refused(base: Base) -> None:
    with pytest.raises(BadRequest, match=r"takes \[n, 3\]"):
        read(base, {"prompt_embeds": packed([[1.0, 2.0]]), "completion": "c"}, width=3)
