"""Packed linear layers compute what plain ones do, and plain weights are gone."""

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from terascope.engines.torch import linear

WIDTH, WIDE = 48, 80
Run = Callable[[nn.Module, Tensor], Tensor]


class Attention(nn.Module):
    """Three layers of different widths with one input, and one behind them."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH, bias=bias)
        self.key = nn.Linear(WIDTH, WIDTH // 2, bias=bias)
        self.value = nn.Linear(WIDTH, WIDTH // 2, bias=bias)
        self.out = nn.Linear(WIDTH, WIDTH, bias=not bias)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(self.query(x) * torch.cat([self.key(x), self.value(x)], dim=-1))
        return found


class MixedBias(nn.Module):
    """Two layers with one input of which one has a bias: no group."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH, bias=bias), nn.Linear(WIDTH, WIDTH, bias=not bias)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.first(x) + self.second(x)
        return found


class Everything(nn.Module):
    """Groups, a layer used twice, one that is not used, and one that is not quite a linear layer."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Attention(bias), Attention(bias), MixedBias(bias)])
        self.up, self.gate = nn.Linear(WIDTH, WIDE, bias=bias), nn.Linear(WIDTH, WIDE, bias=bias)
        self.down = nn.Linear(WIDE, WIDTH, bias=bias)
        self.twice = nn.Linear(WIDTH, WIDTH, bias=bias)
        self.unused = nn.Linear(WIDTH, 7, bias=bias)
        self.special = Special(WIDTH, WIDTH, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        x = self.down(self.up(x) * self.gate(x).tanh())
        found: Tensor = self.special(self.twice(self.twice(x)))
        return found


class Special(nn.Linear):
    """A layer with a mind of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 0.5


TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}


def _module(dtype: torch.dtype, bias: bool, kind: Callable[[bool], nn.Module] = Everything) -> nn.Module:
    if not linear.packable(dtype, torch.device("cpu")):
        pytest.skip("this processor has nothing faster for it")
    torch.manual_seed(5)
    return kind(bias).to(dtype).eval().requires_grad_(False)


def _pack(module: nn.Module) -> nn.Module:
    x = torch.randn(1, 3, WIDTH, dtype=next(module.parameters()).dtype)
    linear.pack(module, lambda: module(x))
    return module


kinds = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
biases = pytest.mark.parametrize("bias", [False, True])


@kinds
@biases
@pytest.mark.parametrize("tokens", [1, 2, 31, 200])
def test_the_same_comes_out(dtype: torch.dtype, bias: bool, tokens: int) -> None:
    plain, packed = _module(dtype, bias), _pack(_module(dtype, bias))
    x = torch.randn(1, tokens, WIDTH, dtype=dtype)
    with torch.inference_mode():
        expected, found = plain(x), packed(x)
    assert found.dtype == dtype
    assert float((found - expected).norm() / expected.norm()) < TOLERANCE[dtype]


@biases
def test_who_is_packed_and_with_whom(bias: bool) -> None:
    packed = _pack(_module(torch.float32, bias))
    groups: dict[object, list[str]] = {}
    for name, layer in packed.named_modules():
        if isinstance(layer, linear.PackedLinear):
            groups.setdefault(layer._group, []).append(name)
    assert sorted(groups.values()) == [
        ["blocks.0.out"],
        ["blocks.0.query", "blocks.0.key", "blocks.0.value"],
        ["blocks.1.out"],
        ["blocks.1.query", "blocks.1.key", "blocks.1.value"],
        ["blocks.2.first"],
        ["blocks.2.second"],
        ["down"],
        ["up", "gate"],
    ]
    assert {name for name, layer in packed.named_modules() if isinstance(layer, nn.Linear)} == {
        "twice",  # which of its calls shares an input with whom is not certain
        "unused",
        "special",
    }


@kinds
@biases
def test_weights_can_still_be_read(dtype: torch.dtype, bias: bool) -> None:
    plain, packed = _module(dtype, bias), _pack(_module(dtype, bias))
    for name, right in plain.named_modules():
        found = packed.get_submodule(name)
        if isinstance(right, nn.Linear):
            assert isinstance(found, nn.Linear | linear.PackedLinear)
            assert torch.equal(found.weight, right.weight)
            assert found.weight.layout is torch.strided
            assert (found.bias is not None) is (len(list(right.parameters())) == 2)
            assert found.bias is None or torch.equal(found.bias, right.bias)
            assert (found.in_features, found.out_features) == (right.in_features, right.out_features)


@kinds
@pytest.mark.parametrize("which", ["query", "key", "value"])
def test_one_layer_may_get_another_input(dtype: torch.dtype, which: str) -> None:
    """As it does where a hook changes what goes into it."""
    plain, packed = _module(dtype, True, Attention), _pack(_module(dtype, True, Attention))
    x = torch.randn(1, 4, WIDTH, dtype=dtype)
    for module in (plain, packed):
        module.get_submodule(which).register_forward_pre_hook(lambda _, inputs: (inputs[0] * 2 + 1,))
    with torch.inference_mode():
        for _ in range(2):
            expected, found = plain(x), packed(x)
            assert float((found - expected).norm() / expected.norm()) < TOLERANCE[dtype]


@pytest.mark.parametrize("order", ["query key value", "value query key", "key", "value value query", "query query"])
def test_layers_may_be_called_in_any_order(order: str) -> None:
    plain, packed = _module(torch.float32, True, Attention), _pack(_module(torch.float32, True, Attention))
    for _ in range(2):
        for x in torch.randn(2, 1, 3, WIDTH):
            for name in order.split():
                torch.testing.assert_close(packed.get_submodule(name)(x), plain.get_submodule(name)(x))


def test_a_pass_that_breaks_off_leaves_nothing_wrong_behind() -> None:
    plain, packed = _module(torch.float32, True, Attention), _pack(_module(torch.float32, True, Attention))
    x = torch.randn(1, 3, WIDTH)
    packed.get_submodule("query")(x)  # and no further
    other = torch.randn(1, 3, WIDTH)
    torch.testing.assert_close(packed(other), plain(other))


def test_outputs_belong_to_whoever_asked() -> None:
    """Changing one layer's output in place changes no other's."""
    plain, packed = _module(torch.float32, True, Attention), _pack(_module(torch.float32, True, Attention))
    for module in (plain, packed):
        module.get_submodule("query").register_forward_hook(lambda _, __, output: output.mul_(3))
    x = torch.randn(1, 3, WIDTH)
    torch.testing.assert_close(packed(x), plain(x))


def test_plain_weights_are_let_go_of() -> None:
    module = _module(torch.float32, True)
    kept = {"twice", "unused", "special"}
    gone = [
        weakref.ref(tensor)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and name not in kept
        for tensor in layer.parameters()
    ]
    assert len(gone) > 10
    _pack(module)
    gc.collect()
    assert [one() for one in gone] == [None] * len(gone)


def test_hooks_are_taken_off_also_when_the_pass_fails() -> None:
    module = _module(torch.float32, True)

    def fail() -> None:
        module(torch.zeros(1, 2, WIDTH))
        raise ArithmeticError("in the middle")

    with pytest.raises(ArithmeticError):
        linear.pack(module, fail)
    assert not any(layer._forward_pre_hooks for layer in module.modules())
    assert not any(isinstance(layer, linear.PackedLinear) for layer in module.modules())


def test_what_is_not_packed() -> None:
    assert not linear.packable(torch.float32, torch.device("meta"))
    assert not linear.packable(torch.float64, torch.device("cpu"))
