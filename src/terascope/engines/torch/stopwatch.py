"""How long work takes on a device: medians after a warm-up, on a GPU of captured graphs, within a budget of time."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

Work = Callable[[int], object]
"""One run of what is timed; the number of the run says which of several copies of its data it takes."""

_WARM_UP = 2
_FEWEST, _MOST = 3, 9
_SAMPLING_S = 0.06
"""Enough for one case; what is slower is run the fewest times."""
_SAMPLE_S = 0.004
"""A sample on a GPU is at least so long, so that the events around it do not count."""
_MOST_ROUNDS = 256


@dataclass(frozen=True, slots=True)
class Spell:
    """Seconds of one run: median, shortest and longest of the samples."""

    seconds: float
    shortest: float
    longest: float
    samples: int
    rounds: int
    """Runs in each sample."""
    captured: bool
    """Whether the runs were captured as a CUDA graph: without the launches that a host would have to make."""


class Budget:
    """The time that is left until what is measured has to be written."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._started = now()
        self._seconds = seconds

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return self._now() - self._started

    @property
    def over(self) -> bool:
        """Whether no other case may begin."""
        return self.spent >= self._seconds


class Stopwatch:
    """Times work on one device."""

    def __init__(self, device: torch.device, now: Callable[[], float] = time.perf_counter) -> None:
        self._device = device
        self._now = now

    def time(self, work: Work, copies: int = 1) -> Spell:
        """Return how long one run of `work` takes, when its runs take turns with `copies` of its data.

        On a GPU the runs are captured as a graph, or launched one after the other where that is not possible. Raises
        what the work raises.
        """
        if self._device.type != "cuda":
            return self._on_host(work, copies)
        return self._on_gpu(work, copies)

    def launches(self, work: Work, count: int) -> float:
        """Seconds for each of `count` runs that the host launches one after the other, without waiting between them."""
        work(0)
        self._wait()
        started = self._now()
        for run in range(count):
            work(run)
        self._wait()
        return (self._now() - started) / count

    def _on_host(self, work: Work, copies: int) -> Spell:
        samples: list[float] = []
        work(0)
        while len(samples) < _FEWEST or (len(samples) < _MOST and sum(samples) < _SAMPLING_S):
            started = self._now()
            work(len(samples) % copies)
            samples.append(self._now() - started)
        return _spell(samples, 1, captured=False)

    def _on_gpu(self, work: Work, copies: int) -> Spell:
        for run in range(_WARM_UP):
            work(run % copies)
        once = self._events(lambda: work(0))
        rounds = min(_MOST_ROUNDS, max(copies, round(_SAMPLE_S / once)))
        rounds = max(1, min(rounds, round(_SAMPLING_S / once)))
        graph = self._capture(work, copies, rounds)
        sample = graph.replay if graph else lambda: _run_all(work, copies, rounds)
        sample()
        samples: list[float] = []
        while len(samples) < _FEWEST or (len(samples) < _MOST and sum(samples) * rounds < _SAMPLING_S):
            samples.append(self._events(sample) / rounds)
        return _spell(samples, rounds, captured=graph is not None)

    def _capture(self, work: Work, copies: int, rounds: int) -> torch.cuda.CUDAGraph | None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                _run_all(work, copies, rounds)
        except RuntimeError:  # a kernel that asks the device something while it is launched
            torch.cuda.synchronize(self._device)
            return None
        return graph

    def _events(self, work: Callable[[], object]) -> float:
        """Seconds between an event before and an event behind `work` on the device."""
        before, behind = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call] # torch's stub
        before.record()
        work()
        behind.record()
        behind.synchronize()
        return max(1e-9, float(before.elapsed_time(behind)) / 1000)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _run_all(work: Work, copies: int, rounds: int) -> None:
    for run in range(rounds):
        work(run % copies)


def _spell(samples: list[float], rounds: int, *, captured: bool) -> Spell:
    return Spell(statistics.median(samples), min(samples), max(samples), len(samples), rounds, captured)
