"""Steps in which every row brings one token, in a few fixed shapes, so that a GPU can replay them as CUDA graphs.

A forward pass of a small batch is hundreds of kernels that each take less time than launching them; a graph launches
them as one. Rows are filled up to a power of two, and their tables of blocks too. Shapes are recorded when they are
first met. On a CPU there is nothing to record; the same code then runs as it is.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from terascope.engines.torch.cache import BLOCK, blocks_for
from terascope.engines.torch.layout import Layout, Single, Span

_log = logging.getLogger(__name__)
Forward = Callable[[Tensor, Layout], Tensor]
"""From tokens [1, rows] and their layout to logits [rows, vocabulary]."""
_REHEARSALS = 2  # runs before one is recorded: libraries set themselves up in them


@dataclass(slots=True)
class _Shape:
    """The tensors that a recorded step reads, and what repeats it."""

    tokens: Tensor
    positions: Tensor
    places: Tensor
    table: Tensor
    repeat: Callable[[], Tensor]

    def fill(self, tokens: Sequence[int], spans: Sequence[Span], spare: int) -> None:
        """Write a step into the tensors; rows that are not there write to the block `spare` and read block 0."""
        rows, width = self.table.shape
        missing = rows - len(spans)
        places = [span.blocks[span.start // BLOCK] * BLOCK + span.start % BLOCK for span in spans]
        table = [[*span.blocks[:width], *[0] * (width - len(span.blocks[:width]))] for span in spans]
        for tensor, values in (
            (self.tokens, [[*tokens, *[0] * missing]]),
            (self.positions, [span.start for span in spans] + [0] * missing),
            (self.places, places + [spare * BLOCK] * missing),
            (self.table, table + [[0] * width] * missing),
        ):
            tensor.copy_(torch.tensor(values))


class Shapes:
    """The fixed shapes of one model that have been met."""

    def __init__(self, forward: Forward, device: torch.device, spare: int) -> None:
        """`spare` is the block that nobody reads."""
        self.recording = device.type == "cuda"
        self._forward = forward
        self._device = device
        self._spare = spare
        self._known: dict[tuple[int, int], _Shape] = {}

    def run(self, tokens: Sequence[int], spans: Sequence[Span]) -> Tensor:
        """Compute one token of each of `spans`; return the logits [rows, vocabulary]. For inference mode."""
        key = _above(len(spans)), _above(max(blocks_for(span.end) for span in spans))
        shape = self._known.get(key)
        if shape is None:
            shape = self._known[key] = self._make(*key)
            shape.fill(tokens, spans, self._spare)
            self._record(shape)
        else:
            shape.fill(tokens, spans, self._spare)
        return shape.repeat()[: len(spans)]

    def _make(self, rows: int, width: int) -> _Shape:
        def zeros(*size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.long, device=self._device)

        tokens, positions, places, table = zeros(1, rows), zeros(rows), zeros(rows), zeros(rows, width)
        index = torch.arange(rows, device=self._device)

        def compute() -> Tensor:
            layout = Layout.of_singles(Single(index, table, positions), places)
            return self._forward(tokens, layout)

        return _Shape(tokens, positions, places, table, compute)

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
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                found = compute()
        except RuntimeError as error:
            self.recording = False
            _log.warning("steps are not recorded as CUDA graphs", extra={"reason": str(error)[:200]})
            return

        def replay() -> Tensor:
            graph.replay()
            return found

        shape.repeat = replay


def _above(count: int) -> int:
    """The power of two that is at least `count`."""
    return 1 << (count - 1).bit_length()
