"""Who may share computed prefixes with whom is told to our own workers, and to nobody else."""

from typing import Any

import pytest

from terascope.testing.between import MODEL, OURS, Between, Got

pytestmark = pytest.mark.asyncio(loop_scope="module")

ENDPOINTS = ("chat/completions", "completions", "embeddings")
SCOPE = "x-terascope-scope"
ALL = {"X-Terascope-Prefix-Sharing": "all"}


async def _key(through: Between) -> tuple[str, dict[str, str]]:
    """A new key: its id, and the header that it is sent in."""
    made = (await through.http.post("/admin/v1/keys", json={"name": "a", "scopes": ["query", "embed"]})).json()
    return made["id"], {"Authorization": f"Bearer {made['key']}"}


async def _scope(through: Between, **asked: Any) -> str | None:
    """The scope that the engine was told."""
    got = await through.ask(**{"model": OURS, **asked})
    assert got.status == 200, got
    return through.received(got).headers.get(SCOPE)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_every_key_has_a_scope_of_its_own(through: Between, endpoint: str) -> None:
    """Whoever asks with another key must not see, by time or by usage, what was asked before."""
    (one, hers), (other, his) = await _key(through), await _key(through)
    asked = {"endpoint": endpoint, "stream": endpoint != "embeddings"}
    for sharing in ({}, {"X-Terascope-Prefix-Sharing": "own"}):
        assert await _scope(through, **asked, headers=hers | sharing) == one
        assert await _scope(through, **asked, headers=his | sharing) == other
    assert one != other


@pytest.mark.parametrize("stream", [True, False])
async def test_those_who_share_with_all_are_in_one_scope(through: Between, stream: bool) -> None:
    """The empty scope is for those who said so; saying it once says nothing of the next request."""
    for _ in range(2):
        name, key = await _key(through)
        assert await _scope(through, stream=stream, headers=key | ALL) == ""
        assert await _scope(through, stream=stream, headers=key) == name


async def test_a_stranger_is_not_told_who_asks(through: Between) -> None:
    """A remote server may be anybody's."""
    for headers in ({}, ALL):
        for stream in (True, False):
            got = await through.ask(model=MODEL, stream=stream, headers=headers)
            assert [name for name in through.received(got).headers if name.startswith("x-terascope")] == []


async def test_a_client_cannot_choose_its_scope(through: Between) -> None:
    """The header between gateway and worker is the gateway's alone."""
    name, key = await _key(through)
    assert await _scope(through, headers=key | {"X-Terascope-Scope": "key_of_somebody_else"}) == name
    got = await through.ask(model=MODEL, headers={"X-Terascope-Scope": "key_of_somebody_else"})
    assert SCOPE not in through.received(got).headers


async def test_the_scope_stays_when_a_request_is_sent_again(through: Between) -> None:
    """A second attempt is the same request."""
    got = await through.ask("no_answer times=2", model=OURS, headers=ALL)
    tried = [one.headers[SCOPE] for one in through.engine.received if one.headers["x-request-id"] == got.id]
    assert got.status == 200
    assert tried == [""] * 3


@pytest.mark.parametrize("sharing", ["", "everybody", "ALL", "own, all"])
async def test_a_wish_that_is_not_understood_is_refused(through: Between, sharing: str) -> None:
    """Neither of the two is taken for granted."""
    before = len(through.engine.received)
    got = await through.ask(model=OURS, headers={"X-Terascope-Prefix-Sharing": sharing})
    assert (got.status, got.error["param"]) == (400, "X-Terascope-Prefix-Sharing")
    assert "`own` or `all`" in got.error["message"]
    assert len(through.engine.received) == before
    assert (await through.record(got))["outcome"] == "refused"


@pytest.mark.parametrize("model", [MODEL, OURS])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_salt_arrives_and_is_not_kept(through: Between, model: str, stream: bool) -> None:
    """It is the engine's to use; who knows it can find out what was asked with it."""
    got = await through.ask(model=model, stream=stream, cache_salt="a private salt")
    assert through.received(got).fields["cache_salt"] == "a private salt"
    assert "salt" not in str(await through.record(got))


@pytest.mark.parametrize("stream", [True, False])
async def test_reproducible_arrives_and_is_kept(through: Between, stream: bool) -> None:
    """An engine that can do it is asked for it."""
    for wish in (True, False):
        got = await through.ask(model=OURS, stream=stream, reproducible=wish)
        assert through.received(got).fields["reproducible"] is wish
        assert (await through.record(got))["parameters"] == {"reproducible": wish}


async def test_reproducible_is_refused_where_it_would_be_ignored(through: Between) -> None:
    """An answer that only looks reproducible is worse than none."""
    got = await through.ask(model=MODEL, reproducible=True)
    assert (got.status, got.error["code"]) == (400, "unsupported_feature")
    assert "reproducible" in got.error["message"]
    assert (await through.ask(model=MODEL, reproducible=False)).status == 200


async def _cached(through: Between, got: Got) -> int:
    return int((await through.record(got))["cached_tokens"])


@pytest.mark.parametrize("stream", [True, False])
async def test_what_was_cached_is_recorded(through: Between, stream: bool) -> None:
    """The record says how much of the prompt the engine did not have to compute."""
    assert await _cached(through, await through.ask("usage_details", model=OURS, stream=stream)) == 5
    assert await _cached(through, await through.ask(model=OURS, stream=stream)) == 0
