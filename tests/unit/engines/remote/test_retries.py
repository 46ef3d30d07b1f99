"""How often and after how long a server is asked again."""

import random
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.engines.remote.retries import Retries
from terascope.testing.clock import ManualClock


def retries(most: int = 2) -> Retries:
    return Retries(clock=ManualClock(), chance=random.Random(0), most=most)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 529])
def test_what_may_pass_is_tried_again(status: int) -> None:
    asked = retries(most=3)
    waits = [asked.wait_s(tried, status, {}) for tried in (1, 2, 3, 4)]
    assert waits[3] is None
    assert all(wait is not None and low <= wait <= 2 * low for wait, low in zip(waits, (0.25, 0.5, 1.0), strict=False))


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422, 501])
def test_what_will_fail_again_is_not(status: int) -> None:
    assert retries().wait_s(1, status, {}) is None


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "21"}, None),  # over what it waits: the client is told instead
        ({"retry-after": formatdate(1_800_000_005, usegmt=True)}, 5.0),
        ({"retry-after": formatdate(1_700_000_000, usegmt=True)}, 0.0),
        ({"x-should-retry": "false", "retry-after": "1"}, None),
    ],
)
def test_the_server_s_own_words_are_heeded(headers: dict[str, str], wait: float | None) -> None:
    assert retries().wait_s(1, 429, headers) == wait


def test_a_server_may_ask_to_be_asked_again() -> None:
    assert retries().wait_s(1, 409, {"x-should-retry": "true", "retry-after": "2"}) == 2.0


@given(st.text(max_size=30), st.integers(1, 5), st.integers(400, 599))
def test_no_header_breaks_it(text: str, tried: int, status: int) -> None:
    wait = retries(most=5).wait_s(tried, status, {"retry-after": text, "x-should-retry": text})
    assert wait is None or 0 <= wait <= 20
