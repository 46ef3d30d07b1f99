"""How urgent a request is, is told to our own workers by the gateway, whatever the client sends."""

import pytest

from terascope.testing.between import MODEL, OURS, Between

pytestmark = pytest.mark.asyncio(loop_scope="module")

PRIORITY = "x-terascope-priority"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("qos", "expected"), [("urgent", "0"), ("interactive", "1"), ("batch", "2"), (None, "1")])
async def test_the_qos_is_the_priority(through: Between, *, qos: str | None, expected: str, stream: bool) -> None:
    """What a client says of its QOS is what the engine is told, and nothing else is."""
    headers = {"X-Terascope-QOS": qos} if qos else {}
    got = await through.ask(model=OURS, stream=stream, headers=headers)
    assert got.status == 200
    assert through.received(got).headers[PRIORITY] == expected


async def test_a_client_cannot_choose_its_priority(through: Between) -> None:
    """The header between gateway and worker is the gateway's alone: a project's policy says what it may ask for."""
    got = await through.ask(model=OURS, headers={"X-Terascope-Priority": "0"})
    assert through.received(got).headers[PRIORITY] == "1"
    got = await through.ask(model=MODEL, headers={"X-Terascope-Priority": "0"})
    assert PRIORITY not in through.received(got).headers


async def test_the_priority_stays_when_a_request_is_sent_again(through: Between) -> None:
    """A second try is as urgent as the first."""
    got = await through.ask("no_answer times=2", model=OURS, headers={"X-Terascope-QOS": "batch"})
    tried = [one.headers[PRIORITY] for one in through.engine.received if one.headers["x-request-id"] == got.id]
    assert tried == ["2"] * 3
