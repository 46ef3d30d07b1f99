"""Layouts of the KV cache, timed for kv_layout.py: the worker's blocks, slots, and slots as a static cache has them."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from terascope.engines.torch.attention import NAME, Attend, PackedAttention
from terascope.engines.torch.cache import BLOCK, BlockPool, Digests, LayerStore, blocks_for
from terascope.engines.torch.layout import Layout, Single, Span, lay_out
from terascope.engines.torch.packed import PackedModel, Step, prepare

HEADS, KEY_HEADS, SIZE, LAYERS = 9, 3, 64, 30
HIDDEN, INNER, VOCABULARY = HEADS * SIZE, 1536, 49152
MOST, LEAST, PREFIX = 4096, 64, 1024
LAYERS_MIB = 1024  # as many layers are timed as fit into this, in each layout
LAYERS_TIMED = (2, LAYERS)
STEP_TOKENS = 66_000  # rows with more tokens behind them together are not timed in a whole model: memory
SECONDS, TIMES = 1.5, 7  # how long each case is timed at least, and how often
CPU = torch.device("cpu")


def lengths_of(rows: int, length: str) -> list[int]:
    """Tokens that each row has once its new one is there; `mixed` is spread evenly, in no order."""
    if length != "mixed":
        return [int(length)] * rows
    spread = [LEAST + round(number * (MOST - LEAST) / (rows - 1)) for number in range(rows)]
    return [spread[5 * number % rows] for number in range(rows)]  # 5 shares no factor with 8 or 32


@dataclass(frozen=True)
class Decode:
    """The new token of every row in one layer: [1, heads, rows, size]."""

    query: Tensor
    key: Tensor
    value: Tensor

    @classmethod
    def random(cls, rows: int, dtype: torch.dtype) -> "Decode":
        """Of `rows` rows."""
        query, key, value = (torch.randn(1, heads, rows, SIZE, dtype=dtype) for heads in (HEADS, KEY_HEADS, KEY_HEADS))
        return cls(query, key, value)


class Blocks:
    """The worker's own: `PackedAttention` over a pool with room for just these rows, spread over it."""

    def __init__(self, lengths: Sequence[int], dtype: torch.dtype, layers: int) -> None:
        counts = [blocks_for(length) for length in lengths]
        numbers = (1 + torch.randperm(sum(counts))).tolist()
        own = [[numbers.pop() for _ in range(count)] for count in counts]
        self.layout = lay_out([Span(length - 1, 1, one) for length, one in zip(lengths, own, strict=True)], CPU)
        self._attention = PackedAttention(sum(counts))
        self._modules = [SimpleNamespace(layer_idx=index) for index in range(layers)]
        for index in range(layers):
            self._attention._layers[index] = filled(LayerStore(sum(counts)), sum(counts), dtype)  # noqa: SLF001

    def run(self, new: Decode) -> Tensor:
        """One step of all layers; return what the last one gives, [rows, heads, size]."""
        with self._attention.at(self.layout):
            for module in self._modules:
                found, _ = self._attention(module, new.query, new.key, new.value, None)  # type: ignore[arg-type]
        return found[0]

    def read(self, single: Single) -> tuple[Tensor, Tensor]:
        """What the rows of `single` see in the first layer: keys and values."""
        return self._attention._layers[0].read(single.table)  # noqa: SLF001


def filled(store: LayerStore, blocks: int, dtype: torch.dtype) -> LayerStore:
    """`store` with numbers in all its blocks: pages that were never written are read without any memory."""
    places = torch.arange((blocks + 2) * BLOCK)
    keys, values = (torch.randn(KEY_HEADS, len(places), SIZE).to(dtype) for _ in range(2))
    store.write(places, keys, values)
    return store


class Slots:
    """A slot of `MOST` tokens for each row; the rows of a group stand beside each other."""

    def __init__(self, layout: Layout, dtype: torch.dtype, layers: int, *, whole: bool) -> None:
        """`whole`: all rows as one group over the whole length, as a static cache is computed."""
        self._attend = Attend(SIZE**-0.5, None, None)
        self._singles = [_whole(layout)] if whole else layout.singles
        sizes = [len(single.index) for single in self._singles]
        self._layers = [
            [tuple(torch.randn(KEY_HEADS, rows, MOST, SIZE).to(dtype) for _ in range(2)) for rows in sizes]
            for _ in range(layers)
        ]

    def fill(self, blocks: Blocks) -> None:
        """Put what `blocks` has in its first layer into the first layer here."""
        for number, single in enumerate(blocks.layout.singles):
            whole = len(self._singles) < len(blocks.layout.singles)
            rows = single.index if whole else torch.arange(len(single.index))
            for own, seen in zip(self._layers[0][0 if whole else number], blocks.read(single), strict=True):
                own[:, rows, : seen.shape[2]] = seen

    def run(self, new: Decode) -> Tensor:
        """One step of all layers; return what the last one gives, [rows, heads, size]."""
        for layer in self._layers:
            result = new.query.new_empty(new.query.shape[2], HEADS, SIZE)
            for single, (keys, values) in zip(self._singles, layer, strict=True):
                rows, end = torch.arange(len(single.index)), single.table.shape[1] * BLOCK
                keys[:, rows, single.positions] = new.key[0, :, single.index]
                values[:, rows, single.positions] = new.value[0, :, single.index]
                query = new.query[0, :, single.index]
                result[single.index] = self._attend.together(query, keys[:, :, :end], values[:, :, :end], single, 0)
        return result


def _whole(layout: Layout) -> Single:
    """All rows of `layout` as one group over whole slots; only the width of its table is used here."""
    rows = len(layout.positions)
    return Single(torch.arange(rows), torch.zeros(rows, MOST // BLOCK, dtype=torch.long), layout.positions)


class Bench:
    """Times all layouts in one type of number."""

    def __init__(self, dtype: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._model = _model(self._dtype)

    @torch.inference_mode()
    def case(self, rows: int, length: str) -> dict[str, float]:
        """Microseconds a layer in each layout, and memory, for `rows` rows of `length` tokens."""
        lengths, new = lengths_of(rows, length), Decode.random(rows, self._dtype)
        layers = self._layers_timed(rows)
        blocks = Blocks(lengths, self._dtype, layers)
        ways = {"blocks": blocks.run, "slots": Slots(blocks.layout, self._dtype, layers, whole=False).run}
        if length == "mixed":
            ways["padded"] = Slots(blocks.layout, self._dtype, layers, whole=True).run
        seconds = interleaved({name: _bound(run, new) for name, run in ways.items()})
        taken = {f"{name}_us": one / layers * 1e6 for name, one in seconds.items()}
        taken["vs_slots"] = taken["blocks_us"] / taken["slots_us"]
        per_token = 2 * KEY_HEADS * SIZE * self._dtype.itemsize * LAYERS / 2**20
        taken["blocks_mib"] = sum(blocks_for(one) for one in lengths) * BLOCK * per_token
        taken["slots_mib"] = rows * MOST * per_token
        return taken | self._step(lengths, taken["blocks_us"] - taken["slots_us"])

    def _layers_timed(self, rows: int) -> int:
        layer = 2 * KEY_HEADS * rows * MOST * SIZE * self._dtype.itemsize / 2**20
        least, most = LAYERS_TIMED
        return max(least, min(most, int(LAYERS_MIB / layer)))

    def _step(self, lengths: Sequence[int], more_us: float) -> dict[str, float]:
        """A whole step of the model, and the share of it that `more_us` in every layer is."""
        tokens = sum(blocks_for(one) for one in lengths) * BLOCK
        if tokens > STEP_TOKENS:
            return {}
        packed = PackedModel(self._model, tokens)
        for index in range(LAYERS):
            packed._attention._layers[index] = filled(  # noqa: SLF001
                LayerStore(packed.pool.blocks), packed.pool.blocks, self._dtype
            )
        spans = [Span(one - 1, 1, packed.pool.take(blocks_for(one))) for one in lengths]
        step = Step([5] * len(spans), spans, range(len(spans)))
        seconds = interleaved({"step": lambda: packed.run(step)})["step"]
        return {"step_ms": seconds * 1e3, "step_share": more_us * LAYERS / 1e6 / seconds}

    @torch.inference_mode()
    def prefix(self) -> dict[str, float]:
        """Milliseconds until a row has the first `PREFIX` tokens of another one: copied, and shared."""
        slots = torch.randn(LAYERS, 2, KEY_HEADS, 2, MOST, SIZE).to(self._dtype)
        pool, prompt = BlockPool(2 * PREFIX), [number % 1000 for number in range(PREFIX)]
        for block, digest in zip(pool.take(PREFIX // BLOCK), Digests("a", prompt).first(PREFIX // BLOCK), strict=True):
            pool.publish(block, digest)

        def copy() -> None:
            for layer in slots:
                layer[:, :, 1, :PREFIX] = layer[:, :, 0, :PREFIX]

        def share() -> None:
            found = pool.find(Digests("a", prompt).first(PREFIX // BLOCK))
            pool.share(found)
            pool.give_back(found)

        seconds = interleaved({"copy": copy, "share": share})
        return {f"{name}_ms": one * 1e3 for name, one in seconds.items()}


def _bound(run: Callable[[Decode], object], new: Decode) -> Callable[[], object]:
    return lambda: run(new)


def interleaved(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The median seconds of each, taken in turns."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for run in ways.values():
        run()  # warms up
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(taken[next(iter(ways))]) < TIMES:
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(own) for name, own in taken.items()}


def _model(dtype: torch.dtype) -> torch.nn.Module:
    """SmolLM2-135M's architecture with random weights, its layers and attention as the worker has them."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    prepare(model)
    model.set_attn_implementation(NAME)
    return model  # type: ignore[no-any-return]
