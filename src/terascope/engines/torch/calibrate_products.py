"""Calibration: memory bandwidth, and matrix products at the shapes of a model's layers."""

from collections.abc import Iterator, Sequence

import torch

from terascope.engines.torch.calibrate_cases import Case, Maker, Shapes, Shelf, copies_of
from terascope.engines.torch.stopwatch import Work

_WIDTH = {"bf16": 2, "fp8": 1}


def bandwidth(maker: Maker, sizes: Sequence[int]) -> Iterator[Case]:
    """Copies and sums of `sizes` bytes. A copy of n bytes moves 2 n, which is what its case states."""
    for size in sizes:

        def copy(size: int = size) -> Work:
            source, target = maker.normal(size // 2), maker.normal(size // 2)
            return lambda _: target.copy_(source)

        def add(size: int = size) -> Work:
            source = maker.normal(size // 2).view(torch.float32)
            return lambda _: source.sum()

        yield Case("bandwidth", "copy", "bf16", 2 * size, 0, copy, {"bytes": size})
        yield Case("bandwidth", "sum", "fp32", size, size / 4, add, {"bytes": size})


def matrices(shapes: Shapes) -> dict[str, tuple[int, int]]:
    """The weights that every token passes, by name: inputs and outputs."""
    wide = shapes.nope + shapes.rope
    return {
        "q_a": (shapes.hidden, shapes.q_lora),
        "q_b": (shapes.q_lora, shapes.heads * wide),
        "kv_a": (shapes.hidden, shapes.kv_lora + shapes.rope),
        "kv_b": (shapes.kv_lora, shapes.heads * (shapes.nope + shapes.value)),
        "o": (shapes.heads * shapes.value, shapes.hidden),
        "dense_up": (shapes.hidden, 2 * shapes.inner),
        "dense_down": (shapes.inner, shapes.hidden),
        "shared_up": (shapes.hidden, 2 * shapes.expert_inner),
        "shared_down": (shapes.expert_inner, shapes.hidden),
        "router": (shapes.hidden, shapes.experts),
        "head": (shapes.hidden, shapes.vocabulary),
    }


def products(
    maker: Maker, shapes: Shapes, names: Sequence[str], formats: Sequence[str], tokens: Sequence[int]
) -> Iterator[Case]:
    """Products of `tokens` rows with the weights called `names`."""
    found = matrices(shapes)
    for name in names:
        inputs, outputs = found[name]
        for number_format in formats:
            shelf = Shelf()
            for count in tokens:
                yield _product(maker, shelf, f"{shapes.name} {name}", number_format, count, inputs, outputs)


def _product(maker: Maker, shelf: Shelf, name: str, number_format: str, count: int, inputs: int, outputs: int) -> Case:
    size = inputs * outputs * _WIDTH[number_format]
    copies = copies_of(size, maker.device)

    def make() -> list[torch.Tensor]:
        return [maker.weights(number_format, outputs, inputs) for _ in range(copies)]

    def build() -> Work:
        weights = shelf.get((name, number_format), make)
        given = maker.weights(number_format, count, inputs)
        if number_format == "bf16":
            return lambda run: torch.mm(given, weights[run].t())
        one, fast = maker.ones(), maker.device.type == "cuda"  # as engines do
        return lambda run: torch._scaled_mm(  # noqa: SLF001 - torch has no other name for its products in fp8
            given, weights[run].t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=fast
        )

    shape = {"tokens": count, "inputs": inputs, "outputs": outputs}
    return Case("products", name, number_format, size, 2.0 * count * inputs * outputs, build, shape, copies)


def experts(
    maker: Maker, shapes: Shapes, formats: Sequence[str], tokens: Sequence[int], held: int, seed: int = 0
) -> Iterator[Case]:
    """Grouped products with `held` of the experts (up with gate, and down), for `tokens` tokens that choose among all.

    A GPU that holds an eighth of the experts sees an eighth of the choices.
    """
    for number_format in formats:
        shelf = Shelf()
        for count in tokens:
            loads = spread(maker.device, shapes, count, held, seed)
            if int(loads.sum()):
                yield _grouped(maker, shelf, shapes, number_format, count, loads)


def spread(device: torch.device, shapes: Shapes, tokens: int, held: int, seed: int) -> torch.Tensor:
    """How many of `tokens` tokens choose each of the first `held` experts, when each chooses at random."""
    generator = torch.Generator(device).manual_seed(seed)
    chosen = torch.rand(tokens, shapes.experts, generator=generator, device=device).topk(shapes.chosen).indices
    return torch.bincount(chosen.flatten().cpu(), minlength=shapes.experts)[:held]


def _grouped(maker: Maker, shelf: Shelf, shapes: Shapes, number_format: str, count: int, loads: torch.Tensor) -> Case:
    rows, hit, held = int(loads.sum()), int((loads > 0).sum()), len(loads)
    expert = 3 * shapes.hidden * shapes.expert_inner

    def make() -> list[torch.Tensor]:
        up = maker.weights(number_format, held, 2 * shapes.expert_inner, shapes.hidden)
        return [up, maker.weights(number_format, held, shapes.hidden, shapes.expert_inner)]

    def build() -> Work:
        up, down = shelf.get(number_format, make)
        ends = loads.cumsum(0).to(torch.int32).to(maker.device)
        given = maker.weights(number_format, rows, shapes.hidden)
        inner = maker.weights(number_format, rows, shapes.expert_inner)
        if number_format == "bf16":
            return lambda _: (_multiply(given, up, ends), _multiply(inner, down, ends))
        scale, wide, narrow = maker.ones(rows), maker.ones(held, up.shape[1]), maker.ones(held, down.shape[1])
        return lambda _: (
            _multiply_fp8(given, up, ends, scale, wide),
            _multiply_fp8(inner, down, ends, scale, narrow),
        )

    shape = {"tokens": count, "experts": held, "rows": rows, "hit": hit}
    read = hit * expert * _WIDTH[number_format]
    return Case("experts", f"{shapes.name} experts", number_format, read, 2.0 * rows * expert, build, shape)


def _multiply(given: torch.Tensor, weights: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = torch._grouped_mm(given, weights.transpose(1, 2), offs=ends)  # noqa: SLF001 - as above
    return found


def _multiply_fp8(
    given: torch.Tensor, weights: torch.Tensor, ends: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    found: torch.Tensor = torch._scaled_grouped_mm(  # noqa: SLF001 - as above
        given, weights.transpose(1, 2), rows, columns, offs=ends, out_dtype=torch.bfloat16
    )
    return found
