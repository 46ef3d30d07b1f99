"""What the two ends of a tunnel say to each other; the protocol's page is docs/reference/tunnel.md.

A message of the WebSocket is one or more frames: kind (1 byte), stream (4), length (4), all big-endian, then so many
bytes. Frames of kinds from `OPEN` on are numbered by counting them, each direction for itself, and sent again after a
gap; those before it belong to one connection.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

VERSION = 1
"""Of the protocol; both ends must speak the same."""
MOST_MESSAGE = 1 << 20
"""Bytes of a message; a longer one is not taken."""
_HEAD = struct.Struct("!BII")
_HELLO = struct.Struct("!B16sQ")
_WELCOME = struct.Struct("!?QI")
_COUNT = struct.Struct("!Q")
_CREDIT = struct.Struct("!I")


class Kind(IntEnum):
    """What a frame is."""

    HELLO = 1  # the agent's first: version, session, how many numbered frames it has received
    WELCOME = 2  # the gateway's first: whether the session goes on, how many it has received, its patience in ms
    ACK = 3  # how many numbered frames have been received
    BYE = 4  # why there will be no tunnel; the connection ends
    OPEN = 16  # a new stream, from the gateway: what for
    DATA = 17
    CREDIT = 18  # so many more bytes of the stream may be sent
    END = 19  # no more data from this side
    RESET = 20  # the stream is over for both sides: why


class Malformed(ValueError):
    """What came is not what the other end of a tunnel would send; the connection cannot go on."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame; `stream` is 0 where none is meant."""

    kind: Kind
    stream: int = 0
    payload: bytes = b""

    @property
    def numbered(self) -> bool:
        """Whether it is counted, and sent again after a gap."""
        return self.kind >= Kind.OPEN

    def encoded(self) -> bytes:
        """Its bytes."""
        return _HEAD.pack(self.kind, self.stream, len(self.payload)) + self.payload


@dataclass(frozen=True, slots=True)
class Hello:
    """How an agent begins a connection: which session goes on, and how many frames of it the agent has received."""

    session: bytes
    received: int

    def frame(self) -> Frame:
        """It as a frame."""
        return Frame(Kind.HELLO, 0, _HELLO.pack(VERSION, self.session, self.received))

    @classmethod
    def read(cls, frame: Frame) -> "Hello":
        """Raises `Malformed` when `frame` is none, or of another version of the protocol."""
        version, session, received = _unpacked(_HELLO, frame, Kind.HELLO)
        if version != VERSION:
            raise Malformed(f"the agent speaks version {version} of the tunnel's protocol, the gateway {VERSION}")
        return cls(bytes(session), int(received))


@dataclass(frozen=True, slots=True)
class Welcome:
    """How the gateway answers: whether it has the session still, how many frames it has received of it.

    After a gap longer than `grace_s` seconds neither side keeps the session.
    """

    resumed: bool
    received: int
    grace_s: float

    def frame(self) -> Frame:
        """It as a frame."""
        return Frame(Kind.WELCOME, 0, _WELCOME.pack(self.resumed, self.received, round(self.grace_s * 1000)))

    @classmethod
    def read(cls, frame: Frame) -> "Welcome":
        """Raises `Malformed` when `frame` is none; with the gateway's words where it takes leave instead."""
        if frame.kind is Kind.BYE:
            raise Malformed(frame.payload.decode("utf-8", "replace"))
        resumed, received, grace_ms = _unpacked(_WELCOME, frame, Kind.WELCOME)
        return cls(bool(resumed), int(received), grace_ms / 1000)


def ack(received: int) -> Frame:
    """Say how many numbered frames have been received."""
    return Frame(Kind.ACK, 0, _COUNT.pack(received))


def acked(frame: Frame) -> int:
    """What an ACK says. Raises `Malformed`."""
    return int(_unpacked(_COUNT, frame, Kind.ACK)[0])


def credit(stream: int, size: int) -> Frame:
    """Allow `size` more bytes."""
    return Frame(Kind.CREDIT, stream, _CREDIT.pack(size))


def credited(frame: Frame) -> int:
    """What a CREDIT allows. Raises `Malformed`."""
    return int(_unpacked(_CREDIT, frame, Kind.CREDIT)[0])


def frames(message: bytes) -> Iterator[Frame]:
    """Yield the frames of a message. Raises `Malformed` at the first that is none."""
    at = 0
    while at < len(message):
        if len(message) - at < _HEAD.size:
            raise Malformed("a frame's head is cut off")
        kind, stream, length = _HEAD.unpack_from(message, at)
        at += _HEAD.size
        if length > len(message) - at:
            raise Malformed("a frame is longer than its message")
        try:
            yield Frame(Kind(kind), stream, message[at : at + length])
        except ValueError:
            raise Malformed(f"there is no frame of kind {kind}") from None
        at += length


def only(message: bytes) -> Frame:
    """The one frame of `message`. Raises `Malformed` when there is another number of them."""
    found = list(frames(message))
    if len(found) != 1:
        raise Malformed(f"a first message holds one frame, not {len(found)}")
    return found[0]


def _unpacked(shape: struct.Struct, frame: Frame, kind: Kind) -> tuple[Any, ...]:
    if frame.kind is not kind or len(frame.payload) != shape.size:
        raise Malformed(f"a frame {frame.kind.name} of {len(frame.payload)} bytes where a {kind.name} was expected")
    return shape.unpack(frame.payload)
