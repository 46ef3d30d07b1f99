"""Requests for embeddings take turns in batches of so many tokens."""

import asyncio
import dataclasses
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from terascope.core.errors import Overloaded
from terascope.engines.torch.batching import Padded
from terascope.engines.torch.embed_loop import EmbedLoop, TextJob, TextPlan, Vector
from terascope.engines.torch.encoder import Encoder, load_encoder
from terascope.engines.torch.jobs import Job
from terascope.engines.torch.settings import WorkerSettings
from terascope.engines.worker.metrics import Metrics

Between = Callable[[int], None]


class Worked:
    """A loop, and the tokens of every batch that it computed; `between` is called in each with its number."""

    def __init__(self, encoder: Encoder, *, between: Between = lambda _: None, **options: int) -> None:
        self.batches: list[list[list[int]]] = []
        self.metrics = Metrics()
        self.crashes: list[BaseException] = []
        self._between = between
        encoder.module.get_input_embeddings().register_forward_pre_hook(self._note)
        self.loop = EmbedLoop(encoder, asyncio.get_running_loop(), self.crashes.append, self.metrics, **options)

    def _note(self, _: torch.nn.Module, given: tuple[torch.Tensor]) -> None:
        self.batches.append(given[0].tolist())
        self._between(len(self.batches))

    @property
    def packed(self) -> list[list[int]]:
        """The tokens of the batches, where texts are packed."""
        assert all(len(batch) == 1 for batch in self.batches)
        return [batch[0] for batch in self.batches]

    def metric(self, name: str) -> float:
        """Return a figure of the metrics."""
        found = re.search(rf"^terascope_engine_{re.escape(name)} (\S+)$", self.metrics.text().decode(), re.MULTILINE)
        assert found
        return float(found[1])

    async def stop(self) -> None:
        self.loop.stop()
        assert await asyncio.to_thread(self.loop.join, 10)
        assert self.crashes == []


Make = Callable[..., Worked]


@pytest.fixture
async def make(encoder_dir: Path) -> AsyncIterator[Make]:
    """Make loops: `make(step_tokens=...)`; with `padded=True` texts are filled up. Not started yet."""
    made: list[Worked] = []

    def work(*, padded: bool = False, **options: Any) -> Worked:
        encoder = load_encoder(WorkerSettings(encoder_dir, "tiny"), lambda _: None)
        if padded:
            encoder.module.set_attn_implementation("sdpa")
            encoder = dataclasses.replace(encoder, batching=Padded(encoder.module))
        made.append(Worked(encoder, **options))
        return made[-1]

    yield work
    for one in made:
        await one.stop()


def _job(*texts: list[int], priority: int = 1) -> TextJob:
    return Job("r", [TextPlan(text, priority) for text in texts])


async def _vectors(job: TextJob) -> list[Vector]:
    async with asyncio.timeout(10):
        return [await job.news.get() for _ in job.work]


async def test_batches_are_filled_with_real_tokens(make: Make) -> None:
    worked = make(step_tokens=10)
    job = _job([5] * 8, [6], [7], [8] * 3, [9] * 20, [10], [11])
    worked.loop.submit(job)
    worked.loop.start()
    assert {one.index for one in await _vectors(job)} == set(range(7))
    assert worked.packed == [[6, 7, *[5] * 8], [8] * 3, [9] * 20, [10, 11]]
    assert worked.metric('tokens_total{kind="prompt"}') == 35


async def test_a_later_request_is_not_blocked_by_a_large_one(make: Make) -> None:
    large, small = _job(*[[5, 6]] * 2048), _job([7, 8])

    def between(batch: int) -> None:
        if batch == 3:
            worked.loop.submit(small)

    worked = make(step_tokens=40, between=between)
    worked.loop.submit(large)
    worked.loop.start()
    assert (await _vectors(small))[0].values is not None
    assert [7 in batch for batch in worked.packed[:4]] == [False, False, False, True]
    assert sorted(one.index for one in await _vectors(large)) == list(range(2048))


async def test_requests_take_turns(make: Make) -> None:
    worked = make(step_tokens=6)
    jobs = [_job(*[[token]] * count) for token, count in ((5, 8), (6, 2), (7, 4))]
    for job in jobs:
        worked.loop.submit(job)
    worked.loop.start()
    for job in jobs:
        assert [one.index for one in await _vectors(job)] == list(range(len(job.work)))
    # 5 begins; the others join at the end of the next round
    assert worked.packed == [[5, 5, 6, 7, 5, 6], [7, 5, 7, 5, 7, 5], [5, 5]]


async def test_new_requests_do_not_keep_an_old_one_waiting(make: Make) -> None:
    """One more request comes with every batch, and each fills a batch."""
    old = _job([5] * 10, [5] * 10, [5] * 10)
    others = [_job([6] * 10) for _ in range(20)]

    def between(batch: int) -> None:
        if batch < len(others):
            worked.loop.submit(others[batch])

    worked = make(step_tokens=10, between=between)
    for job in (others[0], old):
        worked.loop.submit(job)
    worked.loop.start()
    for job in (old, *others):
        await _vectors(job)
    assert [number for number, batch in enumerate(worked.packed) if 5 in batch][-1] < 10


async def test_at_most_so_many_requests_share_a_batch(make: Make) -> None:
    worked = make(step_tokens=100, max_batch=2)
    jobs = [_job([token]) for token in (5, 6, 7)] + [_job([8], [9], [10])]
    for job in jobs:
        worked.loop.submit(job)
    worked.loop.start()
    for job in jobs:
        await _vectors(job)
    assert worked.packed == [[5, 6], [7, 8, 9, 10]]


@pytest.mark.parametrize("padded", [False, True])
async def test_better_priorities_go_first_and_the_others_go_on(make: Make, *, padded: bool) -> None:
    worked = make(padded=padded, step_tokens=2)
    jobs = [_job(*[[token]] * 12, priority=priority) for token, priority in ((7, 2), (6, 1), (5, 0))]
    for job in jobs:
        worked.loop.submit(job)
    worked.loop.start()
    for job in jobs:
        assert [one.index for one in await _vectors(job)] == list(range(12))
    order = [token for batch in worked.batches for row in batch for token in row]
    assert order[:2] == [5, 5]
    for batches in (order[:10], order[10:20]):  # of five, one is 6's and one 7's
        assert set(batches) == {5, 6, 7}
    assert order.index(7) < 10
    assert (
        max(at for at, token in enumerate(order) if token == 5)
        < max(at for at, token in enumerate(order) if token == 6)
        < max(at for at, token in enumerate(order) if token == 7)
    )


async def test_where_texts_are_filled_up_those_of_like_length_go_together(make: Make) -> None:
    worked = make(padded=True, step_tokens=8)
    texts = [[5] * 2, [6] * 6, [7] * 2, [8] * 5, [9] * 3, [10]]
    job = _job(*texts)
    worked.loop.submit(job)
    worked.loop.start()
    vectors = {one.index: one.values for one in await _vectors(job)}
    assert worked.batches == [[[5, 5], [7, 7]], [[6] * 6], [[8] * 5], [[10, 0, 0], [9, 9, 9]]]
    alone = make(step_tokens=8)
    other = _job(*texts)
    alone.loop.submit(other)
    alone.loop.start()
    for one in await _vectors(other):
        assert one.values is not None
        torch.testing.assert_close(one.values, vectors[one.index], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
async def test_what_is_cancelled_is_not_computed(make: Make, *, padded: bool) -> None:
    left, other = _job(*[[5]] * 100), _job(*[[6]] * 30)

    def between(batch: int) -> None:
        if batch == 2:
            worked.loop.cancel(left)

    worked = make(padded=padded, step_tokens=10, between=between)
    worked.loop.submit(left)
    worked.loop.submit(other)
    worked.loop.start()
    await _vectors(other)
    computed = torch.tensor([token for batch in worked.batches for row in batch for token in row])
    assert int((computed == 5).sum()) <= 20
    assert int((computed == 6).sum()) == 30


async def test_the_load_is_told(make: Make) -> None:
    seen: list[tuple[float, float]] = []

    def between(_: int) -> None:
        seen.append((worked.metric('rows{state="running"}'), worked.metric('rows{state="waiting"}')))

    worked = make(step_tokens=4, between=between)
    job = _job(*[[5, 6]] * 5)
    worked.loop.submit(job)
    worked.loop.start()
    await _vectors(job)
    assert seen == [(2, 3), (2, 1), (1, 0)]
    await worked.stop()
    assert (worked.metric('rows{state="running"}'), worked.metric('rows{state="waiting"}')) == (0, 0)


async def test_stopping_tells_those_who_wait(make: Make) -> None:
    worked = make()
    job = _job([5])
    worked.loop.submit(job)
    worked.loop.stop()
    worked.loop.start()
    assert isinstance((await _vectors(job))[0].error, Overloaded)
