"""Every error has OpenAI's shape, the engine's words where they are for the client, and a status that is true."""

import pytest

from terascope.testing.between import Between

pytestmark = pytest.mark.asyncio(loop_scope="module")

ENDPOINTS = ("chat/completions", "completions", "embeddings")
SHAPES = [
    ("html", 502, "engine_error", "502 Bad Gateway"),
    ("detail", 422, "invalid_request", "temperature: Input should be a valid number"),
    ("detail_text", 400, "invalid_request", "There is no such template"),
    ("plain_error", 502, "engine_error", "Internal Server Error"),
    ("old_error", 400, "invalid_request", "max_tokens is too large"),
    ("empty_error", 503, "overloaded", "503"),
    ("wrapped_error", 400, "invalid_request", "the prompt is too long"),
    ("failed", 502, "engine_error", "the engine ran out of memory"),
    ("failed status=418", 502, "engine_error", "the engine ran out of memory"),
    ("failed status=501", 400, "unsupported_feature", "the engine ran out of memory"),
]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("fault", "status", "code", "words"), SHAPES)
async def test_errors_have_openais_shape(
    through: Between, fault: str, status: int, code: str, words: str, stream: bool
) -> None:
    """SwissAI serving-api #76, fixed in #82: error bodies were not OpenAI's, so clients could not read them."""
    got = await through.ask(fault, stream=stream)
    assert (got.status, got.error["code"]) == (status, code)
    assert words in got.error["message"]
    assert got.headers["content-type"] == "application/json"
    record = await through.record(got)
    assert record["outcome"] == ("refused" if status < 500 else "failed")
    assert (record["status"], record["error"]) == (status, code)


async def test_an_error_is_not_wrapped_twice(through: Between) -> None:
    """AIBrix #2594: errors were wrapped twice."""
    got = await through.ask("wrapped_error", stream=False)
    assert got.error["message"] == "the prompt is too long"
    assert got.error["type"] == "invalid_request_error"


async def test_the_field_that_is_wrong_is_named(through: Between) -> None:
    """FastAPI's `detail` says where: that becomes `param`, as OpenAI's clients know it."""
    assert (await through.ask("detail", stream=False)).error["param"] == "temperature"


@pytest.mark.parametrize(("fault", "status", "after"), [("limited", 429, "7"), ("overloaded", 503, "11")])
@pytest.mark.parametrize("stream", [True, False])
async def test_when_to_come_back_is_passed_on(
    through: Between, fault: str, status: int, after: str, stream: bool
) -> None:
    """SAIA says `Please try again in a few minutes`, which only people can read; clients go by `Retry-After`."""
    got = await through.ask(fault, stream=stream)
    assert (got.status, got.headers["retry-after"]) == (status, after)
    assert got.error["code"] == {429: "rate_limit_exceeded", 503: "overloaded"}[status]


@pytest.mark.parametrize("status", [401, 403, 407])
async def test_the_engines_refusal_of_our_key_is_not_the_clients(through: Between, status: int) -> None:
    """A 401 of the engine looks as if the client's key were wrong, and its words quote the gateway's key."""
    got = await through.ask(f"key_refused status={status}", stream=False)
    assert (got.status, got.error["code"], got.error["type"]) == (502, "engine_error", "server_error")
    assert "sk-" not in got.body.decode()
    assert "www-authenticate" not in got.headers


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_an_engine_without_the_model_is_not_a_404(through: Between, endpoint: str) -> None:
    """The client asked for a model that is there: that its engine has lost it is not the client's mistake."""
    got = await through.ask("not_served", stream=False, endpoint=endpoint)
    assert (got.status, got.error["code"], got.error["type"]) == (502, "engine_error", "server_error")


async def test_what_an_engine_does_not_have_is_not_a_404(through: Between) -> None:
    """An endpoint that the engine lacks is told as such; 404 would say that there is no such path or model here."""
    answer = await through.http.post("/tokenize", json={"model": "m", "fault": "failed status=404"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (400, "unsupported_feature", "invalid_request_error")


@pytest.mark.parametrize("fault", ["not_json", "redirect", "error_as_200", "bad_characters"])
async def test_what_is_no_answer_is_not_a_200(through: Between, fault: str) -> None:
    """A body that is an error, or no JSON, or a redirect, must not look like an answer."""
    got = await through.ask(fault, stream=False)
    assert (got.status, got.error["code"]) == (502, "engine_error")
    assert (await through.record(got))["outcome"] == "failed"


async def test_a_whole_answer_to_a_stream_is_told(through: Between, impatient: Between) -> None:
    """An engine that ignores `stream`: official clients find no event in its JSON and report an empty answer."""
    for gateway in (through, impatient):  # the second has sent heartbeats before the answer comes
        got = await gateway.ask("json_for_stream seconds=0.3")
        assert got.error["code"] == "unsupported_feature"
        assert got.error["param"] == "stream"
        assert (await gateway.record(got))["outcome"] == "refused"


async def test_an_unknown_model_is_told_by_its_name(through: Between) -> None:
    """The gateway's own errors have the same shape."""
    got = await through.ask(model="nobody-has-this")
    assert (got.status, got.error["code"], got.error["param"]) == (404, "model_not_found", "model")
