"""Whatever an engine does: a whole answer, or an error in OpenAI's shape, and a record that says which."""

import pytest

from terascope.testing.between import Between, Got
from terascope.testing.fault_scripts import FAULTS

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUICK = "seconds=0.01 gap=0 count=20 size=100000"
LIMIT = {"X-Terascope-Deadline": "0.4"}
"""Faults that never end are ended by the client; the others are over long before."""


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("endpoint", ["chat/completions", "completions"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_an_answer_is_whole_or_an_error(impatient: Between, fault: str, endpoint: str, stream: bool) -> None:
    """FIRST reports what was cut as whole, GPUStack as 200, SwissAI serving-api #76 errors in other shapes."""
    got = await impatient.ask(f"{fault} {QUICK}", stream=stream, endpoint=endpoint, headers=LIMIT)
    record = await impatient.record(got)
    if record["outcome"] == "completed":
        assert _whole(got, stream=stream), got
        assert record["error"] == ""
    else:
        assert got.error["code"] == record["error"]
        assert got.status in (200, record["status"])
    assert got.status != 200 or got.headers["x-terascope-model"] == record["model"]


def _whole(got: Got, *, stream: bool) -> bool:
    choices = [choice for one in (got.events if stream else [got.object]) for choice in one["choices"]]
    return got.status == 200 and [one["finish_reason"] for one in choices if one["finish_reason"]] == ["stop"]
