"""Whatever shape an engine gives its error, its words are found."""

import json
from typing import Any

import pytest

from terascope.core.errors import ModelNotFound
from terascope.protocol.errors import engine_error, error_body, error_in, text_of


def test_our_errors_have_openais_shape_and_the_request_id() -> None:
    body = json.loads(error_body(ModelNotFound("no model x", param="model"), "req_1"))
    assert body == {
        "error": {
            "message": "no model x",
            "type": "invalid_request_error",
            "code": "model_not_found",
            "param": "model",
            "request_id": "req_1",
        }
    }


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "m", "code": 400}}', "m"),
        (b'{"object": "error", "message": "m", "type": "BadRequestError"}', "m"),
        (b'{"detail": "m"}', "m"),
        (b'{"error": "m"}', "m"),
        (b'{"detail": [{"loc": ["body"], "msg": "bad"}]}', "bad"),
        (b'{"detail": [{"loc": ["body", "n", 0], "msg": "bad"}, {"msg": "worse"}]}', "n.0: bad; worse"),
        (b'{"detail": [{"loc": 5, "msg": 6}, {"msg": "m"}]}', "6; m"),
        (b'{"detail": ["odd"]}', '["odd"]'),
        (
            b'{"error": {"message": "{\\"error\\": {\\"message\\": \\"{\\\\\\"detail\\\\\\": \\\\\\"m\\\\\\"}\\"}}"}}',
            "m",
        ),
        (b'{"error": {"message": "{\\"a\\": 1}"}}', '{"a": 1}'),
        (b'{"error": {"message": "{ not JSON"}}', "{ not JSON"),
        (b"<html>502 Bad Gateway</html>", None),
        (b"[]", None),
        (b"", None),
    ],
)
def test_engine_errors_of_every_shape(body: bytes, message: str | None) -> None:
    assert engine_error(body).get("message") == message


def test_an_engines_error_says_no_more_than_openais() -> None:
    body = b'{"object": "error", "message": "m", "type": "t", "param": null, "code": 400}'
    assert engine_error(body) == {"message": "m", "type": "t", "param": None, "code": 400}
    assert engine_error(b'{"detail": [{"loc": ["body", "n"], "msg": "bad"}]}')["param"] == "n"


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({"error": None, "choices": []}, None),
        ({"object": "chat.completion", "message": "m"}, None),
        ({"error": "broken"}, {"message": "broken"}),
        ({"error": {"message": "m", "code": 5}}, {"message": "m", "code": 5}),
        ({"object": "error", "message": "m", "code": 5}, {"message": "m", "code": 5}),
        ({"object": "error"}, {}),
        ({"error": [1]}, {"message": "[1]"}),
    ],
)
def test_an_answer_that_is_an_error(said: dict[str, Any], error: dict[str, Any] | None) -> None:
    assert error_in(said) == error


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"Internal  Server\nError", "Internal Server Error"),
        (b"<html><head><title> 502 Bad\nGateway </title></head><body>nginx", "502 Bad Gateway"),
        (b"<h1>Bad &amp; worse</h1><script>x<y</script><p>gone", "Bad & worse gone"),
        (b"<html><title></title><b>gone", "gone"),
        (b"\xff", "\ufffd"),
        (b"x" * 9999, "x" * 500),
        (b"", ""),
    ],
)
def test_the_text_of_a_page(body: bytes, text: str) -> None:
    assert text_of(body) == text
