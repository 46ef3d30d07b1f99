"""What gathers hidden states inside vLLM, on batches as vLLM's runner of models makes them."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from torch import Tensor, nn

from terascope.engines.vllm.inside.terascope_states import WANTED, Gathered, Watch, layers_of

WIDTH = 4
POOLINGS = ("last", "cls", "mean", "max", "weighted", "none")


def reference(states: Tensor, pooling: str) -> Tensor:
    ranks = torch.arange(1.0, len(states) + 1)[:, None]
    return {
        "last": states[-1], "cls": states[0], "mean": states.mean(0), "max": states.amax(0), "none": states,
        "weighted": (states * ranks).sum(0) / ranks.sum(),
    }[pooling]  # fmt: skip


@given(some.sampled_from(POOLINGS), some.lists(some.tuples(some.integers(1, 6), some.integers(0, 6)), max_size=6))
def test_chunks_are_the_whole(pooling: str, chunks: list[tuple[int, int]]) -> None:
    """Of any size, and begun anew from any place, as after a request gave way; what follows the prompt is not its."""
    length = 1 + sum(size for size, _ in chunks)
    states = torch.randn(length + 3, WIDTH, generator=torch.Generator().manual_seed(length))
    gathered = Gathered(length, 1, pooling)
    for size, back in chunks:
        start = max(0, gathered.seen - back)
        gathered.add(states[start : gathered.seen + size], start)
    gathered.add(states[gathered.seen :], gathered.seen)
    gathered.add(states[length:], length)
    torch.testing.assert_close(gathered.result(), reference(states[:length], pooling))


def test_what_was_left_out_is_missed() -> None:
    gathered = Gathered(4, 1, "mean")
    gathered.add(torch.ones(1, WIDTH), 0)
    gathered.add(torch.ones(2, WIDTH), 2)
    with pytest.raises(ValueError, match="only 1 of 4"):
        gathered.result()


def test_what_is_no_number_is_not_given() -> None:
    gathered = Gathered(1, 1, "last")
    gathered.add(torch.full((1, WIDTH), torch.nan), 0)
    with pytest.raises(ValueError, match="NaN"):
        gathered.result()


def test_vectors_are_cut_and_scaled() -> None:
    gathered = Gathered(1, None, "last", scaled=True, dimensions=2)
    gathered.add(torch.tensor([[3.0, 4.0, 9.0, 9.0]]), 0)
    torch.testing.assert_close(gathered.result(), torch.tensor([0.6, 0.8]))


class Layer(nn.Module):
    """Adds to the states as the layers of vLLM do: what it adds and what came before, or all in one."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self._form = form

    def forward(self, positions: Tensor, states: Tensor, residual: Tensor | None = None) -> Any:
        stream = states if residual is None or self._form == "whole beside" else states + residual
        added = self.linear(stream)
        if self._form == "sum":
            return added, stream
        return (added + stream, stream) if self._form == "whole beside" else added + stream


class Decoder(nn.Module):
    def __init__(self, form: str, layers: int, final: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding(32, WIDTH)
        self.layers = nn.ModuleList(Layer(form) for _ in range(layers))
        self.norm = nn.LayerNorm(WIDTH)
        self._form, self._final = form, final

    def forward(self, tokens: Tensor, positions: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What the model gives, and the states that are to be seen."""
        states, residual = self.embedding(tokens), None
        seen = [states]
        for layer in self.layers:
            output = layer(positions, states, residual)
            states, residual = output if isinstance(output, tuple) else (output, None)
            seen.append(states + residual if self._form == "sum" else states)
        final = self.norm(seen[-1])
        return (final * 3 if self._final == "scaled" else final), seen


class Model(nn.Module):
    """A model as vLLM has them: it gives what comes after its last norm. `seen` is what was to be seen."""

    def __init__(self, form: str, final: str = "normed") -> None:
        super().__init__()
        self.model = Decoder(form, 3, final)
        self.seen: list[Tensor] = []

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        found, self.seen = self.model(tokens, positions)
        final: Tensor = found
        return final


class Runner:
    """Runs batches of requests' tokens, each from where it was left."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.model_config = SimpleNamespace(get_hidden_size=lambda: WIDTH, get_total_num_hidden_layers=lambda: 3)
        self.requests: dict[str, Any] = {}
        self.input_batch = SimpleNamespace(req_ids=[], num_computed_tokens_cpu=[])
        self.query_start_loc = SimpleNamespace(np=np.zeros(9, np.int32))

    def add(self, name: str, **wanted: Any) -> None:
        extra = {WANTED: {"key": name, **wanted}} if wanted else None
        self.requests[name] = SimpleNamespace(sampling_params=SimpleNamespace(extra_args=extra))

    @torch.inference_mode()
    def run(self, batch: Sequence[tuple[str, int, list[int]]]) -> dict[str, list[Tensor]]:
        """Compute a batch of names, tokens that came before, and tokens; return the states of each."""
        self.input_batch = SimpleNamespace(
            req_ids=[name for name, *_ in batch], num_computed_tokens_cpu=[before for _, before, _ in batch]
        )
        ends = np.cumsum([0, *(len(tokens) for *_, tokens in batch)])
        self.query_start_loc.np[: len(ends)] = ends
        tokens = torch.tensor([token for *_, several in batch for token in several])
        final = self.model(tokens, torch.arange(len(tokens)))
        every = [*self.model.seen, final]
        return {
            name: [layer[ends[index] : ends[index + 1]] for layer in every] for index, (name, *_) in enumerate(batch)
        }


@pytest.mark.parametrize("form", ["sum", "whole", "whole beside"])
@pytest.mark.parametrize("layer", [0, 1, 3, None])
def test_each_request_gets_its_own(form: str, layer: int | None) -> None:
    """In batches with others, chunk after chunk; after the first request it is known how layers are read."""
    torch.manual_seed(0)
    runner = Runner(Model(form))
    watch = Watch(runner)
    runner.add("trial", length=2, layer=None, pooling="last")
    runner.add("other")
    runner.add("mine", length=5, layer=layer, pooling="none")
    assert watch.layers == 0
    runner.run([("other", 0, [9, 9]), ("trial", 0, [1, 2])])
    assert watch.layers == 3
    one = runner.run([("mine", 0, [3, 4, 5]), ("other", 2, [8])])
    two = runner.run([("other", 3, [8]), ("mine", 3, [6, 7])])
    runner.run([("mine", 5, [8])])
    at = 4 if layer is None else layer
    gathered = watch.take("mine")
    assert gathered is not None
    torch.testing.assert_close(gathered.result(), torch.cat([one["mine"][at], two["mine"][at]]))
    assert watch.take("mine") is None
    runner.run([("mine", 6, [8])])
    assert watch.take("mine") is None


def test_layers_that_are_read_in_no_known_way_are_not_shown() -> None:
    runner = Runner(Model("whole", "scaled"))
    watch = Watch(runner)
    runner.add("trial", length=2, layer=None, pooling="last")
    states = runner.run([("trial", 0, [1, 2])])
    assert watch.layers == 0
    gathered = watch.take("trial")
    assert gathered is not None
    torch.testing.assert_close(gathered.result(), states["trial"][-1][-1])


def test_which_modules_are_layers_must_be_plain() -> None:
    twice = nn.ModuleDict({"a": Decoder("sum", 3, ""), "b": Decoder("sum", 3, "")})
    assert layers_of(twice, 3) is None
    assert layers_of(twice, 5) is None
    alone = Model("sum")
    assert layers_of(alone, 3) == (alone.model.layers, alone.model.norm)
