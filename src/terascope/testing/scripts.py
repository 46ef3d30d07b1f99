"""How an answer of the fault engine is written down: steps, in order."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from terascope.engines.contract import EngineCall
from terascope.engines.echo.model import Settings, answer

TEXT = "The quick brown fox jumps over the lazy dog, again and again."
"""What most answers say."""
_UNDERSTOOD = (
    "model", "stream", "stream_options", "n", "logprobs", "top_logprobs", "max_tokens", "max_completion_tokens",
    "stop", "echo", "tools", "tool_choice", "ignore_eos", "encoding_format", "dimensions",
    "messages", "prompt", "input", "tokens",
)  # fmt: skip
_SETTINGS = Settings(context_length=2_000_000)


@dataclass(frozen=True, slots=True)
class Sleep:
    """Say nothing for some seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Hold:
    """Say nothing until the test says `release`."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Close the connection without the end that was announced; with `reset`, by a TCP reset."""

    reset: bool = False


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes outside of any framing."""

    data: bytes


class Refused(Exception):
    """The request cannot be answered, because it is bad; not a fault."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body


Step = bytes | Sleep | Hold | Cut | Raw


@dataclass(frozen=True, slots=True)
class Script:
    """An answer: what is sent and done, in order; the headers go out with the first bytes of the body.

    `framing`: `chunked`, `length` (`length` claims another than the true one), `close` (the connection's end,
    announced) or `eof` (the same, not announced). `bytewise` sends every byte by itself.
    """

    parts: Sequence[Step]
    status: int = 200
    kind: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    framing: str = "length"
    length: int | None = None
    bytewise: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to the fault engine."""

    call: EngineCall
    fields: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    nth: int = 0
    """How often its fault was asked for before."""

    @property
    def stream(self) -> bool:
        """Whether a stream was asked for, where there can be one."""
        return self.fields.get("stream") is True and self.call.endpoint.endswith("completions")

    @property
    def kind(self) -> str:
        """The media type of a right answer."""
        return "text/event-stream; charset=utf-8" if self.stream else "application/json"

    def number(self, name: str, default: float) -> float:
        """An option that is a number. Raises `Refused` when it is none."""
        try:
            return float(self.options.get(name, default))
        except ValueError:
            raise Refused(400, _refusal(f"the option {name} must be a number")) from None

    def right(self, text: str | None = None, **changes: object) -> list[bytes]:
        """A right answer that says `text` (what was said to it, when None): events, or one body.

        Raises `Refused` when there is none, because the request is bad.
        """
        fields = {name: self.fields[name] for name in _UNDERSTOOD if name in self.fields}
        if text is not None:
            name = next((name for name in ("prompt", "input") if name in fields), "messages")
            fields[name] = [{"role": "user", "content": text}] if name == "messages" else text
        call = EngineCall(self.call.request_id, self.call.endpoint, orjson.dumps(fields | changes))
        said = answer(_SETTINGS, call, 1_700_000_000)
        if said.status != 200:
            raise Refused(said.status, b"".join(said.parts))
        return list(said.parts)

    def script(self, parts: Sequence[Step], **other: Any) -> Script:
        """A script in the framing that was asked for."""
        return Script(parts, kind=self.kind, framing="chunked" if self.stream else "length", **other)

    def broken(self, text: str, *steps: Step, rest: bool = False) -> Script:
        """A right answer up to its part `after` (3; half of a whole answer), `steps`, and with `rest` what is left."""
        parts = self.right(text)
        at = int(self.number("after", 3))
        if not self.stream:
            body, at = b"".join(parts), 1
            parts = [body[: len(body) // 2], body[len(body) // 2 :]]
        left = parts[at:] if rest else []
        return self.script([*parts[:at], *steps, *left], length=sum(map(len, parts)))


Fault = Callable[[Asked], Script]
"""What goes wrong, from a request to a script."""


def _refusal(message: str) -> bytes:
    return orjson.dumps({"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}})
