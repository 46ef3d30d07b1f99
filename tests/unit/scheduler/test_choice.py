"""Which replica gets a request."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.scheduler.choice import least_loaded


@given(st.lists(st.integers(0, 100), min_size=1))
def test_the_first_of_those_with_the_least_to_do(in_flight: list[int]) -> None:
    assert least_loaded(in_flight) == in_flight.index(min(in_flight))


@given(st.integers(1, 8), st.integers(0, 200))
def test_requests_spread_evenly(replicas: int, requests: int) -> None:
    in_flight = [0] * replicas
    for _ in range(requests):
        in_flight[least_loaded(in_flight)] += 1
    assert sum(in_flight) == requests
    assert max(in_flight) - min(in_flight) <= 1


def test_nothing_to_choose_from() -> None:
    with pytest.raises(ValueError, match="empty"):
        least_loaded([])
