"""The run record says what happened, and is there before the answer's last byte."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from terascope.testing.between import MODEL, Between
from terascope.testing.gateway import Served

pytestmark = pytest.mark.asyncio(loop_scope="module")

COMPLETED = ("completed", 200, "")
TOLD = [
    ("none", True, {}, COMPLETED, (2, 2)),
    ("none", False, {}, COMPLETED, (2, 2)),
    ("none", False, {"endpoint": "completions"}, COMPLETED, (2, 2)),
    ("none", False, {"endpoint": "embeddings"}, COMPLETED, (2, 0)),
    ("none", True, {"n": 3}, COMPLETED, (2, 6)),
    ("packed", True, {}, COMPLETED, (12, 12)),
    ("until_close", True, {}, COMPLETED, (12, 12)),
    ("no_done", True, {}, COMPLETED, (12, 12)),
    ("bare_done", True, {}, COMPLETED, (12, 12)),
    ("die after=4", True, {}, ("failed", 502, "engine_lost"), (0, 4)),
    ("error_event after=4", True, {}, ("failed", 502, "engine_error"), (0, 4)),
    ("unfinished after=4", True, {}, ("failed", 502, "engine_lost"), (0, 4)),
    ("no_answer", True, {}, ("failed", 502, "engine_unreachable"), (0, 0)),
    ("not_http", False, {}, ("failed", 502, "engine_error"), (0, 0)),
    ("not_json", False, {}, ("failed", 502, "engine_error"), (0, 0)),
    ("failed", False, {}, ("failed", 502, "engine_error"), (0, 0)),
    ("overloaded", False, {}, ("failed", 503, "overloaded"), (0, 0)),
    ("detail", True, {}, ("refused", 422, "invalid_request"), (0, 0)),
    ("limited", False, {}, ("refused", 429, "rate_limit_exceeded"), (0, 0)),
    ("none", False, {"model": "nobody-has-this"}, ("refused", 404, "model_not_found"), (0, 0)),
    ("none", False, {"stream_options": 3}, ("refused", 400, "invalid_request"), (0, 0)),
]


@pytest.mark.parametrize(("fault", "stream", "more", "ended", "tokens"), TOLD)
async def test_the_record_says_how_it_ended(
    through: Between,
    fault: str,
    stream: bool,
    more: dict[str, Any],
    ended: tuple[str, int, str],
    tokens: tuple[int, int],
) -> None:
    """SwissAI lost usage when a pod restarted; FIRST PR #247: writes of its log were torn."""
    got = await through.ask(fault, stream=stream, **more)
    record = await through.record(got)
    assert (record["outcome"], record["status"], record["error"]) == ended
    assert (record["prompt_tokens"], record["completion_tokens"]) == tokens
    assert record["id"] == got.id
    assert record["endpoint"] == more.get("endpoint", "chat/completions")
    assert record["stream"] is stream
    assert record["model"] == ("" if ended[1] in (400, 404) else MODEL)
    assert record["total_s"] >= record["first_s"] >= 0
    assert (record["first_s"] > 0) is (got.status == 200)


async def test_tokens_that_nobody_counted_are_marked(through: Between) -> None:
    """Without the engine's usage events stand for tokens, and the record says so."""
    for fault in ("no_usage", "crlf", "die after=4"):
        record = await through.record(await through.ask(fault))
        estimated = record["parameters"].get("usage") == "estimated"
        assert estimated is (fault != "crlf")
        assert record["completion_tokens"] > 0


@pytest.mark.parametrize("stream", [True, False])
async def test_the_record_is_there_when_the_answer_ends(through: Between, stream: bool) -> None:
    """It is on disk before the last byte, so an answer that somebody has is an answer that is accounted for."""
    for _ in range(20):
        got = await through.ask(stream=stream)
        with _store(through.gateway) as rows:
            assert rows.execute("select outcome from runs where id = ?", (got.id,)).fetchall() == [("completed",)]


async def test_a_record_says_nothing_of_what_was_said(through: Between) -> None:
    """FIRST keeps every prompt and every answer."""
    said = "a very private matter"
    for stream in (True, False):
        got = await through.ask(stream=stream, messages=[{"role": "user", "content": said}], user=said, stop=[said])
        assert "private" not in str(await through.record(got))


@contextmanager
def _store(served: Served) -> Iterator[sqlite3.Connection]:
    """The store, as another process sees it."""
    rows = sqlite3.connect(served.data_dir / "terascope.db", isolation_level=None)
    try:
        yield rows
    finally:
        rows.close()
