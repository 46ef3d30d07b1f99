"""Sessions: whatever is cut and however it is interleaved, each stream's bytes come in order, once, within bounds."""

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from terascope.fleet.tunnel.frames import Frame, Kind, Malformed, ack, frames
from terascope.fleet.tunnel.session import MOST_STREAMS, MOST_UNACKED, WINDOW, Session, Stream


@dataclass
class Ear:
    """Takes in what comes out of a stream, when it is told to."""

    stream: Stream
    prompt: bool = True
    heard: bytearray = field(default_factory=bytearray)
    untaken: int = 0
    ends: int = 0
    reason: str | None = None
    drains: int = 0

    def __post_init__(self) -> None:
        self.stream.consumer = self

    def data(self, data: bytes) -> None:
        assert self.ends == 0
        self.heard += data
        self.untaken += len(data)
        if self.prompt:
            self.take()

    def ended(self) -> None:
        self.ends += 1

    def lost(self, reason: str) -> None:
        self.reason = reason

    def drained(self) -> None:
        self.drains += 1

    def take(self) -> None:
        size, self.untaken = self.untaken, 0
        self.stream.taken(size)


class Pair:
    """Two ends, and the messages under way between them."""

    def __init__(self) -> None:
        self.ears: dict[int, Ear] = {}
        self.gateway = Session(lambda: None)
        self.agent = Session(lambda: None, self._opened)
        self.prompt = True
        self.ways: dict[Session, deque[bytes]] = {self.gateway: deque(), self.agent: deque()}

    def _opened(self, stream: Stream, purpose: bytes) -> None:
        assert purpose == b"engine"
        self.ears[stream.id] = Ear(stream, self.prompt)

    def open(self, *, prompt: bool = True) -> Ear:
        return Ear(self.gateway.open(b"engine"), prompt)

    def other(self, one: Session) -> Session:
        return self.agent if one is self.gateway else self.gateway

    def send(self, one: Session) -> bool:
        if message := one.take():
            self.ways[one].append(message)
        return bool(message)

    def deliver(self, one: Session) -> bool:
        if self.ways[one]:
            self.other(one).feed(self.ways[one].popleft())
            return True
        return False

    def cut(self) -> None:
        """The connection breaks, and another is made."""
        for way in self.ways.values():
            way.clear()
        received = {one: one.received for one in self.ways}
        for one in self.ways:
            one.resume(received[self.other(one)])

    def settle(self) -> None:
        """Bring everything over that can go over."""
        busy = True
        while busy:
            busy = False
            for one in self.ways:
                busy = self.send(one) | self.deliver(one) | busy


class AnyCourse(RuleBasedStateMachine):
    """Opens, writes, reads, sends, delivers and cuts in any order; at the end everything must have arrived."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()
        self.pair.prompt = False
        self.here: dict[int, Ear] = {}
        self.wrote: dict[tuple[int, bool], bytearray] = {}
        self.done: set[tuple[int, bool]] = set()
        self.count = 0

    def _side(self, number: int, far: bool) -> Ear | None:
        return self.pair.ears.get(number) if far else self.here.get(number)

    @rule()
    @precondition(lambda self: len(self.here) < 5)
    def open(self) -> None:
        ear = self.pair.open(prompt=False)
        self.here[ear.stream.id] = ear
        self.wrote[ear.stream.id, False] = self.wrote[ear.stream.id, True] = bytearray()
        self.wrote[ear.stream.id, True] = bytearray()

    @rule(number=st.integers(1, 5), far=st.booleans(), size=st.sampled_from([1, 100, 20_000, 300_000]))
    def write(self, number: int, far: bool, size: int) -> None:
        ear = self._side(number, far)
        if ear and (number, far) not in self.done:
            self.count += 1
            data = bytes([self.count % 256]) * size
            self.wrote[number, far] += data
            ear.stream.write(data)

    @rule(number=st.integers(1, 5), far=st.booleans())
    def end(self, number: int, far: bool) -> None:
        if ear := self._side(number, far):
            self.done.add((number, far))
            ear.stream.end()

    @rule(number=st.integers(1, 5), far=st.booleans())
    def read(self, number: int, far: bool) -> None:
        if ear := self._side(number, far):
            ear.take()

    @rule(far=st.booleans())
    def send(self, far: bool) -> None:
        self.pair.send(self.pair.agent if far else self.pair.gateway)

    @rule(far=st.booleans())
    def deliver(self, far: bool) -> None:
        self.pair.deliver(self.pair.agent if far else self.pair.gateway)

    @rule()
    def cut(self) -> None:
        self.pair.cut()

    @invariant()
    def what_was_heard_is_the_beginning_of_what_was_said(self) -> None:
        for (number, far), wrote in self.wrote.items():
            if ear := self._side(number, not far):
                assert wrote.startswith(ear.heard)
                assert ear.untaken <= WINDOW
                assert not ear.ends or (bytes(ear.heard) == bytes(wrote) and (number, far) in self.done)

    @invariant()
    def memory_is_bounded(self) -> None:
        for one in (self.pair.gateway, self.pair.agent):
            assert one.unacked <= MOST_UNACKED + WINDOW

    def teardown(self) -> None:
        self.pair.cut()
        self.pair.prompt = True
        for _ in range(2):
            for ear in [*self.here.values(), *self.pair.ears.values()]:
                ear.prompt = True
                ear.take()
            self.pair.settle()
        for (number, far), wrote in self.wrote.items():
            heard = self._side(number, not far)
            assert heard is not None
            assert heard.heard == wrote
            assert heard.ends == ((number, far) in self.done)


AnyCourse.TestCase.settings = settings(max_examples=40, stateful_step_count=50)
TestAnyCourse = AnyCourse.TestCase


def test_a_slow_reader_blocks_only_itself() -> None:
    pair = Pair()
    pair.prompt = False
    slow, quick = pair.open(), pair.open()
    pair.settle()
    pair.ears[quick.stream.id].prompt = True
    slow.stream.write(b"s" * (WINDOW * 3))
    quick.stream.write(b"q" * (WINDOW * 3))
    pair.settle()
    assert len(pair.ears[slow.stream.id].heard) == WINDOW
    assert slow.stream.held == WINDOW * 2
    assert len(pair.ears[quick.stream.id].heard) == WINDOW * 3
    pair.ears[slow.stream.id].prompt = True
    pair.ears[slow.stream.id].take()
    pair.settle()
    assert len(pair.ears[slow.stream.id].heard) == WINDOW * 3


def test_streams_take_turns() -> None:
    pair = Pair()
    one, other = pair.open(), pair.open()
    one.stream.write(b"1" * 100_000)
    other.stream.write(b"2" * 10)
    pair.send(pair.gateway)
    order = [frame.stream for frame in frames(pair.ways[pair.gateway][0]) if frame.kind is Kind.DATA]
    assert order[:2] == [one.stream.id, other.stream.id]


def test_without_acknowledgements_data_stops_and_goes_on_with_them() -> None:
    pair = Pair()
    ears = [pair.open() for _ in range(MOST_UNACKED // WINDOW + 8)]
    for ear in ears:
        ear.stream.write(b"x" * WINDOW)
    while pair.send(pair.gateway):
        pass
    assert MOST_UNACKED <= pair.gateway.unacked < MOST_UNACKED + 16 * 1024
    assert any(ear.stream.held for ear in ears)
    pair.settle()
    assert not any(ear.stream.held for ear in ears)
    assert all(len(pair.ears[ear.stream.id].heard) == WINDOW for ear in ears)


def test_a_stream_that_both_have_ended_is_forgotten() -> None:
    pair = Pair()
    ear = pair.open()
    pair.settle()
    ear.stream.end()
    pair.settle()
    assert (pair.ears[1].ends, pair.gateway.streams, pair.agent.streams) == (1, 1, 1)
    pair.ears[1].stream.end()
    pair.settle()
    assert (ear.ends, pair.gateway.streams, pair.agent.streams) == (1, 0, 0)


@pytest.mark.parametrize("far", [False, True])
def test_a_reset_ends_both_ways_and_says_why(far: bool) -> None:
    pair = Pair()
    here = pair.open()
    pair.settle()
    there = pair.ears[1]
    one, other = (there, here) if far else (here, there)
    one.stream.write(b"x" * 1000)
    other.stream.write(b"y" * 1000)
    one.stream.reset("enough")
    pair.settle()
    assert (other.reason, one.reason) == ("enough", None)
    assert (pair.gateway.streams, pair.agent.streams) == (0, 0)
    other.stream.write(b"z")
    other.stream.end()
    other.stream.reset("late")
    pair.settle()
    assert (pair.gateway.streams, pair.agent.streams) == (0, 0)


def test_the_end_of_a_session_is_that_of_its_streams() -> None:
    pair = Pair()
    ear = pair.open()
    pair.gateway.end("the tunnel was broken")
    pair.gateway.end("again")
    assert (ear.reason, pair.gateway.take()) == ("the tunnel was broken", b"")
    with pytest.raises(ConnectionError, match="the tunnel was broken"):
        pair.gateway.open(b"engine")


def test_there_is_a_most_of_streams() -> None:
    session = Session(lambda: None)
    for _ in range(MOST_STREAMS):
        session.open(b"engine")
    with pytest.raises(ConnectionError, match="carries all it can"):
        session.open(b"engine")


def test_streams_that_are_opened_and_reset_without_an_answer_have_an_end_too() -> None:
    session = Session(lambda: None)
    with pytest.raises(ConnectionError, match="carries all it can"):
        _open_and_reset(session, 1 << 20)


def message(*parts: Frame) -> bytes:
    return b"".join(one.encoded() for one in parts)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (message(Frame(Kind.DATA, 1, b"x" * (WINDOW + 1))), "more than it has room for"),
        (message(Frame(Kind.END, 1), Frame(Kind.DATA, 1, b"x")), "more than it has room for"),
        (message(Frame(Kind.OPEN, 9, b"engine")), "cannot be opened"),
        (message(ack(1000)), "1000 frames are said to have come"),
        (message(Frame(Kind.HELLO, 0, b"")), "HELLO in mid-connection"),
        (message(Frame(Kind.CREDIT, 1, b"x")), "CREDIT of 1 bytes"),
    ],
)
def test_what_the_other_end_would_not_send_is_malformed(wrong: bytes, words: str) -> None:
    pair = Pair()
    pair.open(prompt=False)
    with pytest.raises(Malformed, match=words):
        pair.gateway.feed(wrong)


def test_an_end_that_acknowledges_nothing_is_given_up() -> None:
    session = Session(lambda: None, lambda stream, purpose: stream.reset())
    flood = message(*[Frame(Kind.OPEN, number, b"engine") for number in range(140_000)])
    with pytest.raises(Malformed, match="acknowledges nothing"):
        session.feed(flood)


def _open_and_reset(session: Session, times: int) -> None:
    for _ in range(times):
        session.open(b"engine").reset()
        session.take()


@given(st.integers(min_value=0, max_value=20), st.integers(min_value=0, max_value=30))
def test_a_number_of_frames_that_was_never_sent_is_malformed(sent: int, said: int) -> None:
    session = Session(lambda: None)
    for _ in range(sent):
        session.open(b"engine")
    session.take()
    if said <= sent:
        session.resume(said)
        assert len(list(frames(session.take()))) == sent - said
    else:
        with pytest.raises(Malformed, match="said to have come"):
            session.resume(said)
