"""Threads of the worker, and how many threads each of them divides its work among."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from terascope.engines.torch.jobs import compute_with, single_threaded


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def used() -> int:
    """Compute something in this thread; return among how many threads it was divided."""
    assert float(torch.ones(100_000).sum()) == 100_000
    return torch.get_num_threads()


def test_every_thread_keeps_the_number_that_it_was_given() -> None:
    """PyTorch lets a thread begin with what any thread has set last, and only at its first operation."""
    with single_threaded() as beside, ThreadPoolExecutor(1, initializer=compute_with, initargs=(3,)) as computing:
        computing.submit(int).result()  # it is there, but has computed nothing yet
        assert beside.submit(used).result() == 1
        assert computing.submit(used).result() == 3
        torch.set_num_threads(2)
        assert [beside.submit(used).result(), computing.submit(used).result(), used()] == [1, 3, 2]


def test_a_thread_that_only_sets_its_number_loses_it() -> None:
    """Why `compute_with` does more; when this fails, it need not any more."""
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(3,)) as naive:
        naive.submit(int).result()
        torch.set_num_threads(1)
        assert naive.submit(used).result() == 1
