from hypothesis import given
from hypothesis import strategies as st

from terascope.engines.worker.text import TextStream, TokenTable, beginning_at_end

STOPS = st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3)


def _cut(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _run(pieces: list[bytes], stops: tuple[str, ...] = ()) -> tuple[list[str], list[int]]:
    stream: TextStream[int] = TextStream(stops)
    texts, marks = [], []
    for number, piece in enumerate(pieces):
        stream.push(piece, number)
        if stream.stopped:
            break
        text, found = stream.take()
        texts.append(text)
        marks += found
    text, found = stream.finish()
    return [*texts, text], marks + found


@given(st.binary(max_size=30), st.lists(st.integers(0, 30)))
def test_cuts_change_nothing_and_break_no_character(data: bytes, cuts: list[int]) -> None:
    texts, marks = _run(_cut(data, cuts))
    assert "".join(texts) == data.decode(errors="replace")
    assert marks == list(range(len(_cut(data, cuts))))


@given(st.text(), st.lists(st.integers(0, 30)))
def test_whole_characters_never_turn_into_replacements(text: str, cuts: list[int]) -> None:
    text = text.encode(errors="replace").decode().replace("\ufffd", "")
    texts, _ = _run(_cut(text.encode(), cuts))
    assert "\ufffd" not in "".join(texts)
    assert "".join(texts) == text


@given(st.text("abc\n", max_size=20), st.lists(st.integers(0, 20)), STOPS)
def test_text_ends_before_the_first_stop_string(text: str, cuts: list[int], stops: list[str]) -> None:
    texts, _ = _run(_cut(text.encode(), cuts), tuple(stops))
    shown = "".join(texts)
    assert not any(stop in shown for stop in stops)
    assert text.startswith(shown)
    rest = text[len(shown) :]
    assert not rest or any(rest.startswith(stop) for stop in stops)


def test_what_may_become_a_stop_string_is_held_back() -> None:
    stream: TextStream[None] = TextStream(("###END",))
    stream.push(b"Hello #", None)
    assert stream.take() == ("Hello ", [None])
    stream.push(b"##", None)
    assert stream.take()[0] == ""
    stream.push(b"X", None)
    assert stream.take()[0] == "###X"
    assert not stream.stopped


def test_marks_come_with_the_text_their_token_begins() -> None:
    smile = "😀".encode()
    stream: TextStream[str] = TextStream(("!!",))
    stream.push(b"a", "a")
    assert stream.take() == ("a", ["a"])
    stream.push(smile[:2], "first half")
    assert stream.take() == ("", [])
    stream.push(smile[2:] + b"!", "second half")
    assert stream.take() == ("😀", ["first half", "second half"])
    stream.push(b"!b", "stop")
    assert stream.stopped
    assert stream.finish() == ("", [])


def test_a_stop_string_may_be_allowed_only_later() -> None:
    stream: TextStream[None] = TextStream(("b",))
    stream.push(b"abc", None, may_stop=False)
    assert stream.take()[0] == "abc"
    stream.push(b"ab", None)
    assert stream.stopped
    assert stream.finish()[0] == "a"


def test_a_character_that_never_became_whole_is_told_as_such() -> None:
    assert _run([b"a", "é".encode()[:1]]) == (["a", "", "\ufffd"], [0, 1])


def test_beginning_at_end() -> None:
    assert beginning_at_end("xx<tool", "<tool_call>") == 5
    assert beginning_at_end("aaa", "aaa") == 2
    assert beginning_at_end("abc", "x") == 0


def test_names_of_tokens() -> None:
    table = TokenTable([b"a", "é".encode()[:1], b"<end>"], special=[2])
    assert len(table) == 3
    assert [table.name(i) for i in range(4)] == ["a", "bytes:\\xc3", "<end>", ""]
    assert [table.text_bytes(i) for i in range(4)] == [b"a", b"\xc3", b"", b""]
