"""How the hidden states of several texts are computed at once: packed where that is the same, else filled up."""

import inspect
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from terascope.engines.torch.text_attention import NAME, Seen, Texts, at

_log = logging.getLogger(__name__)
_CHECK_LENGTHS = (3, 7, 7, 12)
_WINDOW_LIMIT = 1024  # a wider window is not looked past when a model is loaded: that would take too long
_PAST_WINDOW = 8
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
_HALF_TOLERANCE = 0.1


@dataclass(frozen=True, slots=True)
class Padded:
    """Texts as rows of a batch, filled up to the longest."""

    name: ClassVar[str] = "padded"
    module: PreTrainedModel = field(repr=False)

    def states(self, ids: Tensor, texts: Texts) -> Tensor:
        """Return the hidden states [tokens, width] of tokens `ids` [tokens], text after text."""
        return self.layers(ids, texts, ())[None]

    def layers(self, ids: Tensor, texts: Texts, layers: Collection[int]) -> dict[int | None, Tensor]:
        """Return the states, by None those at the end and by number what goes into each of `layers`."""
        mask = torch.arange(texts.longest, device=ids.device) < texts.lengths[:, None]
        rows = ids.new_zeros(mask.shape).masked_scatter_(mask, ids)
        output = self.module(input_ids=rows, attention_mask=mask.long(), output_hidden_states=bool(layers))
        return _chosen(output, layers, mask)


@dataclass(frozen=True, slots=True)
class Packed:
    """Texts one after the other in one sequence; nothing is computed that no text needs."""

    name: ClassVar[str] = "packed"
    module: PreTrainedModel = field(repr=False)
    first_position: int

    def states(self, ids: Tensor, texts: Texts) -> Tensor:
        """See `Padded.states`."""
        return self.layers(ids, texts, ())[None]

    def layers(self, ids: Tensor, texts: Texts, layers: Collection[int]) -> dict[int | None, Tensor]:
        """See `Padded.layers`."""
        positions = self._positions(ids, texts)
        with at(texts):
            output = self.module(input_ids=ids[None], position_ids=positions[None], output_hidden_states=bool(layers))
        return _chosen(output, layers, 0)

    def _positions(self, ids: Tensor, texts: Texts) -> Tensor:
        """Numbers from `first_position` on in every text.

        Where the padding token has a position of its own, the one before the first, a text that contains it skips it.
        """
        if not self.first_position:
            return texts.ranks
        padding = self.first_position - 1
        counted = (ids != padding).long()
        until = counted.cumsum(0)
        before = (until - counted)[texts.starts]
        return (until - before[texts.owners]) * counted + padding


Batching = Padded | Packed


def _chosen(output: Any, layers: Collection[int], index: Tensor | int) -> dict[int | None, Tensor]:
    return {None: output.last_hidden_state[index]} | {layer: output.hidden_states[layer][index] for layer in layers}


def first_position(module: PreTrainedModel) -> int:
    """Return the position of a text's first token: 0, or, as in RoBERTa, what follows the padding token's."""
    for name, part in module.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, torch.nn.Embedding):
            return 0 if part.padding_idx is None else part.padding_idx + 1
    return 0


@torch.inference_mode()
def choose(module: PreTrainedModel, context_length: int) -> Batching:
    """Return `Packed` if `module` computes the same that way as a text alone, else `Padded`; the log says why.

    The module's attention is left as what is returned needs it.
    """
    own = module.config._attn_implementation  # noqa: SLF001 - no public name
    try:
        seen = _compare(module, own, [min(length, context_length) for length in _CHECK_LENGTHS])
        if windows := [one for one in seen.windows if one <= _WINDOW_LIMIT and one < context_length]:
            past = [min(window + _PAST_WINDOW, context_length) for window in windows]
            _compare(module, own, sorted([min(_CHECK_LENGTHS), *past]))
    except Exception as error:  # noqa: BLE001 - whatever the model does not take, it can still be served
        module.set_attn_implementation(own)
        _log.warning("texts are not packed but filled up to one length", extra={"reason": _words(module, error)})
        return Padded(module)
    return Packed(module, first_position(module))


def _compare(module: PreTrainedModel, own: str, lengths: Sequence[int]) -> Seen:
    """Compute texts of `lengths` alone with the attention `own`, then packed. Raises an error that says how it fails.

    Returns what the packed attention was asked for.
    """
    if "position_ids" not in inspect.signature(module.forward).parameters:
        raise NotImplementedError("it does not take positions")
    size = module.get_input_embeddings().weight.shape[0]
    rows = [
        torch.tensor([(7 * row + 13 * i + 1) % size for i in range(length)], device=module.device)
        for row, length in enumerate(lengths)
    ]
    module.set_attn_implementation(own)
    expected = [Padded(module).states(row, Texts([len(row)], row.device)) for row in rows]
    module.set_attn_implementation(NAME)
    texts = Texts(lengths, module.device)
    found = Packed(module, first_position(module)).states(torch.cat(rows), texts)
    if not texts.seen.calls:
        raise NotImplementedError("it does not let its attention be chosen")
    _check_same(expected, torch.split(found, list(lengths)))
    return texts.seen


def _check_same(expected: Sequence[Tensor], found: Sequence[Tensor]) -> None:
    for right, ours in zip(expected, found, strict=True):
        error = float((ours.float() - right.float()).norm() / right.float().norm().clamp_min(1e-6))
        if not error < _TOLERANCE.get(right.dtype, _HALF_TOLERANCE):
            raise ArithmeticError(f"it computes something else when texts are packed (relative error {error:.2g})")


def _words(module: PreTrainedModel, error: Exception) -> str:
    words = str(error).split("\n", 1)[0][:300]
    return f"{type(module).__name__}: {words or type(error).__name__}"
