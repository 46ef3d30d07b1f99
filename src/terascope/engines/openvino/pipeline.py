"""OpenVINO's pipeline in a thread of its own: requests join and leave between two steps."""

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np
import openvino
import openvino_genai

from terascope.core.errors import EngineOutOfMemory, InternalError, Overloaded, ServiceError
from terascope.engines.openvino.settings import WorkerSettings
from terascope.engines.worker.metrics import Metrics

_log = logging.getLogger(__name__)
_PRECISION = {"float32": "f32", "bfloat16": "bf16"}
_LEAST_TOKENS, _TOKENS_PER_THREAD, _MOST_TOKENS = 256, 128, 4096  # of a step


@dataclass(frozen=True, slots=True)
class News:
    """What a step added to a row: `tokens` with their log-probabilities; `over` with `stopped` by the model or not."""

    tokens: tuple[tuple[int, float], ...] = ()
    over: bool = False
    stopped: bool = False
    error: ServiceError | None = None


@dataclass(slots=True, eq=False)
class Row:
    """One answer: its prompt, how it is sampled, and the queue in which news of it arrive."""

    prompt: list[int]
    config: openvino_genai.GenerationConfig
    news: "asyncio.Queue[News]" = field(default_factory=asyncio.Queue)


def open_pipeline(settings: WorkerSettings, path: str) -> openvino_genai.ContinuousBatchingPipeline:
    """Load the model; takes seconds. Prefixes are not kept, since the pipeline would share them among everybody."""
    return openvino_genai.ContinuousBatchingPipeline(path, scheduler_of(settings), "CPU", properties_of(settings))


def scheduler_of(settings: WorkerSettings) -> openvino_genai.SchedulerConfig:
    """How many rows and tokens a step has: as many tokens as its threads compute in some tenths of a second."""
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = settings.cache_gib
    scheduler.max_num_seqs = settings.max_batch
    threads = settings.threads or len(os.sched_getaffinity(0))
    tokens = min(max(_LEAST_TOKENS, _TOKENS_PER_THREAD * threads), _MOST_TOKENS)
    scheduler.max_num_batched_tokens = max(tokens, settings.max_batch)  # or some rows would wait for every other step
    scheduler.enable_prefix_caching = False
    return scheduler


def properties_of(settings: WorkerSettings) -> dict[str, object]:
    """What is computed in, and by how many threads.

    They are not pinned: OpenVINO would pin those of every replica to the same first cores of the machine, and a thread
    that shares its core with another program's keeps all others of its step waiting.
    """
    precision = _PRECISION[settings.dtype]
    properties: dict[str, object] = {"INFERENCE_PRECISION_HINT": precision, "KV_CACHE_PRECISION": precision}
    properties["ENABLE_CPU_PINNING"] = False
    return properties | ({"INFERENCE_NUM_THREADS": settings.threads} if settings.threads else {})


class Pipeline:
    """Runs rows. `submit`, `cancel`, `stop` and `join` may be called from any thread."""

    def __init__(
        self,
        pipeline: openvino_genai.ContinuousBatchingPipeline,
        loop: asyncio.AbstractEventLoop,
        crashed: Callable[[BaseException], None],
        metrics: Metrics,
    ) -> None:
        """`crashed` is called in `loop` if the thread ends by an error; rows get one then, too."""
        self._pipeline = pipeline
        self._loop = loop
        self._crashed = crashed
        self._metrics = metrics
        self._orders: SimpleQueue[tuple[str, Row | None]] = SimpleQueue()
        self._running: dict[Row, openvino_genai.GenerationHandle] = {}
        self._numbers = 0
        self._thread = threading.Thread(target=self._run, name="openvino", daemon=True)
        self._thread.start()

    def submit(self, row: Row) -> None:
        """Begin `row`."""
        self._orders.put(("begin", row))

    def cancel(self, row: Row) -> None:
        """End `row` before the next step, without news; no error when it is over."""
        self._orders.put(("cancel", row))

    def stop(self) -> None:
        """End every row with an error, and the thread; idempotent."""
        self._orders.put(("stop", None))

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread's end; return whether it came."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while self._obey():
                self._pipeline.step()
                self._tell()
                self._metrics.load(len(self._running), 0, 0)
            self._fail(Overloaded("the engine is stopping"))
        except Exception as error:  # noqa: BLE001 - the edge of the thread: rows and process are told
            _log.critical("the pipeline failed", exc_info=error)
            self._fail(InternalError("the engine failed at this request"))
            self._loop.call_soon_threadsafe(self._crashed, error)

    def _obey(self) -> bool:
        """Carry out the orders, waiting for one when there is nothing to do; false when one was to stop."""
        orders = [] if self._running else [self._orders.get()]
        while not self._orders.empty():
            orders.append(self._orders.get())
        for verb, row in orders:
            if row is None:
                return False
            if verb == "begin":
                self._numbers += 1
                prompt = openvino.Tensor(np.array([row.prompt], dtype=np.int64))
                self._running[row] = self._pipeline.add_request(self._numbers, prompt, row.config)
            elif handle := self._running.pop(row, None):
                handle.cancel()
        return True

    def _tell(self) -> None:
        made = 0
        for row, handle in list(self._running.items()):
            tokens: list[tuple[int, float]] = []
            stopped = False
            while handle.can_read():
                for output in handle.read().values():
                    tokens += zip(output.generated_ids, output.generated_log_probs, strict=True)
                    stopped = output.finish_reason == openvino_genai.GenerationFinishReason.STOP
            status = handle.get_status()
            over = status != openvino_genai.GenerationStatus.RUNNING
            ignored = status == openvino_genai.GenerationStatus.IGNORED
            error = (
                EngineOutOfMemory("the engine has no room for this request; ask for fewer tokens") if ignored else None
            )
            made += len(tokens)
            if over:
                del self._running[row]
            if tokens or over:
                self._post(row, News(tuple(tokens), over, stopped, error))
        self._metrics.step(0, made, 0, 0, 0)

    def _fail(self, error: ServiceError) -> None:
        for row in self._running:
            self._post(row, News(over=True, error=error))
        self._running.clear()

    def _post(self, row: Row, news: News) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(row.news.put_nowait, news)
