"""What passes between the event loop and the thread that computes."""

import asyncio
import concurrent.futures
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Generic, TypeVar

import torch

from terascope.core.errors import InternalError, Overloaded, ServiceError

Work = TypeVar("Work")
News = TypeVar("News")
Done = TypeVar("Done")
_log = logging.getLogger(__name__)


class Job(Generic[Work, News]):
    """One request: what is to be done, and the queue in which news of it arrive."""

    def __init__(self, request_id: str, work: Sequence[Work], group: object = None) -> None:
        """Jobs of one `group` take turns as if they were one; without one, a job is a group."""
        self.request_id = request_id
        self.work = work
        self.group = group or self
        self.news: asyncio.Queue[News] = asyncio.Queue()


class Errand:
    """Something to do between two steps."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.future: concurrent.futures.Future[object] = concurrent.futures.Future()
        self._work = work

    def run(self) -> None:
        """Do it, unless nobody waits for it any more."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.future.set_result(self._work())
        except ServiceError as error:
            self.future.set_exception(error)
        except Exception as error:  # noqa: BLE001 - the edge of an errand: who asked is told, the thread goes on
            _log.exception("an errand failed")
            self.future.set_exception(InternalError("the engine failed at this request", detail=repr(error)))

    def drop(self) -> None:
        """Tell that it will not be done."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(Overloaded("the engine is stopping"))


def single_threaded() -> ThreadPoolExecutor:
    """Threads for what is done beside computing, each of which does it alone.

    As soon as a second thread has OpenMP's threads to divide work among, there are more of them than processors, and
    libgomp lets none wait awake any more: every operation of the thread that computes would begin with a system call.
    """
    return ThreadPoolExecutor(thread_name_prefix="beside", initializer=compute_with, initargs=(1,))


def compute_with(threads: int) -> None:
    """Let this thread, whatever others do, divide its work among so many."""
    torch.get_num_threads()  # or the first operation would set it to what was set last, in whichever thread
    torch.set_num_threads(threads)


class ComputeThread(ABC, Generic[Work, News]):
    """A thread that computes in steps; jobs join and leave between them.

    `start`, `submit`, `cancel`, `between_steps`, `stop` and `join` may be called from any thread, all else belongs to
    this one. News reach `loop` once per step.
    """

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop, crashed: Callable[[BaseException], None]) -> None:
        """`crashed` is called in `loop` if the thread ends by an error, which only a mistake of ours can cause."""
        self._loop = loop
        self._crashed = crashed
        self._orders: SimpleQueue[tuple[str, Job[Work, News] | None]] = SimpleQueue()
        self._errands: SimpleQueue[Errand] = SimpleQueue()
        self._noted: list[tuple[str, Job[Work, News] | None]] = []
        self._out: list[tuple[Job[Work, News], News]] = []
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._threads = torch.get_num_threads()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, job: Job[Work, News]) -> None:
        """Begin `job`; news of it arrive in its queue until it is over."""
        self._orders.put(("begin", job))

    def cancel(self, job: Job[Work, News]) -> None:
        """End `job` before the next step, without news; no error when it is over already."""
        self._orders.put(("cancel", job))

    async def between_steps(self, work: Callable[[], Done]) -> Done:
        """Return what `work` returns, done in this thread between two steps, one errand a step.

        Raises what `work` raises; errors that are not `ServiceError` become one. On cancellation it is not done if it
        has not begun; if it has, it is done for nobody.
        """
        found: list[Done] = []
        errand = Errand(lambda: found.append(work()))
        self._errands.put(errand)
        self._orders.put(("errand", None))
        await asyncio.wrap_future(errand.future)
        return found[0]

    def stop(self) -> None:
        """End every job with an error, and the thread after its step; idempotent."""
        self._orders.put(("stop", None))

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread's end; return whether it came."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @abstractmethod
    def _begin(self, job: Job[Work, News]) -> None:
        """Take `job` in."""

    @abstractmethod
    def _end(self, job: Job[Work, News]) -> None:
        """Forget `job`, if it is there."""

    @abstractmethod
    def _step(self) -> None:
        """Compute a little."""

    @abstractmethod
    def _jobs(self) -> Sequence[Job[Work, News]]:
        """The jobs that are not over."""

    @abstractmethod
    def _fail(self, job: Job[Work, News], error: ServiceError) -> None:
        """Tell that `job` ended in `error`, and forget it."""

    def _post(self, job: Job[Work, News], news: News) -> None:
        """Leave news for the event loop; they go out at the end of the step."""
        self._out.append((job, news))

    def _run(self) -> None:
        compute_with(self._threads)
        try:
            while self._obey():
                if not self._errands.empty():
                    self._errands.get().run()
                self._step()
                self._flush()
            for job in self._jobs():
                self._fail(job, Overloaded("the engine is stopping"))
            while not self._errands.empty():
                self._errands.get().drop()
            self._flush()
        except BaseException as error:
            _log.critical("the computing thread ended", exc_info=error)
            self._loop.call_soon_threadsafe(self._crashed, error)
            raise

    def _arrived(self) -> Sequence[Job[Work, News]]:
        """The jobs that have come during this step; they begin after it."""
        while not self._orders.empty():
            self._noted.append(self._orders.get())
        return [job for verb, job in self._noted if verb == "begin" and job is not None]

    def _obey(self) -> bool:
        """Carry out the orders, waiting for one when there is nothing to do; false when one was to stop."""
        if not (self._jobs() or self._noted or not self._errands.empty()):
            self._noted.append(self._orders.get())
        self._arrived()
        found, self._noted = self._noted, []
        for verb, job in found:
            if job is not None:
                (self._begin if verb == "begin" else self._end)(job)
        return all(verb != "stop" for verb, _ in found)

    def _flush(self) -> None:
        if self._out and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_hand_out, self._out)
        self._out = []


def _hand_out(out: Sequence[tuple[Job[Work, News], News]]) -> None:
    for job, news in out:
        job.news.put_nowait(news)
