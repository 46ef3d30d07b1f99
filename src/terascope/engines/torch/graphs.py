"""Steps in which every row brings one token, in a few fixed shapes, so that a GPU can replay them as CUDA graphs.

A forward pass of a small batch is hundreds of kernels that each take less time than launching them; a graph launches
them as one. Rows are filled up to a size of a few, and their tables of blocks too. Shapes are recorded when they are
first met. On a CPU there is nothing to record; the same code then runs as it is.
"""

import gc
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from terascope.engines.torch.cache import BLOCK, blocks_for
from terascope.engines.torch.layout import Layout, Single, Span

_log = logging.getLogger(__name__)
Forward = Callable[[Tensor, Layout], Tensor]
"""From tokens [1, rows] and their layout to logits [rows, vocabulary]."""
_REHEARSALS = 2  # runs before one is recorded: libraries set themselves up in them
_LEAST_WIDTH = 8  # blocks; narrower tables are no faster
_MOST = 128  # shapes that are kept; the one unused longest goes first


@dataclass(slots=True)
class _Shape:
    """What a recorded step reads, and what repeats it. A graph knows addresses: all it reads must be kept here.

    Tokens, positions, places and tables stand one after the other in `inputs` [3 rows + rows x width]: one copy
    changes them. `index` [rows] never changes.
    """

    rows: int
    width: int
    inputs: Tensor
    index: Tensor
    repeat: Callable[[], Tensor]

    def fill(self, tokens: Sequence[int], spans: Sequence[Span], spare: int) -> None:
        """Write a step into `inputs`; rows that are not there write to the block `spare` and read block 0."""
        missing = [0] * (self.rows - len(spans))
        values = [*tokens, *missing, *(span.start for span in spans), *missing]
        values += [span.blocks[span.start // BLOCK] * BLOCK + span.start % BLOCK for span in spans]
        values += [spare * BLOCK] * len(missing)
        for span in spans:
            own = span.blocks[: self.width]
            values += own
            values += [0] * (self.width - len(own))
        values += [0] * (self.width * len(missing))
        self.inputs.copy_(torch.tensor(values))


class Shapes:
    """The fixed shapes of one model that have been met."""

    def __init__(self, forward: Forward, device: torch.device, spare: int, most: int = _MOST) -> None:
        """`spare` is the block that nobody reads; `most` shapes are kept."""
        self.recording = device.type == "cuda"
        self._forward = forward
        self._device = device
        self._spare = spare
        self._most = most
        self._known: OrderedDict[tuple[int, int], _Shape] = OrderedDict()
        self._memory: Any = None  # one for all graphs: no two of them run at once

    def run(self, tokens: Sequence[int], spans: Sequence[Span]) -> Tensor:
        """Compute one token of each of `spans`; return the logits [rows, vocabulary]. For inference mode.

        They hold until the next call.
        """
        width = max(_LEAST_WIDTH, *(blocks_for(span.end) for span in spans))
        key = _above(len(spans)), _above(width)
        shape = self._known.get(key)
        if shape is None:
            shape = self._known[key] = self._make(*key)
            shape.fill(tokens, spans, self._spare)
            self._record(shape)
            if len(self._known) > self._most:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
            shape.fill(tokens, spans, self._spare)
        return shape.repeat()[: len(spans)]

    def _make(self, rows: int, width: int) -> _Shape:
        inputs = torch.zeros(rows * (3 + width), dtype=torch.long, device=self._device)
        tokens, positions, places, table = torch.split(inputs, [rows, rows, rows, rows * width])
        index = torch.arange(rows, device=self._device)

        def compute() -> Tensor:
            layout = Layout.of_singles(Single(index, table.view(rows, width), positions), places)
            return self._forward(tokens[None], layout)

        return _Shape(rows, width, inputs, index, compute)

    def _record(self, shape: _Shape) -> None:
        """Have `shape` repeated by a graph. Where that fails it stays as it is: slower, but right."""
        if not self.recording:
            return
        compute = shape.repeat
        try:
            stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # torch lacks it
            stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(stream):
                for _ in range(_REHEARSALS):
                    compute()
            torch.cuda.current_stream(self._device).wait_stream(stream)
            self._memory = self._memory or torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            with _nothing_collected(), torch.cuda.graph(graph, pool=self._memory):
                found = compute()
        except RuntimeError as error:
            self.recording = False
            _log.warning("steps are not recorded as CUDA graphs", extra={"reason": str(error)[:200]})
            return

        def replay() -> Tensor:
            graph.replay()
            return found

        shape.repeat = replay


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Keep Python from collecting garbage: another graph in it would be let go of, which ends a recording."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _above(count: int) -> int:
    """The least of 1, 2, 3, 4, 6, 8, 12, 16, ... that is at least `count`: powers of two, and those halfway."""
    power = 1 << (count - 1).bit_length()
    return power * 3 // 4 if power > 2 and count <= power * 3 // 4 else power
