"""One end of a tunnel's session: its streams, their credit, and what the other end has not acknowledged. No I/O.

Whatever carries it takes messages with `take` and hands in what came with `feed`; when a connection breaks,
`resume` makes sure that what was lost with it is sent again, and nothing twice.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from terascope.fleet.tunnel.frames import Frame, Kind, Malformed, ack, acked, credit, credited, frames

WINDOW = 256 * 1024
"""Bytes of a stream that may be under way before the other end has taken them."""
MOST_STREAMS = 4096
"""Streams of a session."""
MOST_UNACKED = 8 << 20
"""Bytes of data that are kept to be sent again; more is not sent before the other end has acknowledged some."""
_PIECE = 16 * 1024  # data of a stream that goes in one frame, so that all get their turn
_MESSAGE = 64 * 1024  # a message is full from here on
_LOW = 64 * 1024  # bytes of a stream that wait when more may be written
_MOST_FRAMES = 64 * 1024  # frames that are kept, of any kind; an end that lets it come to that does not work
_ACK_FRAMES = 64
_ACK_BYTES = 128 * 1024
_GRANT = WINDOW // 4  # credit is given back in such pieces


class Consumer(Protocol):
    """Who takes what comes out of a stream."""

    def data(self, data: bytes) -> None:
        """More of it; say `Stream.taken` once it is out of memory."""
        ...

    def ended(self) -> None:
        """The other end will send no more."""
        ...

    def lost(self, reason: str) -> None:
        """The stream is over before its end, in both directions."""
        ...

    def drained(self) -> None:
        """Little of what was written waits; may come several times."""
        ...


class Stream:
    """Bytes both ways, each in order, as far as the other end has room for them."""

    __slots__ = (
        "_credit", "_ended", "_heard_end", "_owed", "_parts", "_room", "_said_end", "_session",
        "consumer", "held", "id",
    )  # fmt: skip

    def __init__(self, session: "Session", stream_id: int) -> None:
        self.id = stream_id
        self.consumer: Consumer | None = None
        self.held = 0  # bytes written that have not gone out
        self._session = session
        self._parts: deque[bytes] = deque()
        self._credit = WINDOW
        self._room = WINDOW
        self._owed = 0  # bytes taken for which no credit has been given back yet
        self._ended = self._said_end = self._heard_end = False

    def write(self, data: bytes) -> None:
        """Send `data` when its turn comes; `held` says how much waits. What is written after `end` is dropped."""
        if data and not self._ended:
            self._parts.append(data)
            self.held += len(data)
            self._session.ready(self)

    def end(self) -> None:
        """Send no more. Idempotent."""
        if not self._ended:
            self._ended = True
            self._session.ready(self)

    def reset(self, reason: str = "") -> None:
        """End it in both directions, now; the other end is told why. The consumer hears nothing more."""
        self.consumer = None
        self._clear()
        self._session.drop(self, reason)

    def taken(self, size: int) -> None:
        """So many bytes of what came are out of memory."""
        self._owed += size
        if self._owed >= _GRANT and not self._heard_end:
            self._room += self._owed
            self._session.say(credit(self.id, self._owed))
            self._owed = 0

    # what the session calls

    @property
    def sendable(self) -> bool:
        """Whether it has a frame to send now."""
        return bool(self._credit) if self._parts else self._ended and not self._said_end

    def next_frame(self) -> Frame:
        """Its next frame of data, or its end."""
        if not self._parts:
            self._said_end = True
            return Frame(Kind.END, self.id)
        size = min(_PIECE, self._credit)
        piece = self._parts.popleft()
        if len(piece) > size:
            self._parts.appendleft(piece[size:])
            piece = piece[:size]
        self._credit -= len(piece)
        self.held -= len(piece)
        return Frame(Kind.DATA, self.id, piece)

    def after(self, frame: Frame) -> bool:
        """`frame` went out: tell whoever waits for room; return whether the stream is over."""
        if frame.kind is Kind.DATA and self.held < _LOW and self.consumer:
            self.consumer.drained()
        return self._said_end and self._heard_end

    def got(self, frame: Frame) -> bool:
        """A frame came; return whether the stream is over. Raises `Malformed`."""
        if frame.kind is Kind.DATA:
            self._got_data(frame.payload)
        elif frame.kind is Kind.CREDIT:
            self._credit += credited(frame)
            self._session.ready(self)
        elif frame.kind is Kind.END:
            self._heard_end = True
            if self.consumer:
                self.consumer.ended()
            return self._said_end
        else:
            self.lose(frame.payload.decode("utf-8", "replace"))
            return True
        return False

    def _got_data(self, data: bytes) -> None:
        self._room -= len(data)
        if self._room < 0 or self._heard_end:
            raise Malformed(f"stream {self.id} got more than it has room for")
        if self.consumer:
            self.consumer.data(data)
        else:
            self.taken(len(data))

    def lose(self, reason: str) -> None:
        """It is over: tell the consumer."""
        consumer, self.consumer = self.consumer, None
        self._clear()
        if consumer:
            consumer.lost(reason)

    def _clear(self) -> None:
        self._parts.clear()
        self.held = 0
        self._ended = True


class Session:
    """All streams between one agent and the gateway, across any number of connections, one at a time.

    `wake` is called when there may be something to send; `opened` with each stream that the other end opens and what
    it is for, and gives it a consumer. An end without `opened` is not opened to.
    """

    def __init__(self, wake: Callable[[], None], opened: Callable[[Stream, bytes], None] | None = None) -> None:
        self.received = 0
        self._wake = wake
        self._opened = opened
        self._streams: dict[int, Stream] = {}
        self._next = 1
        self._turns: dict[int, Stream] = {}  # streams with something to send, whose turn comes first first
        self._control: deque[Frame] = deque()
        self._sent: deque[tuple[bytes, int]] = deque()  # numbered frames not acknowledged, with their bytes of data
        self._unacked = 0  # bytes of data in it
        self._first = 0  # number of frames acknowledged: those before `_sent`
        self._again: deque[bytes] = deque()
        self._since = (0, 0)  # frames and bytes received since the last ACK
        self._over = ""

    @property
    def streams(self) -> int:
        """How many there are."""
        return len(self._streams)

    @property
    def unacked(self) -> int:
        """Bytes of data that are kept to be sent again."""
        return self._unacked

    def open(self, purpose: bytes) -> Stream:
        """Open a stream. Raises `ConnectionError` when there are too many, or the session is over."""
        if self._over:
            raise ConnectionError(self._over)
        if len(self._streams) >= MOST_STREAMS or self._kept >= _MOST_FRAMES:
            raise ConnectionError(f"the tunnel carries all it can, up to {MOST_STREAMS} streams")
        stream = self._streams[self._next] = Stream(self, self._next)
        self._next += 1
        self.say(Frame(Kind.OPEN, stream.id, purpose))
        return stream

    def end(self, reason: str) -> None:
        """The session is over: every stream is lost. Idempotent."""
        self._over = self._over or reason
        streams = list(self._streams.values())
        for of in (self._streams, self._turns, self._control, self._sent, self._again):
            of.clear()
        self._unacked = 0
        for stream in streams:
            stream.lose(reason)

    def resume(self, peer_received: int) -> None:
        """A new connection carries it; the other end has so many frames. Raises `Malformed` if that is impossible."""
        self._acknowledge(peer_received)
        self._again = deque(data for data, _ in self._sent)
        self._since = (0, 0)
        self._wake()

    def take(self) -> bytes:
        """Return the next message to send, empty when there is nothing to say now."""
        parts: list[bytes] = []
        size = 0
        for data in self._outgoing():
            parts.append(data)
            size += len(data)
            if size >= _MESSAGE:
                break
        return b"".join(parts)

    def feed(self, message: bytes) -> None:
        """Take in a message. Raises `Malformed`; then the connection must not go on."""
        for frame in frames(message):
            if frame.kind is Kind.ACK:
                self._acknowledge(acked(frame))
            elif not frame.numbered:
                raise Malformed(f"a frame {frame.kind.name} in mid-connection")
            else:
                self._count(len(frame.payload))
                self._got(frame)
        if self._kept > 2 * _MOST_FRAMES:
            raise Malformed("the other end acknowledges nothing")

    @property
    def _kept(self) -> int:
        return len(self._sent) + len(self._control)

    # what streams call

    def ready(self, stream: Stream) -> None:
        """`stream` may have something to send."""
        if stream.sendable and stream.id in self._streams and stream.id not in self._turns:
            self._turns[stream.id] = stream
            self._wake()

    def say(self, frame: Frame) -> None:
        """Send a frame that is not data."""
        if not self._over:
            self._control.append(frame)
            self._wake()

    def drop(self, stream: Stream, reason: str) -> None:
        """`stream` is over here: forget it, and tell the other end."""
        if self._forget(stream):
            self.say(Frame(Kind.RESET, stream.id, reason.encode()[:_PIECE]))

    def _outgoing(self) -> Iterator[bytes]:
        while self._again:
            yield self._again.popleft()
        if self._since[0] >= _ACK_FRAMES or self._since[1] >= _ACK_BYTES:
            self._since = (0, 0)
            yield ack(self.received).encoded()
        while self._control:
            yield self._numbered(self._control.popleft())
        while self._turns and self._unacked < MOST_UNACKED:
            yield self._numbered(self._turn())

    def _turn(self) -> Frame:
        """The next frame of the stream whose turn it is, which then goes to the end of the row."""
        stream = self._turns.pop(next(iter(self._turns)))
        frame = stream.next_frame()
        if frame.kind is Kind.DATA:
            self.ready(stream)
        if stream.after(frame):
            self._forget(stream)
        return frame

    def _numbered(self, frame: Frame) -> bytes:
        data, size = frame.encoded(), len(frame.payload) if frame.kind is Kind.DATA else 0
        self._sent.append((data, size))
        self._unacked += size
        return data

    def _acknowledge(self, count: int) -> None:
        if not self._first <= count <= self._first + len(self._sent):
            raise Malformed(f"{count} frames are said to have come, of {self._first + len(self._sent)}")
        while self._first < count:
            self._unacked -= self._sent.popleft()[1]
            self._first += 1
        if self._turns:
            self._wake()

    def _count(self, size: int) -> None:
        self.received += 1
        self._since = (self._since[0] + 1, self._since[1] + size)
        if self._since[0] >= _ACK_FRAMES or self._since[1] >= _ACK_BYTES:
            self._wake()

    def _got(self, frame: Frame) -> None:
        if frame.kind is Kind.OPEN:
            self._open(frame)
            return
        stream = self._streams.get(frame.stream)  # None: it is over here, and the other end will hear of it
        if stream and stream.got(frame):
            self._forget(stream)

    def _open(self, frame: Frame) -> None:
        if self._opened is None or frame.stream in self._streams or len(self._streams) >= MOST_STREAMS:
            raise Malformed(f"stream {frame.stream} cannot be opened")
        stream = self._streams[frame.stream] = Stream(self, frame.stream)
        self._opened(stream, frame.payload)

    def _forget(self, stream: Stream) -> bool:
        self._turns.pop(stream.id, None)
        return self._streams.pop(stream.id, None) is not None
