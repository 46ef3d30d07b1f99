"""What a line of a training file may be, and what is said of one that may not."""

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.core.errors import BadRequest
from terascope.core.tuning import TuningMethod
from terascope.engines.torch.tuning import lines
from terascope.engines.torch.tuning.lines import at_line, raw_lines, read_line, vectors_of
from terascope.protocol.fine_tuning import ChatLine, CompletionLine

LORA, PROJECTOR = TuningMethod.LORA, TuningMethod.PROJECTOR
CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


def test_both_forms_are_read() -> None:
    assert isinstance(read_line(json.dumps(CHAT).encode(), LORA), ChatLine)
    assert isinstance(read_line(b'{"prompt": "a", "completion": "b"}', LORA), CompletionLine)
    mixed = {"prompt_embeds": [{"type": "text", "text": "a"}, {"type": "prompt_embeds", "prompt_embeds": "v"}]}
    found = read_line(json.dumps({**mixed, "completion": "b"}).encode(), PROJECTOR)
    assert vectors_of(found) == ["v"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"{", "not JSON"),
        (b'{"prompt": "\xff", "completion": "b"}', "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"text": "a"}', "must be"),
        (b'{"messages": [], "completion": "b"}', "must be"),
        (b'{"messages": []}', "messages"),
        (b'{"messages": [{"role": "user", "content": "a"}]}', "nothing to learn"),
        (b'{"messages": [{"role": "assistant", "content": "a", "weight": 0}]}', "nothing to learn"),
        (b'{"messages": [{"role": "assistant", "content": "a", "weight": 2}]}', "weight"),
        (b'{"prompt": "a", "completion": ""}', "completion"),
        (b'{"prompt": 1, "completion": "b"}', "prompt"),
        (b'{"completion": "b"}', "give `prompt` or `prompt_embeds`"),
        (b'{"prompt": "a", "prompt_embeds": "v", "completion": "b"}', "not both"),
        (b'{"prompt_embeds": "v", "completion": "b"}', "only a projector"),
    ],
)
def test_what_is_wrong_is_said(text: bytes, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        read_line(text, LORA)


def test_a_projector_needs_vectors() -> None:
    with pytest.raises(BadRequest, match="no vectors"):
        read_line(json.dumps(CHAT).encode(), PROJECTOR)


@given(st.lists(st.binary(max_size=20).filter(lambda one: b"\n" not in one)), st.booleans())
def test_lines_are_found_where_they_are(parts: list[bytes], ended: bool) -> None:
    whole = b"\n".join(parts) + (b"\n" if ended else b"")
    found = list(raw_lines(io.BytesIO(whole)))
    assert [whole[one.start : one.start + len(one.text)] for one in found] == [one.text for one in found]
    wanted = [(number, part) for number, part in enumerate(whole.split(b"\n"), 1) if part.strip()]
    assert [(one.number, one.text.removesuffix(b"\n")) for one in found] == wanted


def test_a_line_without_end_is_not_read_into_memory() -> None:
    class Endless(io.RawIOBase):
        asked = 0

        def readline(self, size: int | None = -1) -> bytes:
            assert size
            self.asked = size
            return b"a" * size

    with pytest.raises(BadRequest, match="line 1: it has more than"):
        list(raw_lines(Endless()))  # type: ignore[arg-type]
    assert lines.MOST_LINE + 1 == 67_108_865


def test_the_error_of_a_line_names_it() -> None:
    found: Any = at_line(17, BadRequest("no"), "validation_file")
    assert (found.message, found.param) == ("validation_file, line 17: no", "validation_file")
