"""Hidden states of requests that ask for them, taken from vLLM's forward pass as it computes whole batches.

vLLM loads this file by its bare name, from a directory on its path. A request says what it wants in its sampling
parameters' `extra_args`, under `WANTED`: a key, and the first fields of `Gathered`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

WANTED = "terascope_states"
_TOLERANCE = 0.02  # of a state's size: below what rounding to bfloat16 does, far below what another reading gives
_Rows = tuple["Gathered", int, int, int]
"""A request's states, its first row in the batch and the one after its last, and how many tokens came before."""


@dataclass
class Gathered:
    """The states of one request's `length` tokens, pooled as they are computed, chunk after chunk.

    `layer` counts as transformers' `hidden_states`; None is what the model gives at its end. Of each vector the first
    `dimensions` are given; `scaled` ones have the length 1.
    """

    length: int
    layer: int | None
    pooling: str
    scaled: bool = False
    dimensions: int | None = None
    seen: int = 0
    value: Tensor | None = None
    parts: list[Tensor] = field(default_factory=list)

    def add(self, states: Tensor, start: int) -> None:
        """Take in the states [n, width] of the tokens from `start` on.

        Those that were seen already are passed over: a request that had to give way is computed anew. So is what comes
        after the prompt. Where tokens were left out nothing is taken in any more: `result` says so. Nothing is raised
        in the middle of a batch, which would end vLLM's engine for everybody.
        """
        if start > self.seen or start >= self.length:
            return
        new = states[self.seen - start : self.length - start].to("cpu", torch.float32, copy=True)
        if len(new):
            _POOLINGS[self.pooling](self, new)
            self.seen += len(new)

    def result(self) -> Tensor:
        """Return the vector [width], or all of them [length, width].

        Raises `ValueError` while some are missing, and for what is infinite or not a number.
        """
        if self.seen < self.length:
            raise ValueError(f"only {self.seen} of {self.length} tokens were computed")
        found: Tensor = torch.cat(self.parts) if self.value is None else self.value
        if not found.isfinite().all():
            raise ValueError("the model gave numbers that are infinite or none (NaN)")
        found = (found / _divisor(self.pooling, self.length))[..., : self.dimensions]
        return nn.functional.normalize(found, dim=-1) if self.scaled else found


def _each(gathered: Gathered, new: Tensor) -> None:
    gathered.parts.append(new)


def _first(gathered: Gathered, new: Tensor) -> None:
    gathered.value = new[0].clone() if gathered.value is None else gathered.value


def _last(gathered: Gathered, new: Tensor) -> None:
    gathered.value = new[-1].clone()


def _sum(gathered: Gathered, new: Tensor) -> None:
    gathered.value = new.sum(0) if gathered.value is None else gathered.value + new.sum(0)


def _weighted(gathered: Gathered, new: Tensor) -> None:
    ranks = torch.arange(gathered.seen + 1, gathered.seen + len(new) + 1, dtype=torch.float32)
    _sum(gathered, new * ranks[:, None])


def _greatest(gathered: Gathered, new: Tensor) -> None:
    most = new.amax(0)
    gathered.value = most if gathered.value is None else torch.maximum(gathered.value, most)


_POOLINGS: dict[str, Callable[[Gathered, Tensor], None]] = {
    "none": _each, "cls": _first, "last": _last, "mean": _sum, "weighted": _weighted, "max": _greatest,
}  # fmt: skip


def _divisor(pooling: str, length: int) -> float:
    """What a sum is divided by for a mean of `length` states."""
    if pooling == "weighted":
        return length * (length + 1) / 2
    return length if pooling == "mean" else 1


class Watch:
    """Hooks in a model that gather what requests ask for. `layers` is how many can be read; 0: only the model's end.

    A layer gives its states whole, or as two tensors of which the sum is meant, or of which the second is to be passed
    over. Which it is shows at the first request: the final norm of the right one is what the model gives.
    """

    def __init__(self, runner: Any) -> None:
        """Put hooks into the model of `runner`, vLLM's runner of models."""
        self._runner = runner
        self._gathered: dict[str, Gathered] = {}
        self._rows: list[_Rows] = []
        self._last_layer: tuple[Tensor, ...] | None = None
        self.summed: bool | None = None
        self.width = int(runner.model_config.get_hidden_size())
        found = layers_of(runner.model, int(runner.model_config.get_total_num_hidden_layers()))
        self._layers: list[nn.Module] = list(found[0]) if found else []
        self._norm = found[1] if found else None
        runner.model.register_forward_pre_hook(self._begin)
        runner.model.register_forward_hook(self._end)
        for number, layer in enumerate(self._layers, start=1):
            layer.register_forward_hook(self._of_layer(number))
        for layer in self._layers[:1]:
            layer.register_forward_pre_hook(self._before, with_kwargs=True)

    @property
    def layers(self) -> int:
        """How many layers there are, once it is known how to read them."""
        return 0 if self.summed is None else len(self._layers)

    def take(self, key: str) -> Gathered | None:
        """Return what was gathered under `key` and forget it; None when there is nothing."""
        return self._gathered.pop(key, None)

    def _begin(self, _model: nn.Module, _arguments: object) -> None:
        """Find out which rows of this batch are whose."""
        self._rows = []
        batch, starts = self._runner.input_batch, self._runner.query_start_loc.np
        for index, name in enumerate(batch.req_ids):
            parameters = getattr(self._runner.requests.get(name), "sampling_params", None)
            wanted = (parameters.extra_args or {}).get(WANTED) if parameters else None
            before = int(batch.num_computed_tokens_cpu[index])
            if wanted and before < wanted["length"]:
                self._rows.append((self._of(wanted), int(starts[index]), int(starts[index + 1]), before))

    def _of(self, wanted: dict[str, Any]) -> Gathered:
        fresh = Gathered(**{name: value for name, value in wanted.items() if name != "key"})
        return self._gathered.setdefault(wanted["key"], fresh)

    def _before(self, _layer: nn.Module, given: tuple[object, ...], named: dict[str, object]) -> None:
        """What the first layer gets."""
        if self._wants(0):
            for states in islice(_states((*given, *named.values()), self.width), 1):
                self._add(states, 0)

    def _of_layer(self, number: int) -> Callable[..., None]:
        def after(_layer: nn.Module, _given: object, output: object) -> None:
            if self._rows and self.summed is None and number == len(self._layers):
                self._last_layer = tuple(one.clone() for one in _tensors(output))
            if self._wants(number):
                self._add(_stream(output, summed=bool(self.summed)), number)

        return after

    def _end(self, _model: nn.Module, _given: object, output: object) -> None:
        """What the model gives, after its last norm."""
        if self._rows:
            states = _tensors(output)[0]
            if self._last_layer is not None and self._norm is not None:
                self.summed = _reading(self._last_layer, self._norm, states)
            self._add(states, None)
        self._rows, self._last_layer = [], None

    def _wants(self, layer: int) -> bool:
        return any(gathered.layer == layer for gathered, *_ in self._rows)

    def _add(self, states: Tensor, layer: int | None) -> None:
        for gathered, first, after, before in self._rows:
            if gathered.layer == layer:
                gathered.add(states[first:after], before)


class States:
    """What vLLM's worker learns, as `--worker-extension-cls`: its methods are called in all workers at once."""

    def terascope_open(self) -> dict[str, int]:
        """Begin, once; return how many layers can be read (0: only the model's end), and the width of states."""
        watch = _watch(self)
        return {"layers": watch.layers, "width": watch.width}

    def terascope_take(self, key: str) -> dict[str, Any] | None:
        """Return the states gathered under `key`, as float32 in `data` with their `shape`, and forget them.

        An `error` says why they are not there. Of the ranks of a replica the first one answers.
        """
        try:
            gathered = _watch(self).take(key)
            if getattr(self, "rank", 0) or gathered is None:
                return None
            found = gathered.result()
        except ValueError as error:
            return {"error": str(error)}
        return {"data": found.contiguous().numpy().tobytes(), "shape": list(found.shape)}


def layers_of(model: nn.Module, count: int) -> tuple[nn.ModuleList, nn.Module] | None:
    """Return a model's `count` layers and the norm after them; None where it is not plain which they are."""
    found = [(name, one) for name, one in model.named_modules() if isinstance(one, nn.ModuleList) and len(one) == count]
    outer = [one for one in found if not any(one[0].startswith(f"{other}.") for other, _ in found)]
    if len(outer) != 1:
        return None
    name, layers = outer[0]
    parent = model.get_submodule(name.rpartition(".")[0])
    norms = [one for one in parent.children() if "norm" in type(one).__name__.lower()]
    return (layers, norms[-1]) if norms else None


def _watch(worker: Any) -> Watch:
    if not hasattr(worker.model_runner, "terascope_watch"):
        worker.model_runner.terascope_watch = Watch(worker.model_runner)
    watch: Watch = worker.model_runner.terascope_watch
    return watch


def _reading(layer: tuple[Tensor, ...], norm: nn.Module, states: Tensor) -> bool | None:
    """Whether the tensors of a `layer` are to be added; None when neither reading gives what the model gave."""
    for summed in (True, False):
        again = _tensors(norm(_stream(layer, summed=summed)))[0]
        if again.shape == states.shape and float((again - states).norm()) <= _TOLERANCE * float(states.norm()):
            return summed
    return None


def _tensors(output: object) -> list[Tensor]:
    several = output if isinstance(output, (tuple, list)) else (output,)
    return [one for one in several if isinstance(one, Tensor)]


def _stream(output: object, *, summed: bool) -> Tensor:
    first, *more = _tensors(output)
    return first + more[0] if summed and more and more[0].shape == first.shape else first


def _states(several: Iterable[object], width: int) -> Iterator[Tensor]:
    """Those of `several` that are states of a whole batch."""
    for one in several:
        if isinstance(one, Tensor) and one.is_floating_point() and one.dim() == 2 and one.shape[1] == width:
            yield one
