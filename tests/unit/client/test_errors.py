"""Whatever goes wrong becomes one of our errors, with the next step in it."""

import inspect

import httpx
import pytest

from terascope.client.errors import error_from, error_of, told
from terascope.core.errors import (
    BadRequest,
    EngineError,
    GatewayUnreachable,
    InternalError,
    ModelNotFound,
    NotAuthenticated,
    Overloaded,
    RateLimited,
    ServiceError,
    all_errors,
)
from terascope.protocol.errors import error_body

URL = "http://gateway.example"
OURS = [one for one in all_errors() if one.__module__ == ServiceError.__module__]
HTTPX = [one for one in vars(httpx).values() if inspect.isclass(one) and issubclass(one, httpx.HTTPError)]


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_an_error_comes_back_as_what_it_was(kind: type[ServiceError]) -> None:
    sent = kind("no, because", param="field")
    response = httpx.Response(sent.status, content=error_body(sent, "req_1"))
    got = error_from(response, URL)
    assert (got.code, got.status, got.type) == (sent.code, sent.status, sent.type)
    assert isinstance(got, kind)
    assert (got.message, got.param, got.request_id) == ("no, because", "field", "req_1")


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, BadRequest), (401, NotAuthenticated), (404, ServiceError), (418, BadRequest), (422, BadRequest),
     (429, RateLimited), (500, InternalError), (502, EngineError), (503, Overloaded), (599, InternalError)],
)  # fmt: skip
def test_a_code_that_only_an_engine_knows_is_kept_and_its_status_decides(status: int, kind: type[ServiceError]) -> None:
    got = error_of({"message": "odd", "code": "context_too_odd", "type": "odd_error"}, status)
    assert isinstance(got, kind)
    assert (got.code, got.status, got.type) == ("context_too_odd", status, "odd_error")


def test_an_error_without_a_message_says_what_its_kind_means() -> None:
    assert "no model of that name" in str(error_of({"code": "model_not_found"}))
    assert isinstance(error_of({"code": "model_not_found"}), ModelNotFound)


def test_retry_after_and_the_request_id_are_read_from_the_headers() -> None:
    headers = {"retry-after": "7", "x-request-id": "req_9"}
    got = error_from(httpx.Response(503, headers=headers, json={"error": {"message": "busy"}}), URL)
    assert (got.retry_after, got.request_id) == (7.0, "req_9")
    later = error_from(httpx.Response(503, headers={"retry-after": "Wed, 21 Oct"}, json={"message": "busy"}), URL)
    assert later.retry_after is None


@pytest.mark.parametrize("body", [b"", b"<html>not here</html>", b"[1]", b"\xff"])
def test_an_answer_of_something_else_is_told_as_such(body: bytes) -> None:
    got = error_from(httpx.Response(404, content=body, headers={"content-type": "text/html"}), URL)
    assert isinstance(got, GatewayUnreachable)
    assert str(got).startswith(f"what answers at {URL} is not a Terascope gateway (HTTP 404, text/html)")


@pytest.mark.parametrize("kind", HTTPX, ids=lambda kind: kind.__name__)
def test_every_failure_of_the_way_becomes_ours(kind: type[httpx.HTTPError]) -> None:
    error = kind.__new__(kind, "broken")
    Exception.__init__(error, "broken")
    with pytest.raises(GatewayUnreachable, match=URL) as caught, told(URL):
        raise error
    assert caught.value.__cause__ is error


def test_what_is_no_failure_of_the_way_passes() -> None:
    with pytest.raises(KeyboardInterrupt), told(URL):
        raise KeyboardInterrupt
