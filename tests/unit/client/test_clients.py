"""Both clients against a real gateway, and against things that are none."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from terascope.client import AsyncClient, Client
from terascope.client.clients import checked_url
from terascope.core.errors import (
    BadRequest,
    ConfigError,
    EngineLost,
    GatewayUnreachable,
    ModelNotFound,
    NotAuthenticated,
    NotFound,
)
from terascope.core.urls import is_loopback
from terascope.testing.gateway import Served

QUESTION = [{"role": "user", "content": "one two three four"}]
OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


def test_the_nouns_of_a_gateway(gateway: Served, tmp_path: Path) -> None:
    with Client(gateway.url, gateway.key) as client:
        assert client.health().status == "ok"
        assert client.ready().deployments == {"echo": "ready", "slow": "ready"}
        assert {card.id for card in client.models.list().data} >= {"echo", "slow"}
        pinned = client.catalog.get("echo")
        assert client.models.get(f"echo@{pinned.version}").digest == pinned.digest
        assert pinned in client.catalog.list().data
        assert client.catalog.alias("lab/parrot", "echo").aliases == ["lab/parrot"]
        assert client.models.get("lab/parrot").version == pinned.version
        client.catalog.unalias("lab/parrot")
        with pytest.raises(ModelNotFound):
            client.models.get("lab/parrot")
        with pytest.raises(BadRequest, match="no directory"):
            client.catalog.add("none", f"path:{tmp_path / 'none'}", version="1", aliases=["nil"])
        with pytest.raises(ModelNotFound):
            client.catalog.remove("none@1")


def test_keys_and_runs(gateway: Served) -> None:
    with Client(gateway.url, gateway.key) as client:
        made = client.keys.create("a visitor", ["query"], expires=time.time() + 60)
        assert made.id in {key.id for key in client.keys.list().data}
        assert set(client.keys.create("another").scopes) == {"query", "embed"}
        with Client(gateway.url, made.key) as visitor:
            with visitor.chat("echo", QUESTION) as stream:
                list(stream)
            (run,) = visitor.runs.list().data
            assert (run.id, run.key_id, run.outcome) == (stream.request_id, made.id, "completed")
            assert client.runs.get(run.id) == run
            assert client.runs.list(key=made.id, model=stream.model, limit=1).data == [run]
            assert client.runs.list(key=made.id, before=run.id).data == []
            assert client.keys.revoke(made.id).revoked is not None
            with pytest.raises(NotAuthenticated, match="revoked"):
                visitor.runs.list()
        with pytest.raises(NotFound):
            client.keys.revoke("key_of/nobody")


def test_a_chat_comes_piece_by_piece(gateway: Served) -> None:
    with Client(gateway.url, gateway.key) as client:
        with client.chat("echo", QUESTION, temperature=0, max_tokens=3) as stream:
            assert list(stream) == ["one", " two", " three"]
        assert (stream.text, stream.finish_reason) == ("one two three", "length")
        assert stream.usage is not None
        assert stream.usage["completion_tokens"] == 3
        assert stream.model.startswith("echo@")
        with pytest.raises(ModelNotFound) as caught, client.chat("none", QUESTION):
            pass
        assert caught.value.request_id.startswith("req_")


def test_leaving_a_chat_cancels_it(gateway: Served) -> None:
    with Client(gateway.url, gateway.key) as client:
        with client.chat("slow", [{"role": "user", "content": "word " * 1000}]) as stream:
            assert next(iter(stream)) == "word"
        assert _outcome(client, stream.request_id) == "cancelled"


def _outcome(client: Client, run_id: str) -> str:
    """The outcome of a run whose record is written a moment after the client left; over HTTP nothing tells when."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            return client.runs.get(run_id).outcome
        except NotFound:
            time.sleep(0.01)
    raise AssertionError(f"no record of {run_id}")


async def test_the_client_that_is_awaited(gateway: Served) -> None:
    async with AsyncClient(gateway.url, gateway.key) as client:
        assert (await client.health()).status == "ok"
        assert {card.id for card in (await client.models.list()).data} >= {"echo"}
        async with client.chat("echo", QUESTION) as stream:
            assert [piece async for piece in stream] == ["one", " two", " three", " four"]
        assert (await client.runs.get(stream.request_id)).outcome == "completed"
        with pytest.raises(ModelNotFound):
            await client.catalog.get("none")
        with pytest.raises(ModelNotFound):
            async with client.chat("none", QUESTION):
                pass


async def test_nobody_there() -> None:
    with Client("http://127.0.0.1:9", "key") as client:
        with pytest.raises(GatewayUnreachable, match=r"127\.0\.0\.1:9 .*terascope serve"):
            client.models.list()
        with pytest.raises(GatewayUnreachable), client.chat("echo", QUESTION):
            pass
    async with AsyncClient("http://127.0.0.1:9", "key") as other:
        with pytest.raises(GatewayUnreachable):
            await other.models.list()


def test_a_gateway_that_is_still_starting_is_no_error(answering: Callable[[bytes], str]) -> None:
    body = b'{"status": "starting", "deployments": {"big": "starting"}}'
    url = answering(b"HTTP/1.1 503 Busy\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    with Client(url) as client:
        assert client.ready().deployments == {"big": "starting"}


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        b'HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{"data": 1}',
        b"HTTP/1.1 503 Busy\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"",
    ],
)
def test_something_else_there(answering: Callable[[bytes], str], answer: bytes) -> None:
    url = answering(answer)
    with Client(url, "key") as client, pytest.raises(GatewayUnreachable, match=url):
        client.ready()


def test_an_answer_that_is_cut_off(answering: Callable[[bytes], str]) -> None:
    event = b'data: {"choices": [{"index": 0, "delta": {"content": "Once"}}]}\n\n'
    with Client(answering(OK + b"content-length: 1000\r\n\r\n" + event), "key") as client:
        with client.chat("echo", QUESTION) as stream, pytest.raises(GatewayUnreachable, match="broke in mid-answer"):
            list(stream)
        assert stream.text == "Once"
    with Client(answering(OK + b"\r\n" + event), "key") as client:
        with client.chat("echo", QUESTION) as stream, pytest.raises(GatewayUnreachable, match="broke off"):
            list(stream)
        assert stream.text == "Once"


async def test_an_answer_that_ends_in_an_error(answering: Callable[[bytes], str]) -> None:
    answer = OK + b'\r\ndata: {"error": {"message": "it died", "code": "engine_lost"}}\n\n'
    with (
        Client(answering(answer), "key") as client,
        client.chat("echo", QUESTION) as stream,
        pytest.raises(EngineLost, match="it died"),
    ):
        list(stream)
    async with AsyncClient(answering(answer), "key") as other, other.chat("echo", QUESTION) as later:
        with pytest.raises(EngineLost, match="it died"):
            _ = [piece async for piece in later]


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://gateway", "http://", "gateway", "http://[::1"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ConfigError, match="is not a gateway's URL"):
        Client(url)


@pytest.mark.parametrize("given", ["http://g:1", "http://g:1/", "http://g:1/v1", "http://g:1/v1/"])
def test_a_url_may_be_that_of_openai_clients(given: str) -> None:
    assert checked_url(given) == "http://g:1"


def test_a_gateway_may_live_below_a_path(answering: Callable[[bytes], str]) -> None:
    with Client(answering(b"HTTP/1.1 204 No\r\n\r\n") + "/terascope/v1/", "key") as client:
        assert client.url.endswith("/terascope")
        client.catalog.unalias("a/b@c")


@pytest.mark.parametrize("key", ["schlüssel", "two\nlines"])
def test_what_is_no_key(key: str) -> None:
    with pytest.raises(ConfigError, match="copy it again"):
        Client("http://127.0.0.1:9", key)


def test_the_environment_says_which_gateway(set_environment: Callable[[str, str], None], gateway: Served) -> None:
    set_environment("TERASCOPE_URL", gateway.url)
    set_environment("TERASCOPE_API_KEY", f" {gateway.key}\n")
    with Client() as client:
        assert client.models.get("echo").id == "echo"


def test_a_proxy_is_not_asked_for_this_machine(set_environment: Callable[[str, str], None], gateway: Served) -> None:
    set_environment("HTTP_PROXY", "http://127.0.0.1:9")
    with Client(gateway.url) as client:
        assert client.health().status == "ok"
    assert [is_loopback(f"http://{host}:1") for host in ("localhost", "127.1.2.3", "[::1]", "10.0.0.1", "a.b")] == [
        True, True, True, False, False,
    ]  # fmt: skip


def test_every_call_says_what_it_does() -> None:
    with Client("http://127.0.0.1:9") as client:
        for noun in (client, client.models, client.catalog, client.keys, client.runs, client.service_accounts):
            names = [name for name in dir(noun) if not name.startswith("_") and callable(getattr(noun, name))]
            assert names
            assert [name for name in names if not getattr(noun, name).__doc__] == []


def test_words_of_a_model(gateway: Served) -> None:
    with Client(gateway.url, gateway.key) as client:
        tokens = client.words.tokens("echo", "one two").tokens
        found = client.words.texts("echo", tokens)
    assert found.prompt == "one two"
    assert "".join(found.pieces or ()) == "one two"
