"""Frames: what is written is read, and what is none is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.fleet.tunnel.frames import (
    Frame,
    Hello,
    Kind,
    Malformed,
    Welcome,
    ack,
    acked,
    credit,
    credited,
    frames,
    only,
)

some_frames = st.builds(
    Frame, st.sampled_from(Kind), st.integers(min_value=0, max_value=2**32 - 1), st.binary(max_size=100)
)


@given(st.lists(some_frames, max_size=8))
def test_what_is_written_is_read(sent: list[Frame]) -> None:
    assert list(frames(b"".join(one.encoded() for one in sent))) == sent


@given(st.lists(some_frames, min_size=1, max_size=4), st.data())
def test_a_message_that_is_cut_off_is_malformed_or_shorter(sent: list[Frame], data: st.DataObject) -> None:
    message = b"".join(one.encoded() for one in sent)
    cut = message[: data.draw(st.integers(min_value=0, max_value=len(message) - 1))]
    try:
        assert list(frames(cut)) == sent[: len(list(frames(cut)))]
    except Malformed:
        ends = [len(b"".join(one.encoded() for one in sent[:count])) for count in range(len(sent))]
        assert len(cut) not in ends


@given(st.binary(max_size=60))
def test_any_bytes_are_frames_or_malformed(message: bytes) -> None:
    try:
        read = list(frames(message))
    except Malformed:
        return
    assert b"".join(one.encoded() for one in read) == message


def test_greetings() -> None:
    hello, welcome = Hello(b"s" * 16, 12), Welcome(True, 7, 30.5)
    assert Hello.read(only(hello.frame().encoded())) == hello
    assert Welcome.read(only(welcome.frame().encoded())) == welcome
    assert acked(ack(2**40)) == 2**40
    assert credited(credit(3, 65536)) == 65536


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (Frame(Kind.HELLO, 0, b"\x02" + b"s" * 24), "version 2"),
        (Frame(Kind.HELLO, 0, b"\x01"), "HELLO of 1 bytes"),
        (Frame(Kind.DATA, 1, b"x"), "a HELLO was expected"),
    ],
)
def test_a_greeting_that_is_none(frame: Frame, words: str) -> None:
    with pytest.raises(Malformed, match=words):
        Hello.read(frame)


def test_the_gateway_says_why_it_takes_leave() -> None:
    with pytest.raises(Malformed, match="its replica has ended"):
        Welcome.read(Frame(Kind.BYE, 0, b"its replica has ended"))


def test_a_first_message_is_one_frame() -> None:
    with pytest.raises(Malformed, match="not 2"):
        only(ack(1).encoded() * 2)
    with pytest.raises(Malformed, match="no frame of kind 99"):
        only(b"\x63" + bytes(8))
