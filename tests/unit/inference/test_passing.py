"""One answer from an engine to a reply: what goes out when, and what is held back."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest

from terascope.access.principal import Principal
from terascope.core.clock import SystemClock
from terascope.core.config import DeploymentConfig, ServerConfig
from terascope.core.errors import EngineError, EngineLost, ServiceError, UnsupportedFeature
from terascope.core.models import Mode, ModelVersion, Task
from terascope.core.states import ReplicaStatus
from terascope.engines.contract import Launch
from terascope.engines.upstream import HttpEngine
from terascope.fleet.replica import Replica
from terascope.inference.passing import Ending, Passing
from terascope.inference.patience import Patience
from terascope.inference.run import Run
from terascope.protocol.request import ModelRequest
from terascope.protocol.sse import DONE
from terascope.store.replicas import ReplicaRow
from terascope.testing.faults import FaultEngine, faulty
from terascope.testing.replies import KeptReply
from terascope.testing.scripts import TEXT

VERSION = ModelVersion("m", "1", "digest", "remote:x", "", Task.GENERATE, 0)
LAUNCH = Launch(DeploymentConfig(model="m", engine="remote", served_name="served"), VERSION)
ROW = ReplicaRow(
    id="replica_1", deployment="m", model="m@1", engine="remote", launcher="inprocess", status=ReplicaStatus.READY
)


@dataclass
class Passed:
    """Passes requests from one engine to replies."""

    engine: FaultEngine
    replica: Replica
    reply: KeptReply = field(default_factory=KeptReply)
    run: Run = field(
        default_factory=lambda: Run(
            "req_1", "chat/completions", Principal("key_1", "someone", frozenset()), SystemClock()
        )
    )

    def passing(self, fault: str, *, stream: bool = True, endpoint: str = "chat/completions", **more: Any) -> Passing:
        fields = {"model": "m", "fault": fault, "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
        request = ModelRequest.read(endpoint, Mode.QUERY, orjson.dumps(fields | more))
        return Passing(self.run, request, VERSION, self.reply, scope="key_1")

    async def generate(self, passing: Passing) -> Ending:
        async with Patience(ServerConfig(), deadline_s=None, beat=passing.beat) as patience:
            return await passing.generate(self.replica, patience)

    async def go(self, fault: str, **asked: Any) -> Ending:
        return await self.generate(self.passing(fault, **asked))


@pytest.fixture
async def passed() -> AsyncIterator[Passed]:
    async with faulty() as served:
        engine = HttpEngine(served.endpoint)
        yield Passed(served.engine, Replica(ROW, LAUNCH, served.endpoint, engine))
        await engine.aclose()


async def test_a_stream_goes_out_but_for_its_end(passed: Passed) -> None:
    ending = await passed.go("none")
    assert ending == Ending(DONE)
    assert (passed.reply.status, passed.reply.ended) == (200, False)
    assert DONE not in passed.reply.body
    assert passed.reply.headers == {
        "content-type": "text/event-stream; charset=utf-8",
        "x-terascope-model": "m@1",
        "cache-control": "no-cache",
        "x-accel-buffering": "no",
    }


async def test_a_whole_answer_does_not_go_out_at_all(passed: Passed) -> None:
    ending = await passed.go("none", stream=False)
    assert passed.reply.begun is False
    assert orjson.loads(ending.data)["model"] == "m@1"
    assert ending.head == [
        (b"content-type", b"application/json"),
        (b"x-terascope-model", b"m@1"),
        (b"content-length", str(len(ending.data)).encode()),
    ]


async def test_the_engine_is_asked_by_its_own_name_for_the_model(passed: Passed) -> None:
    await passed.go("none", temperature=0)
    [received] = passed.engine.received
    assert received.headers["x-request-id"] == "req_1"
    assert received.fields["model"] == "served"
    assert (passed.run.attempts, passed.run.record().replica) == (1, "replica_1")


@pytest.mark.parametrize("stream", [True, False])
async def test_usage_is_noted(passed: Passed, stream: bool) -> None:
    await passed.go("usage_details", stream=stream)
    assert passed.run.usage is not None
    assert passed.run.usage["prompt_tokens_details"] == {"cached_tokens": 5}


async def test_what_came_before_a_loss_is_noted(passed: Passed) -> None:
    passing = passed.passing("die after=5")
    with pytest.raises(EngineLost):
        await passed.generate(passing)
    assert passing.answer_began
    assert (passed.run.usage, passed.run.events) == (None, 5)
    assert passed.run.record().first_s > 0


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("json_for_stream", UnsupportedFeature),
        ("redirect", ServiceError),
        ("failed", ServiceError),
        ("html", ServiceError),
    ],
)
async def test_what_is_no_answer_sends_nothing(passed: Passed, fault: str, error: type[ServiceError]) -> None:
    passing = passed.passing(fault)
    with pytest.raises(error):
        await passed.generate(passing)
    assert (passing.answer_began, passed.reply.begun) == (False, False)


@pytest.mark.parametrize("fault", ["not_json", "error_as_200", "redirect", "truncated"])
async def test_a_body_that_is_no_answer_is_not_one(passed: Passed, fault: str) -> None:
    with pytest.raises(ServiceError) as caught:
        await passed.go(fault, stream=False)
    assert caught.value.status == EngineError.status


async def test_heartbeats_begin_a_stream_once(passed: Passed) -> None:
    passing = passed.passing("none")
    assert passing.beat is not None
    await passing.beat()
    await passing.beat()
    assert passed.reply.parts == [b": waiting\n\n"] * 2
    assert passed.reply.headers["content-type"].startswith("text/event-stream")
    assert not passing.answer_began
    ending = await passed.generate(passing)
    assert ending == Ending(DONE)
    assert passed.reply.body.startswith(b": waiting\n\n: waiting\n\ndata: ")


async def test_a_whole_answer_has_no_heartbeats(passed: Passed) -> None:
    assert passed.passing("none", stream=False).beat is None
    assert passed.passing("none", endpoint="tokenize").beat is None


async def test_the_engine_is_left_when_the_reply_fails(passed: Passed) -> None:
    class Broken(KeptReply):
        async def write(self, data: bytes) -> None:
            raise ConnectionResetError

    passed.reply = Broken()
    with pytest.raises(ConnectionResetError):
        await passed.go("stall")
    await passed.engine.until(lambda engine: (engine.running, engine.left) == (0, 1))


async def test_an_error_body_without_end_is_read_only_so_far(passed: Passed) -> None:
    with pytest.raises(ServiceError) as caught:
        await passed.go("long_error")
    assert len(caught.value.message) <= 500


async def test_a_served_name_that_is_public_changes_nothing(passed: Passed) -> None:
    same = replace(LAUNCH, deployment=replace(LAUNCH.deployment, served_name="m@1"))
    passed.replica.launch = same
    ending = await passed.go("none", stream=False)
    assert ending.data == b"".join(passed.engine.received[0].sent)
    assert TEXT not in str(passed.run.record())
