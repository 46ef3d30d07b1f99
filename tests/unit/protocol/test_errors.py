"""Whatever shape an engine gives its error, its words are found."""

import json

import pytest

from terascope.core.errors import ModelNotFound
from terascope.protocol.errors import engine_error, error_body


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
        (b'{"detail": [{"loc": ["body"], "msg": "bad"}]}', '[{"loc":["body"],"msg":"bad"}]'),
        (b"<html>502 Bad Gateway</html>", None),
        (b"[]", None),
        (b"", None),
    ],
)
def test_engine_errors_of_every_shape(body: bytes, message: str | None) -> None:
    assert engine_error(body).get("message") == message
