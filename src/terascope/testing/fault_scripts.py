"""What can go wrong with an engine's answer, each under a name: pure functions from a request to a script.

Options follow the name: `pause after=3 seconds=6`. Where a gateway in use got one wrong, the docstring names it.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from terascope.protocol.sse import DONE, event
from terascope.testing.fault_errors import ERRORS
from terascope.testing.scripts import TEXT, Asked, Cut, Fault, Hold, Raw, Script, Sleep

MANY_SCRIPTS = "na\u00efve \u65e5\u672c\u8a9e \U0001f389 \u0416\u0443\u0440\u043d\u0430\u043b"


# right answers that gateways spoil


def none(asked: Asked) -> Script:
    """Nothing is wrong: what was said is said back; usage only in whole answers and when a stream asked for it."""
    return asked.script(asked.right())


def words(asked: Asked) -> Script:
    """A right answer of `count` words (100,000 if not given), each an event."""
    count = int(asked.number("count", 100_000))
    return asked.script(asked.right(" ".join(f"w{i}" for i in range(count))))


def huge(asked: Asked) -> Script:
    """A right answer that has one word of `size` bytes (1 MB if not given) in one event."""
    return asked.script(asked.right("x" * int(asked.number("size", 1_000_000))))


def leading_space(asked: Asked) -> Script:
    """The answer begins with white space. SwissAI's gateway stripped it from the first delta."""
    return asked.script(asked.right("\n\n  def f():\n    pass\n"))


def logprobs(asked: Asked) -> Script:
    """Log-probabilities are there. SwissAI's gateway dropped those of completions."""
    wanted = {"logprobs": 2} if asked.call.endpoint == "completions" else {"logprobs": True, "top_logprobs": 2}
    return asked.script(asked.right(TEXT, **wanted))


def reflect(asked: Asked) -> Script:
    """The answer's text is the JSON that arrived, with the headers under `headers`: what a gateway dropped or added.

    FIRST refuses fields that it does not know and lost `stream`; SwissAI's gateway put in temperature and seed.
    """
    arrived = orjson.dumps({"body": asked.fields, "headers": asked.headers}).decode()
    return asked.script(asked.right(arrived, max_tokens=None, max_completion_tokens=None, stop=None, logprobs=None))


def extra_fields(asked: Asked) -> Script:
    """Choices, deltas and answer have fields that OpenAI's do not, such as `reasoning_content`."""

    def spoil(one: dict[str, Any]) -> None:
        one |= {"x_engine": {"step": 1}}
        for choice in one.get("choices", ()):
            choice["stop_reason"] = None
            choice.get("delta", choice.get("message", {}))["reasoning_content"] = "because"

    return asked.script(_changed(asked.right(TEXT), spoil))


def usage_details(asked: Asked) -> Script:
    """Usage has details. SwissAI's gateway lost them."""

    def detail(one: dict[str, Any]) -> None:
        if one.get("usage"):
            one["usage"] |= {
                "prompt_tokens_details": {"cached_tokens": 5},
                "completion_tokens_details": {"reasoning_tokens": 2},
            }

    return asked.script(_changed(asked.right(TEXT), detail))


def usage_everywhere(asked: Asked) -> Script:
    """Every event has a usage, as vLLM's `continuous_usage_stats` makes it."""
    made = {"prompt_tokens": 5}

    def count(one: dict[str, Any]) -> None:
        made["completion_tokens"] = made.get("completion_tokens", -1) + 1
        one["usage"] = made | {"total_tokens": 5 + made["completion_tokens"]}

    return asked.script(_changed(asked.right(TEXT), count))


def usage_lies(asked: Asked) -> Script:
    """Usage claims a thousand million tokens, of whole answers and streams."""

    def claim(one: dict[str, Any]) -> None:
        if one.get("usage"):
            one["usage"]["completion_tokens"] = 1 << 30

    return asked.script(_changed(asked.right(TEXT), claim))


def usage_null(asked: Asked) -> Script:
    """Every event but the usage event says `"usage": null`, as OpenAI does when usage is asked for."""
    return asked.script(_changed(asked.right(TEXT), lambda one: one.setdefault("usage", None)))


def no_usage(asked: Asked) -> Script:
    """The engine never says what was used."""
    kept = [part for part in asked.right(TEXT) if b'"choices":[]' not in part]
    return asked.script(_changed(kept, lambda one: one.pop("usage", None)))


# right answers in other bytes


def crlf(asked: Asked) -> Script:
    """Lines end in CR LF."""
    return asked.script([part.replace(b"\n", b"\r\n") for part in asked.right(TEXT)])


def cr(asked: Asked) -> Script:
    """Lines end in CR."""
    return asked.script([part.replace(b"\n", b"\r") for part in asked.right(TEXT)])


def bytewise(asked: Asked) -> Script:
    """Every byte, those of the framing too, is a write of its own."""
    return asked.script(asked.right(MANY_SCRIPTS), bytewise=True)


def split_characters(asked: Asked) -> Script:
    """Writes end in the middle of characters, and chunks with them."""
    whole = b"".join(asked.right(MANY_SCRIPTS))
    inside = [at for at, byte in enumerate(whole) if byte & 0xC0 == 0x80]
    return asked.script([whole[a:b] for a, b in zip([0, *inside], [*inside, len(whole)], strict=True)])


def packed(asked: Asked) -> Script:
    """The whole stream comes in one write."""
    return asked.script([b"".join(asked.right(TEXT))])


def comments(asked: Asked) -> Script:
    """There is an SSE comment before every event."""
    before = b": still here\n\n" if asked.stream else b""
    return asked.script([before + part for part in asked.right(TEXT)])


def other_fields(asked: Asked) -> Script:
    """Events have `event`, `id` and `retry` lines, and no space after `data:`."""
    parts = asked.right(TEXT)
    if asked.stream:
        lines = b"event: message\nid: %d\nretry: 9\n"
        parts = [lines % i + part.replace(b"data: ", b"data:", 1) for i, part in enumerate(parts)]
    return asked.script(parts)


def interim(asked: Asked) -> Script:
    """Interim answers (1xx) come before the answer."""
    first = Raw(b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n")
    return asked.script([first, *asked.right(TEXT)])


def until_close(asked: Asked) -> Script:
    """The body ends with the connection, as `Connection: close` announced: a proper end."""
    return Script(asked.right(TEXT), kind=asked.kind, framing="close")


def bare_done(asked: Asked) -> Script:
    """The stream ends right after `data: [DONE]`, without the empty line."""
    return asked.script([part.rstrip() if part == DONE else part for part in asked.right(TEXT)])


def other_model(asked: Asked) -> Script:
    """Another model answers than was asked, and says so, as commercial services and LiteLLM's fallbacks do."""
    return asked.script(asked.right(TEXT, model="fallback-model"))


# answers that are slow


def pause(asked: Asked) -> Script:
    """Silence of `seconds` (6) in mid-answer, then the rest. FIRST calls that an end after 5 s, and says `[DONE]`."""
    return asked.broken(TEXT, Sleep(asked.number("seconds", 6)), rest=True)


def hold(asked: Asked) -> Script:
    """Silence in mid-answer until the test says `release`, then the rest."""
    return asked.broken(TEXT, Hold(), rest=True)


def late(asked: Asked) -> Script:
    """Nothing, not even a status, for `seconds` (6). FIRST waits 30 s for the first data, less than any cold start."""
    return asked.script([Sleep(asked.number("seconds", 6)), *asked.right(TEXT)])


def slow(asked: Asked) -> Script:
    """`count` words (100), `gap` seconds (0.01) before each: long answers, which others cut at 120 or 300 s in all."""
    gap, text = Sleep(asked.number("gap", 0.01)), " ".join(f"w{i}" for i in range(int(asked.number("count", 100))))
    return asked.script([step for part in asked.right(text) for step in (gap, part)])


def silent(asked: Asked) -> Script:
    """The request is taken and never answered. vLLM's production stack hangs when one engine does that."""
    return asked.script([Hold(), Cut()])


def stall(asked: Asked) -> Script:
    """The answer begins and never goes on."""
    return asked.broken(TEXT, Hold(), Cut())


# answers that are cut short


def die(asked: Asked) -> Script:
    """The connection ends in mid-stream, without the last chunk."""
    return asked.broken(TEXT, Cut())


def reset(asked: Asked) -> Script:
    """The connection is reset in mid-stream."""
    return asked.broken(TEXT, Cut(reset=True))


def cut_event(asked: Asked) -> Script:
    """The stream ends properly, but in the middle of an event."""
    whole = b"".join(asked.right(TEXT))
    return asked.script([whole[: len(whole) // 2]])


def unfinished(asked: Asked) -> Script:
    """The stream ends properly, but without a finish reason and `[DONE]`. Others report that as a whole answer."""
    parts = asked.right(TEXT)
    return asked.script(parts[: int(asked.number("after", 3))] if asked.stream else parts)


def one_unfinished(asked: Asked) -> Script:
    """Of several choices the last has no finish reason, and `[DONE]` is missing."""
    parts = asked.right(TEXT)
    if asked.stream:
        last = max(at for at, part in enumerate(parts) if b'"finish_reason":"' in part)
        parts = [part for part in parts if part not in (parts[last], DONE)]
    return asked.script(parts)


def no_done(asked: Asked) -> Script:
    """Everything is there but `[DONE]`."""
    return asked.script([part for part in asked.right(TEXT) if part != DONE])


def truncated(asked: Asked) -> Script:
    """A whole answer ends before its Content-Length. GPUStack passed such on as 200."""
    body = b"".join(asked.right(TEXT))
    return Script([body[: len(body) // 2], Cut()], kind=asked.kind, length=len(body))


def until_eof(asked: Asked) -> Script:
    """The body ends with the connection, and nothing announced it: nobody can know whether it is whole."""
    return Script(asked.right(TEXT), kind=asked.kind, framing="eof")


def no_answer(asked: Asked) -> Script:
    """The connection is closed before any byte of an answer; only the first `times` times, when that is given."""
    if asked.nth >= asked.number("times", math.inf):
        return asked.script(asked.right(TEXT))
    return Script([Cut()])


def half_head(asked: Asked) -> Script:
    """The connection is closed in the middle of the headers."""
    return Script([Raw(b"HTTP/1.1 200 OK\r\nContent-Ty"), Cut()])


# answers that are wrong


def not_http(asked: Asked) -> Script:
    """What comes is not HTTP."""
    return Script([Raw(b"220 mail.example ESMTP\r\n"), Cut()])


def bad_chunk(asked: Asked) -> Script:
    """A chunk's size is not a number."""
    return asked.broken(TEXT, Raw(b"zz\r\n"), Cut())


def bad_characters(asked: Asked) -> Script:
    """An event holds bytes that are not UTF-8."""
    spoiled = [
        part.replace(b'"content":"', b'"content":"\xff\xfe').replace(b'"text":"', b'"text":"\xff\xfe')
        for part in asked.right(TEXT)
    ]
    return asked.script(spoiled)


FAULTS: dict[str, Fault] = {
    one.__name__: one
    for one in (
        none, words, huge, leading_space, logprobs, reflect, extra_fields, usage_details, usage_everywhere, usage_null,
        usage_lies,
        no_usage, crlf, cr, bytewise, split_characters, packed, comments, other_fields, interim, until_close, bare_done,
        other_model, pause, hold, late, slow, silent, stall, die, reset, cut_event, unfinished, one_unfinished, no_done,
        truncated, until_eof, no_answer, half_head, not_http, bad_chunk, bad_characters, *ERRORS,
    )
}  # fmt: skip
"""Every fault by its name."""

_NAMED = re.compile(r"\bfault:([a-z_0-9]+(?: [a-z]+=\S+)*)")


def named_fault(fields: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Which fault a request asks for, and its options: the field `fault`, else `fault:NAME` in its text or model."""
    given = fields.get("fault")
    if not isinstance(given, str):
        found = _NAMED.search(_last_text(fields)) or _NAMED.search(str(fields.get("model", "")))
        given = found[1] if found else "none"
    name, *options = given.split() or ["none"]
    return name, dict(option.partition("=")[::2] for option in options)


def _last_text(fields: Mapping[str, Any]) -> str:
    messages = fields.get("messages")
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        return str(messages[-1].get("content"))
    return str(fields.get("prompt") or fields.get("input") or "")


def _changed(parts: Sequence[bytes], change: Callable[[dict[str, Any]], object]) -> list[bytes]:
    """`parts` with every JSON object in them changed in place."""
    return [_change(part, change) for part in parts]


def _change(part: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    data = part.removeprefix(b"data: ").rstrip()
    if not data.startswith(b"{"):
        return part
    one = orjson.loads(data)
    change(one)
    return event(orjson.dumps(one)) if part.startswith(b"data: ") else orjson.dumps(one)
