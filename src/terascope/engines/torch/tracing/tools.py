"""What all calls of one model share: its passes, its taps, its limits, its batches."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from terascope.core.errors import BadRequest
from terascope.engines.torch.batching import Packed
from terascope.engines.torch.embed_loop import EmbedLoop
from terascope.engines.torch.encoder import Encoder
from terascope.engines.torch.intake import Intake
from terascope.engines.torch.loop import BatchLoop
from terascope.engines.torch.model import CausalModel
from terascope.engines.torch.pace import Pace, WorkKind
from terascope.engines.torch.sites import find_sites
from terascope.engines.torch.taps import Listening
from terascope.engines.torch.text_attention import Texts
from terascope.engines.torch.tracing.batcher import Batcher
from terascope.engines.torch.tracing.gradients import TOKENS_AT_ONCE, Watched, Work, go_back
from terascope.engines.torch.tracing.lens import Lens, Unembedding
from terascope.engines.torch.tracing.passes import DecoderPasses, EncoderPasses, Passes, PlainRow, RowsAttention, whole
from terascope.engines.torch.tracing.row import Bench
from terascope.engines.torch.tracing.tensors import dtype_of
from terascope.engines.torch.vocabulary import Vocabulary
from terascope.internals.arrays import DType
from terascope.internals.shape import Kind, ModelShape

_log = logging.getLogger(__name__)
_TRIED = 5  # tokens of the pass in which an encoder's sites are found


@dataclass(frozen=True, slots=True)
class Tools:
    """See `for_decoder` and `for_encoder`. `loop` is None where no row can be part of a running batch."""

    passes: Passes
    bench: Bench
    unembedding: Unembedding
    vocabulary: Vocabulary
    intake: Intake
    context_length: int
    dtype: DType
    loop: BatchLoop | None
    back: Batcher[tuple[Work, Watched]]
    forward: Batcher[PlainRow]
    thread: BatchLoop | EmbedLoop

    @property
    def shape(self) -> ModelShape:
        """The model's."""
        return self.passes.sites.shape

    def token(self, value: int | str) -> int:
        """Return the token that `value` is, or is the text of. Raises `BadRequest` for texts of several tokens."""
        if isinstance(value, int):
            return value
        found = self.vocabulary.encode(value, special=False)
        if len(found) != 1:
            names = ", ".join(repr(self.vocabulary.decode([token])) for token in found[:8])
            raise BadRequest(
                f"{value[:80]!r} is {len(found)} tokens ({names}); name one of them, by its text or number",
                param="gradient.of",
            )
        return found[0]


def for_decoder(model: CausalModel, intake: Intake, loop: BatchLoop) -> Tools | None:
    """Return the tools of a language model, or None, with a word in the log, where its sites cannot be found.

    Must be called before the loop starts.
    """
    try:
        passes = DecoderPasses(model.packed)
    except Exception as error:  # noqa: BLE001 - whatever the model does not take, it can still be served
        _log.warning("the model's sites cannot be found; it takes no traces", extra={"reason": repr(error)[:300]})
        return None
    return _tools(passes, model.packed.module, model.vocabulary, intake, model.context_length, loop, loop)


def for_encoder(encoder: Encoder, intake: Intake, loop: EmbedLoop) -> Tools | None:
    """See `for_decoder`; of an embedding model, whose texts must be packed."""
    if not isinstance(encoder.batching, Packed):
        return None

    def run(taps: Listening) -> None:
        texts = Texts([_TRIED], encoder.module.device)
        texts.attend = RowsAttention([whole(_TRIED)], taps, causal=False)
        encoder.batching.states(torch.arange(_TRIED, device=encoder.module.device), texts)

    try:
        passes = EncoderPasses(encoder, find_sites(encoder.module, run, Kind.ENCODER))
    except Exception as error:  # noqa: BLE001 - as above
        _log.warning("the model's sites cannot be found; it takes no traces", extra={"reason": repr(error)[:300]})
        return None
    return _tools(passes, encoder.module, encoder.vocabulary, intake, encoder.context_length, None, loop)


def _tools(
    passes: Passes,
    module: torch.nn.Module,
    vocabulary: Vocabulary,
    intake: Intake,
    context_length: int,
    loop: BatchLoop | None,
    thread: BatchLoop | EmbedLoop,
) -> Tools:
    dtype, device = next((one.dtype, one.device) for one in module.parameters())
    unembedding = Unembedding(module, passes.sites)
    bench = Bench(passes.taps, Lens(unembedding, dtype), device, vocabulary.table)

    @torch.inference_mode()
    def forward(rows: Sequence[PlainRow]) -> None:
        with _timed(thread.pace, WorkKind.READING, sum(len(row.tokens) for row in rows)):
            passes.run(rows)

    def back(rows: Sequence[tuple[Work, Watched]]) -> None:
        with _timed(thread.pace, WorkKind.GOING_BACK, sum(len(row[1].ask.tokens) for row in rows)):
            go_back(passes, rows)

    return Tools(
        passes=passes,
        bench=bench,
        unembedding=unembedding,
        vocabulary=vocabulary,
        intake=intake,
        context_length=context_length,
        dtype=dtype_of(dtype),
        loop=loop,
        back=Batcher(thread, back, lambda row: len(row[1].ask.tokens), TOKENS_AT_ONCE),
        forward=Batcher(thread, forward, lambda row: len(row.tokens), TOKENS_AT_ONCE),
        thread=thread,
    )


@contextmanager
def _timed(pace: Pace, kind: WorkKind, tokens: int) -> Iterator[None]:
    start = time.perf_counter()
    yield
    pace.saw(kind, tokens, time.perf_counter() - start)
