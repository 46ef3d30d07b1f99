"""Server-sent events: read beside the forwarding, never in front of it.

Format: WHATWG HTML, section 9.2. An event ends at an empty line; lines end in LF, CRLF or CR. JSON never holds a
raw line end, so the bytes of whole events can be cut out and passed on untouched.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import orjson

from terascope.protocol.errors import error_in

DONE = b"data: [DONE]\n\n"
_BOUNDARY = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_LINE = re.compile(rb"\r\n|\n|\r")
# What must be looked at: a usage object, a finish reason that is not null, an error. Inside a JSON string the
# quotes would be escaped, so these bytes can only be keys.
_NOTABLE = re.compile(rb'"(?:usage"\s*:\s*\{|finish_reason"\s*:\s*"|error"\s*:\s*[{"]|object"\s*:\s*"error")')


def event(data: bytes) -> bytes:
    """One event with `data`, which holds no line end."""
    return b"data: " + data + b"\n\n"


def comment(text: str) -> bytes:
    """A comment: clients ignore it, proxies see life in it."""
    return f": {text}\n\n".encode()


@dataclass(slots=True)
class StreamReader:
    """Follows one engine's event stream while its bytes are passed on.

    `feed` returns the bytes that may go to the client now: whole events, as the engine wrote them, with three
    stated exceptions. The usage event is taken out when the client did not ask for it (`keep_usage`); `[DONE]`
    is held back (`held`) until the caller has made the run record durable; `model` says the public name
    instead of the served one. An error event ends the stream: it is kept in `error` for the caller to tell,
    and what follows it is dropped. `choices` is how many the request asked for. `answer_id`
    is what the engine calls its answer, known once a choice has ended.
    """

    keep_usage: bool
    served_name: str = ""
    public_name: str = ""
    choices: int = 1
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    held: bytes = b""
    done: bool = False
    events: int = 0
    finish_reasons: dict[int, str] = field(default_factory=dict)
    answer_id: str = ""
    _rest: bytearray = field(default_factory=bytearray)
    _rename: tuple[re.Pattern[bytes], bytes] | None = None

    def __post_init__(self) -> None:
        if self.served_name != self.public_name:
            self._rename = renaming(self.served_name, self.public_name)

    @property
    def complete(self) -> bool:
        """True when the engine said all it had to: `[DONE]`, or a finish reason for every choice."""
        whole = self.done or len(self.finish_reasons) >= self.choices
        return whole and self.error is None and not self._rest.strip()

    @property
    def _over(self) -> bool:
        return self.done or self.error is not None

    def feed(self, data: bytes) -> bytes:
        """Take bytes as they came, cut anywhere; return what may go out now (maybe nothing)."""
        if self._rest:
            if not _BOUNDARY.search(self._rest[-3:] + data):
                self._rest += data  # a long event in many pieces is looked at once, when its end is there
                return b""
            data = b"".join((self._rest, data))
            self._rest.clear()
        whole, cut = data, _last_boundary(data)
        if cut < len(data):
            self._rest += data[cut:]
            whole = data[:cut]
        if b"[DONE]" in whole or self._over or _NOTABLE.search(whole):
            whole = b"".join(self._take(one) for one in _all_events(whole))
        else:
            self.events += _count(whole)
        return self._renamed(whole)

    def end(self) -> None:
        """The stream ended properly. A `[DONE]` that no empty line follows counts, as official clients take it."""
        rest = bytes(self._rest)
        self.done = self.done or (self.error is None and event_data(rest) == b"[DONE]")
        if self.done or not rest.strip():
            self.held += rest
            self._rest.clear()

    def _renamed(self, whole: bytes) -> bytes:
        return self._rename[0].sub(self._rename[1], whole) if self._rename and whole else whole

    def _take(self, one: bytes) -> bytes:
        if self.error is not None:
            return b""
        data = event_data(one)
        if data == b"[DONE]" or self.done:
            self.done = True
            self.held += one
            return b""
        payload = _object(data)
        shown = payload is None or self._read(payload)
        self.events += bool(data) and self.error is None
        return one if shown else b""

    def _read(self, payload: dict[str, Any]) -> bool:
        """Note what the event says; return whether the client is to see it."""
        self.error = error_in(payload)
        if self.error is not None:
            return False
        if isinstance(payload.get("id"), str):
            self.answer_id = payload["id"]
        choices = payload.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and choice.get("finish_reason"):
                index = choice.get("index")
                self.finish_reasons[index if isinstance(index, int) else 0] = str(choice["finish_reason"])
        if isinstance(payload.get("usage"), dict):
            self.usage = payload["usage"]
            return self.keep_usage or bool(choices)
        return True


def split_events(data: bytes) -> list[bytes]:
    """The whole events at the beginning of `data`, each with its empty line."""
    ends = [found.end() for found in _BOUNDARY.finditer(data)]
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _all_events(data: bytes) -> list[bytes]:
    """Cut `data`, which ends at an event's end, into events; of three line ends in a row the last belongs to no event
    and stays with the one before."""
    events = split_events(data)
    if over := len(data) - sum(map(len, events)):
        events[-1] += data[-over:]
    return events


def event_data(one: bytes) -> bytes:
    """The `data` of one event; empty for comments and other fields."""
    lines = (line for line in _LINE.split(one) if line.startswith(b"data:"))
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines)


@lru_cache(maxsize=256)
def renaming(served_name: str, public_name: str) -> tuple[re.Pattern[bytes], bytes]:
    """The pattern and replacement that make `"model": served` say `public`."""
    pattern = re.compile(rb'("model"\s*:\s*)' + re.escape(orjson.dumps(served_name)))
    return pattern, b"\\1" + orjson.dumps(public_name).replace(b"\\", b"\\\\")


def _last_boundary(data: bytes) -> int:
    """Where the last whole event in `data` ends; 0 when none does."""
    if b"\r" not in data:
        at = data.rfind(b"\n\n")
        return at + 2 if at >= 0 else 0
    return max((found.end() for found in _BOUNDARY.finditer(data)), default=0)


def _count(whole: bytes) -> int:
    """How many events have data: JSON holds no raw line end, so a line that begins so is no text."""
    return whole.startswith(b"data:") + whole.count(b"\ndata:") + whole.count(b"\rdata:")


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        payload = orjson.loads(data) if data else None
    except orjson.JSONDecodeError:
        return None
    return payload if isinstance(payload, dict) else None
