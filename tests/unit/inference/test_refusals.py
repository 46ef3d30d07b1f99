"""What an engine's status and words become."""

from typing import Any

import pytest

from terascope.core.errors import EngineError
from terascope.inference.refusals import EngineSaidError, refusal


@pytest.mark.parametrize(
    ("status", "becomes", "code"),
    [
        (302, 502, "engine_error"),
        (400, 400, "invalid_request"),
        (402, 502, "engine_error"),
        (404, 400, "unsupported_feature"),
        (405, 400, "unsupported_feature"),
        (408, 502, "engine_error"),
        (413, 413, "body_too_large"),
        (418, 502, "engine_error"),
        (422, 422, "invalid_request"),
        (429, 429, "rate_limit_exceeded"),
        (500, 502, "engine_error"),
        (501, 400, "unsupported_feature"),
        (502, 502, "engine_error"),
        (503, 503, "overloaded"),
        (504, 502, "engine_error"),
    ],
)
def test_a_status_that_is_true_for_the_client(status: int, becomes: int, code: str) -> None:
    error = refusal(status, {"message": "words"})
    assert (error.status, error.code, error.message) == (becomes, code, "words")
    assert error.detail == f"the engine answered with status {status}", "the log gets no words"


def test_what_the_engine_calls_it_is_kept() -> None:
    said = {"message": "m", "type": "BadRequestError", "code": "string_too_long", "param": "messages.0"}
    error = refusal(400, said)
    assert (error.type, error.code, error.param) == ("BadRequestError", "string_too_long", "messages.0")


@pytest.mark.parametrize("code", [400, "400", "", None, True, "a code", "x" * 65, ["a"], "Ä", "prompt: hello"])
def test_what_is_no_code_is_not_taken_for_one(code: object) -> None:
    assert refusal(400, {"message": "m", "code": code}).code == "invalid_request"


@pytest.mark.parametrize("status", [404, 405, 501])
def test_what_an_engine_lacks_has_our_code(status: int) -> None:
    error = refusal(status, {"message": "Not Found", "type": "NotFoundError", "code": "not_found"})
    assert (error.code, error.type, error.message) == ("unsupported_feature", "invalid_request_error", "Not Found")


@pytest.mark.parametrize("status", [401, 403, 407])
def test_words_about_our_key_stay_here(status: int) -> None:
    error = refusal(status, {"message": "wrong key sk-1", "code": "invalid_api_key", "type": "authentication_error"})
    assert type(error) is EngineError
    assert (error.status, error.code, error.type) == (502, "engine_error", "server_error")
    assert "sk-1" not in error.message + error.detail


@pytest.mark.parametrize(
    "said",
    [
        {"message": "The model `m` does not exist."},
        {"message": "x", "param": "model"},
        {"message": "x", "code": "model_not_found"},
    ],
)
def test_an_engine_that_lost_its_model_has_failed(said: dict[str, Any]) -> None:
    error = refusal(404, said)
    assert (error.status, error.code) == (502, "engine_error")
    assert "`m`" not in error.message


def test_our_own_engines_say_what_happened() -> None:
    error = refusal(500, {"message": "not a number", "code": "engine_nan"})
    assert (error.status, error.code, error.type) == (500, "engine_nan", "server_error")
    assert refusal(503, {"message": "m", "code": "engine_out_of_memory"}).code == "engine_out_of_memory"
    assert refusal(400, {"message": "m", "code": "context_length_exceeded"}).status == 400


@pytest.mark.parametrize("message", ["", None, 5, {"a": 1}])
def test_without_words_the_status_is_told(message: object) -> None:
    expected = "5" if message == 5 else "the engine answered with status 500"
    assert refusal(500, {"message": message}).message == expected
    assert refusal(500, {}).message == "the engine answered with status 500"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("9" * 400, None),
        ("\u0667", None),
        ("1.5", None),
    ],
)
def test_when_to_come_back(header: str, seconds: float | None) -> None:
    error = refusal(429, {"message": "m"}, header)
    assert isinstance(error, EngineSaidError)
    assert error.retry_after == seconds
