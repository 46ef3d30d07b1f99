"""Reading bodies and writing answers, message by message."""

import json
from collections.abc import Iterable
from typing import Any

import pytest

from terascope.core.errors import BodyTooLarge, EngineLost, MethodNotAllowed, NotAuthenticated, Overloaded, ServiceError
from terascope.gateway.asgi import ClientLeft, HttpReply, Receive, error_headers, header, named, read_body, replayed


def receiving(messages: Iterable[dict[str, Any]]) -> Receive:
    left = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(left)

    return receive


def parts(*bodies: bytes) -> list[dict[str, Any]]:
    last = len(bodies) - 1
    return [{"type": "http.request", "body": body, "more_body": i < last} for i, body in enumerate(bodies)]


def scope(**headers: str) -> dict[str, Any]:
    return {"headers": [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]}


class Wire:
    """What was sent."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    async def send(self, message: Any) -> None:
        self.messages.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.messages[0]["headers"])


@pytest.mark.parametrize("bodies", [(b"",), (b"whole",), (b"in ", b"", b"parts", b"")])
async def test_a_body_is_read_whole(bodies: tuple[bytes, ...]) -> None:
    assert await read_body(scope(), receiving(parts(*bodies)), most=10) == b"".join(bodies)


async def test_a_message_may_leave_out_what_is_empty() -> None:
    assert await read_body(scope(), receiving([{"type": "http.request"}]), most=10) == b""


async def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    with pytest.raises(BodyTooLarge, match="10 bytes"):
        await read_body(scope(content_length="11"), receiving([]), most=10)


async def test_a_body_that_becomes_too_large_is_read_no_further() -> None:
    messages = [*parts(b"12345", b"678901", b"never read")][:2]
    with pytest.raises(BodyTooLarge):
        await read_body(scope(content_length="ten"), receiving(messages), most=10)


async def test_a_client_that_leaves_is_known() -> None:
    with pytest.raises(ClientLeft):
        await read_body(scope(), receiving([*parts(b"a", b"b")[:1], {"type": "http.disconnect"}]), most=10)


async def test_a_replayed_body_comes_once_and_then_what_comes() -> None:
    again = replayed(b"body", receiving([{"type": "http.disconnect"}]))
    assert await again() == {"type": "http.request", "body": b"body", "more_body": False}
    assert await again() == {"type": "http.disconnect"}


def test_headers_are_found_by_name() -> None:
    assert header(scope(authorization="Bearer ü", x_other="1"), b"authorization") == "Bearer ü"
    assert header(scope(), b"authorization") == ""


async def test_named_puts_the_id_into_the_headers_alone() -> None:
    wire = Wire()
    send = named(wire.send, "req_1")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
    await send({"type": "http.response.body", "body": b"x"})
    assert wire.headers == {b"a": b"b", b"x-request-id": b"req_1"}
    assert wire.messages[1] == {"type": "http.response.body", "body": b"x"}


async def test_an_error_before_anything_went_out_is_a_whole_answer() -> None:
    wire = Wire()
    reply = HttpReply(wire.send, "req_1")
    await reply.fail(Overloaded("busy", retry_after=2.4))
    assert wire.messages[0]["status"] == 503
    assert wire.headers[b"retry-after"] == b"2"
    assert int(wire.headers[b"content-length"]) == len(wire.body)
    error = json.loads(wire.body)["error"]
    assert (error["code"], error["message"], error["request_id"]) == ("overloaded", "busy", "req_1")
    assert reply.ended


async def test_an_error_in_mid_answer_is_an_event_and_never_done() -> None:
    wire = Wire()
    reply = HttpReply(wire.send, "req_1")
    await reply.begin(200, [(b"content-type", b"text/event-stream")])
    await reply.write(b"data: {}\n\n")
    await reply.fail(EngineLost("gone"))
    assert [message["type"] for message in wire.messages].count("http.response.start") == 1
    last = wire.messages[-1]
    assert last["more_body"] is False
    assert last["body"].startswith(b"data: ")
    assert last["body"].endswith(b"\n\n")
    assert json.loads(last["body"].removeprefix(b"data: "))["error"]["code"] == "engine_lost"
    assert b"[DONE]" not in wire.body


def only_post() -> MethodNotAllowed:
    error = MethodNotAllowed("only POST")
    error.allow = "POST"
    return error


@pytest.mark.parametrize(
    ("error", "name", "value"),
    [
        (NotAuthenticated("who?"), b"www-authenticate", b"Bearer"),
        (Overloaded("busy", retry_after=0.1), b"retry-after", b"1"),
        (only_post(), b"allow", b"POST"),
        (EngineLost("gone"), b"content-type", b"application/json"),
    ],
)
def test_errors_have_their_headers(error: ServiceError, name: bytes, value: bytes) -> None:
    assert dict(error_headers(error))[name] == value
