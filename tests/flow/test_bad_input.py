"""Whatever is sent, the gateway lives, and says in OpenAI's shape what was wrong."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from terascope.core.config import Config, DeploymentConfig, ServerConfig
from terascope.testing.gateway import Served, running_gateway

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "hello"}]


def assert_error(answer: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "code", "param", "request_id"}
    assert error["message"]
    assert error["request_id"] == answer.headers["x-request-id"]
    if code:
        assert error["code"] == code
    return dict(error)


def still_answers(http: httpx.Client) -> bool:
    answer = http.post(CHAT, json={"model": "echo", "messages": MESSAGES})
    return answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"] == "hello"


@pytest.mark.parametrize("key", [None, "wrong", "tera-" + "x" * 43, "ü", "a" * 10_000], ids=lambda key: str(key)[:20])
def test_no_valid_key(echo: Served, key: str | None) -> None:
    headers = [] if key is None else [(b"authorization", f"Bearer {key}".encode())]
    for path in (CHAT, "/v1/models", "/admin/v1/keys"):
        method = "POST" if path == CHAT else "GET"
        answer = httpx.request(method, echo.url + path, headers=headers, content=b"{}")
        assert_error(answer, 401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"1", b'"text"', b"{", b'{"model": }', b"\xff\xfe\x00", b'{"model": "echo", "x": NaN}',
        b'{"a":' * 5000 + b"1" + b"}" * 5000, b"[" * 100_000,
        b'{"model":"echo","messages":[{"role":"user","content":"\xc3\x28"}]}',
        b'{"model":"echo","messages":[{"role":"user","content":"\\ud800"}]}',
    ],
    ids=lambda body: repr(body[:20]),
)  # fmt: skip
def test_bodies_that_are_not_requests(http: httpx.Client, body: bytes) -> None:
    assert_error(http.post(CHAT, content=body, headers={"content-type": "application/json"}), 400)
    assert still_answers(http)


@pytest.mark.parametrize(
    "fields",
    [
        {"model": None}, {"model": 7}, {"model": ""}, {"model": ["echo"]}, {"model": "e" * 100_000}, {"model": "a b"},
        {"messages": None}, {"messages": []}, {"messages": "hello"}, {"messages": [1]}, {"messages": [{}]},
        {"messages": [{"role": "wizard", "content": 5}]},
        {"max_tokens": -1}, {"max_tokens": 10**30}, {"max_tokens": "5"}, {"max_tokens": 1.5},
        {"n": 0}, {"n": -5}, {"n": 10**9}, {"temperature": -1}, {"temperature": 1e308}, {"temperature": "hot"},
        {"top_p": 7}, {"stop": [1]}, {"stop": ["x"] * 1000}, {"logit_bias": {"a": "b"}}, {"logprobs": "yes"},
        {"stream": "true"}, {"stream_options": []}, {"seed": 10**40}, {"top_logprobs": 10**6, "logprobs": True},
    ],
    ids=lambda fields: str(fields)[:60],
)  # fmt: skip
def test_fields_with_impossible_values(http: httpx.Client, fields: dict[str, Any]) -> None:
    answer = http.post(CHAT, json={"model": "echo", "messages": MESSAGES} | fields)
    assert answer.status_code in (400, 404)
    assert_error(answer, answer.status_code)
    assert still_answers(http)


def test_of_duplicate_fields_the_last_counts(http: httpx.Client) -> None:
    body = b'{"model":"none","model":"echo","messages":[{"role":"user","content":"a"}]}'
    assert http.post(CHAT, content=body).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "multipart/form-data; boundary=x", ""])
def test_the_content_type_does_not_matter(http: httpx.Client, kind: str) -> None:
    body = json.dumps({"model": "echo", "messages": MESSAGES}).encode()
    assert http.post(CHAT, content=body, headers={"content-type": kind}).status_code == 200


def test_unknown_model_paths_and_methods(http: httpx.Client) -> None:
    error = assert_error(http.post(CHAT, json={"model": "ecko", "messages": MESSAGES}), 404, "model_not_found")
    assert "echo" in error["message"]
    assert_error(http.get("/v1/nothing"), 404, "not_found")
    assert_error(http.get(CHAT), 405, "method_not_allowed")
    assert_error(http.delete("/v1/models"), 405)
    assert_error(http.post(CHAT + "/"), 404)


def test_a_body_of_100_mb_is_refused_and_forgotten(echo: Served) -> None:
    def sent() -> Any:
        for _ in range(100):
            yield b"x" * 1_000_000

    with httpx.Client(base_url=echo.url, headers=echo.headers, timeout=60) as client:
        assert_error(client.post(CHAT, content=b"x" * 100_000_000), 413, "body_too_large")
    with httpx.Client(base_url=echo.url, headers=echo.headers, timeout=60) as client:
        assert_error(client.post(CHAT, content=sent()), 413, "body_too_large")
        assert still_answers(client)


def test_ten_thousand_messages(http: httpx.Client) -> None:
    messages = [{"role": "user", "content": f"message {number}"} for number in range(10_000)]
    answer = http.post(CHAT, json={"model": "echo", "messages": messages})
    assert answer.json()["choices"][0]["message"]["content"] == "message 9999"


@pytest.mark.parametrize("deadline", ["soon", "-1", "0", "nan", "inf", "1e99"])
def test_bad_deadlines(http: httpx.Client, deadline: str) -> None:
    headers = {"x-terascope-deadline": deadline}
    answer = http.post(CHAT, json={"model": "echo", "messages": MESSAGES}, headers=headers)
    assert_error(answer, 400)


@pytest.mark.parametrize("sharing", ["", "everybody", "ALL", "own,all", "1"])
def test_bad_wishes_to_share(http: httpx.Client, sharing: str) -> None:
    headers = {"x-terascope-prefix-sharing": sharing}
    answer = http.post(CHAT, json={"model": "echo", "messages": MESSAGES}, headers=headers)
    error = assert_error(answer, 400)
    assert (error["param"], "`own` or `all`" in error["message"]) == ("X-Terascope-Prefix-Sharing", True)


def test_bad_salts(http: httpx.Client) -> None:
    for salt in ("", "x" * 257, 5):
        answer = http.post(CHAT, json={"model": "echo", "messages": MESSAGES, "cache_salt": salt})
        assert assert_error(answer, 400)["param"] == "cache_salt"


@pytest.mark.parametrize(
    "raw", [b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00"]
)
def test_what_is_not_http_gets_an_answer_in_shape(echo: Served, raw: bytes) -> None:
    answer = _raw(echo, raw)
    assert b'"error"' in answer
    assert b" 400 " in answer.split(b"\r\n")[0]


def test_headers_without_end_are_cut_off(echo: Served) -> None:
    answer = _raw(echo, b"GET /health HTTP/1.1\r\n" + b"x-filler: " + b"y" * 200_000)
    assert b" 431 " in answer.split(b"\r\n")[0]


def test_slow_clients_are_cut_off_and_others_are_served() -> None:
    config = Config(
        server=ServerConfig(request_timeout_s=1.0),
        deployments=[DeploymentConfig(model="echo", engine="echo", launcher="inprocess")],
    )
    with running_gateway(config) as served, ThreadPoolExecutor(40) as pool:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {served.key}\r\n".encode()
        never_ending_headers = [pool.submit(_raw, served, head) for _ in range(10)]
        never_ending_bodies = [pool.submit(_raw, served, head + b"content-length: 99\r\n\r\n{") for _ in range(10)]
        silent = [pool.submit(_raw, served, b"") for _ in range(10)]
        with httpx.Client(base_url=served.url, headers=served.headers) as client:
            assert all(still_answers(client) for _ in range(20))
        for slow in never_ending_headers + never_ending_bodies + silent:
            assert b" 408 " in slow.result().split(b"\r\n")[0]


def _raw(served: Served, data: bytes) -> bytes:
    """Send `data` and nothing more; return all that comes until the gateway closes."""
    port = int(served.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        received = b""
        try:
            connection.sendall(data)
            while part := connection.recv(65536):
                received += part
        except ConnectionError:
            pass  # the gateway closed while we were still sending
        return received


def test_clients_that_leave_in_mid_stream(echo: Served, http: httpx.Client) -> None:
    body = {"model": "echo", "messages": [{"role": "user", "content": "word " * 20_000}], "stream": True}
    for _ in range(20):
        with http.stream("POST", CHAT, json=body) as answer:
            next(answer.iter_bytes())
            request_id = answer.headers["x-request-id"]
    assert still_answers(http)
    record = http.get(f"/admin/v1/runs/{request_id}").json()
    assert record["outcome"] in ("cancelled", "completed")
