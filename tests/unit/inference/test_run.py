"""What a run record says, hop by hop."""

from typing import Any

import orjson
import pytest

from terascope.access.principal import Principal
from terascope.access.scopes import OPERATOR
from terascope.core.errors import DeadlineExceeded, EngineLost, RateLimited
from terascope.core.models import Mode, ModelVersion, Task
from terascope.core.states import Outcome
from terascope.inference.run import Run
from terascope.protocol.request import ModelRequest
from terascope.testing.clock import ManualClock

VERSION = ModelVersion("m", "1", "d1gest", "path:/m", "/m", Task.GENERATE, 512)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1000.0)


@pytest.fixture
def run(clock: ManualClock) -> Run:
    return Run("req_1", "completions", Principal("key_1", "someone", frozenset({OPERATOR})), clock)


def request(**fields: Any) -> ModelRequest:
    return ModelRequest.read("completions", Mode.QUERY, orjson.dumps({"model": "m", **fields}))


def test_a_request_of_which_nothing_is_known(run: Run, clock: ManualClock) -> None:
    clock.advance(2.0)
    record = run.record()
    assert (record.id, record.endpoint, record.key_id, record.started) == ("req_1", "completions", "key_1", 1000.0)
    assert (record.outcome, record.status, record.error) == (Outcome.FAILED, 500, "internal_error")
    assert (record.model, record.digest, record.replica, record.engine, record.attempts) == ("", "", "", "", 0)
    assert (record.total_s, record.queued_s, record.first_s) == (2.0, 0.0, 0.0)


def test_what_is_asked_and_of_whom(run: Run) -> None:
    run.asked(request(stream=True, temperature=0.5, prompt="secret"))
    run.resolved(VERSION)
    record = run.record()
    assert (record.model, record.digest, record.stream) == ("m@1", "d1gest", True)
    assert record.parameters == {"temperature": 0.5}


@pytest.mark.parametrize(
    ("applied", "shown"),
    [('{"temperature": 1.0}', {"applied": {"temperature": 1.0}}), ("", {}), ("not JSON", {}), ("null", {})],
)
def test_what_the_engine_applied(run: Run, applied: str, shown: dict[str, object]) -> None:
    run.answered(applied)
    assert run.record().parameters == shown


def test_the_first_byte_counts_once(run: Run, clock: ManualClock) -> None:
    for _ in range(3):
        clock.advance(1.5)
        run.first_byte()
    assert run.record().first_s == 1.5


def test_how_it_ends(run: Run) -> None:
    run.completed()
    assert (run.record().outcome, run.record().status, run.record().error) == ("completed", 200, "")
    run.cancelled()
    assert (run.record().outcome, run.record().status, run.record().error) == ("cancelled", 499, "client_left")
    run.failed(EngineLost("gone"))
    assert (run.record().outcome, run.record().status, run.record().error) == ("failed", 502, "engine_lost")
    run.failed(RateLimited("slow"))
    assert (run.record().outcome, run.record().status, run.record().error) == ("refused", 429, "rate_limit_exceeded")
    run.failed(DeadlineExceeded("late"))
    assert (run.record().outcome, run.record().error) == ("failed", "deadline_exceeded")


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 2}, (3, 2)),
        ({"prompt_tokens": 3}, (3, 0)),
        ({}, (0, 0)),
        ({"prompt_tokens": -1, "completion_tokens": 1 << 40}, (0, 0)),
        ({"prompt_tokens": "3", "completion_tokens": None}, (0, 0)),
        ({"prompt_tokens": True, "completion_tokens": 2.5}, (0, 0)),
    ],
)
def test_tokens_as_the_engine_counts_them(run: Run, usage: dict[str, Any], tokens: tuple[int, int]) -> None:
    run.usage, run.events = usage, 7
    record = run.record()
    assert (record.prompt_tokens, record.completion_tokens) == tokens
    assert record.parameters == {}


@pytest.mark.parametrize(("said", "believed"), [(512, 512), (1024, 1024), (1025, 7), (1 << 30, 7)])
def test_an_engine_that_lies_about_usage_is_not_believed(run: Run, said: int, believed: int) -> None:
    """Two choices of at most 512 tokens each: nobody pays for a thousand millions."""
    run.asked(request(n=2))
    run.resolved(VERSION)
    run.usage, run.events = {"prompt_tokens": 3, "completion_tokens": said}, 7
    assert run.record().completion_tokens == run.output_tokens == believed
    assert run.record().parameters.get("usage", "told") == ("told" if said == believed else "estimated")


@pytest.mark.parametrize(("said", "believed"), [(512, 512), (1024, 1024), (1025, 0), (1 << 30, 0)])
def test_an_engine_that_lies_about_the_prompt_is_not_believed(run: Run, said: int, believed: int) -> None:
    run.asked(request(n=2))
    run.resolved(VERSION)
    run.usage, run.events = {"prompt_tokens": said, "completion_tokens": 2}, 7
    record = run.record()
    assert (record.prompt_tokens, record.completion_tokens) == ((said, 2) if believed else (0, 7))
    assert record.parameters.get("usage", "told") == ("told" if believed else "estimated")


def test_without_usage_events_stand_for_tokens(run: Run) -> None:
    run.events = 7
    assert (run.record().prompt_tokens, run.record().completion_tokens) == (0, 7)
    assert run.record().parameters == {"usage": "estimated"}
    run.events = 0
    assert run.record().parameters == {}


@pytest.mark.parametrize(
    ("details", "cached"),
    [
        ({"cached_tokens": 5}, 5),
        ({"cached_tokens": 0, "audio_tokens": 3}, 0),
        ({}, 0),
        (None, 0),
        ([5], 0),
        ({"cached_tokens": -1}, 0),
        ({"cached_tokens": True}, 0),
        ({"cached_tokens": 1 << 40}, 0),
    ],
)
def test_tokens_that_the_engine_had_computed_before(run: Run, details: object, cached: int) -> None:
    run.usage = {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": details}
    assert (run.record().prompt_tokens, run.record().cached_tokens) == (7, cached)


def test_without_usage_nothing_is_known_of_a_cache(run: Run) -> None:
    assert run.record().cached_tokens == 0


def test_a_salt_is_no_parameter_that_is_kept(run: Run) -> None:
    run.asked(request(cache_salt="a secret of mine", reproducible=True, seed=1))
    assert run.record().parameters == {"reproducible": True, "seed": 1}
    run.asked(request(cache_salt=12345))
    assert run.record().parameters == {}


def test_what_a_trace_has_used_is_remembered(clock: ManualClock) -> None:
    """By the day it is limited, and after a restart it must be known."""
    trace = Run("req_1", "traces", Principal("key_1", "someone", frozenset()), clock)
    trace.usage = {"prompt_tokens": 3, "gradient_tokens": 9, "captured_bytes": 1 << 40}
    assert trace.record().parameters == {"used": {"captured_bytes": 1 << 40, "gradient_tokens": 9}}
    trace.usage = {"prompt_tokens": 3, "gradient_tokens": 0, "captured_bytes": -1}
    assert trace.record().parameters == {}
