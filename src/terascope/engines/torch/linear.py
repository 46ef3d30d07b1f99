"""Linear layers made fast on a CPU: weights in the order the processor likes, layers with one input computed as one.

oneDNN multiplies by a weight that it has reordered about twice as fast as by a plain one while a batch is small
(benchmarks/RESULTS.md). Which layers share their input (query, key and value; gate and up) is seen in one forward
pass, so nothing here knows an architecture. Every layer keeps its place in the module and its own output.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from terascope.engines.torch import memory

_ops = torch.ops.mkldnn
_PACKED_FOR = 32  # rows; the order that oneDNN chooses for them was as fast as any other from 1 to 512 rows


class PackedLinear(nn.Module):
    """One `nn.Linear` of a group, for inference only; its input is [..., in], its output [..., out]."""

    def __init__(self, group: "_Group", index: int, like: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = like.in_features, like.out_features
        self._group = group
        self._index = index

    @property
    def weight(self) -> Tensor:
        """The plain weight [out, in], put back into its order at every call: for the few models that look at it."""
        return self._group.weight(self._index)

    @property
    def bias(self) -> Tensor | None:
        """The bias [out], if there is one."""
        return self._group.bias(self._index)

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + b."""
        return self._group.output(x, self._index)


class _Group:
    """Linear layers that get the same input. The first of them computes for all; a different input is no error."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        weights = [layer.weight.detach() for layer in layers]
        biases = [bias.detach() for layer in layers if (bias := _bias(layer)) is not None]
        self._sizes = [layer.out_features for layer in layers]
        together = torch.cat(weights) if len(weights) > 1 else weights[0].contiguous()
        self._weight: Tensor = _ops._reorder_linear_weight(together, _PACKED_FOR)  # noqa: SLF001 - what torch.compile calls
        self._bias = torch.cat(biases) if biases else None
        self._input: Tensor | None = None
        self._outputs: Sequence[Tensor] = ()

    def weight(self, index: int) -> Tensor:
        """The plain weight of a layer."""
        return torch.split(self._weight.to_dense(), self._sizes)[index]

    def bias(self, index: int) -> Tensor | None:
        """The bias of a layer."""
        return None if self._bias is None else torch.split(self._bias, self._sizes)[index]

    def output(self, x: Tensor, index: int) -> Tensor:
        """The output of a layer for `x`."""
        if len(self._sizes) == 1:
            return self._compute(x)
        if index == 0 or x is not self._input:
            self._input, self._outputs = x, torch.split(self._compute(x), self._sizes, dim=-1)
        found = self._outputs[index]
        if index == len(self._sizes) - 1:  # keep nothing alive until the next step
            self._input, self._outputs = None, ()
        return found

    def _compute(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return _product(x, self)
        return self.product(x)

    def dense(self) -> Tensor:
        """The plain weights of all layers, one below the other."""
        return self._weight.to_dense()

    def product(self, x: Tensor) -> Tensor:
        """The outputs of all layers side by side."""
        found: Tensor = _ops._linear_pointwise(x, self._weight, self._bias, "none", [], "")  # noqa: SLF001 - as above
        return found


class _Product(torch.autograd.Function):
    """The way back to the input; weights are not trained."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: _Group) -> Tensor:
        """Return the product."""
        ctx.group = group
        return group.product(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the input."""
        return gradients[0] @ ctx.group.dense(), None


def _product(x: Tensor, group: _Group) -> Tensor:
    found: Tensor = _Product.apply(x, group)  # type: ignore[no-untyped-call]  # torch gives it no type
    return found


def packable(dtype: torch.dtype, device: torch.device) -> bool:
    """True when `pack` makes a module of this type faster on this machine."""
    if device.type != "cpu" or not torch._C._has_mkldnn:  # noqa: SLF001 - the public name of it has no type
        return False
    half = bool(_ops._is_mkldnn_bf16_supported())  # noqa: SLF001 - as above
    return dtype == torch.float32 or (dtype == torch.bfloat16 and half)


def pack(module: nn.Module, run: Callable[[], object]) -> None:
    """Replace the linear layers of `module`; `run` computes one forward pass of it. Plain weights are let go of."""
    groups = _groups(module, run)
    names = {layer: name for name, layer in module.named_modules() if type(layer) is nn.Linear}
    while groups:  # one after the other, so that no more than one group is there twice
        layers = groups.pop()
        group = _Group(layers)
        for layer in layers:
            memory.page_out(layer.weight)
        for index, layer in enumerate(layers):
            parent, _, own = names.pop(layer).rpartition(".")
            setattr(module.get_submodule(parent), own, PackedLinear(group, index, layer))
        del layers


def _bias(layer: nn.Linear) -> Tensor | None:
    return layer.bias  # which nn.Linear declares to be there always


def _groups(module: nn.Module, run: Callable[[], object]) -> list[list[nn.Linear]]:
    """The linear layers that `run` uses, in the order of their use; those with one input stand together."""
    seen: list[tuple[nn.Linear, Tensor]] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(layer, nn.Linear) and inputs:
            seen.append((layer, inputs[0]))

    hooks = [one.register_forward_pre_hook(note) for one in module.modules() if type(one) is nn.Linear]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    times = Counter(layer for layer, _ in seen)
    groups: list[list[nn.Linear]] = []
    last: Tensor | None = None
    for layer, x in seen:
        if times[layer] > 1:  # which of its calls would share an input is not certain
            continue
        if x is last and (_bias(groups[-1][0]) is None) == (_bias(layer) is None):
            groups[-1].append(layer)
        else:
            groups.append([layer])
        last = x
    return groups
