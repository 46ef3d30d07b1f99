"""Hooks at the ends of modules: where a model's code lets sites be seen and changed."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from terascope.engines.torch.taps import Remove
from terascope.internals.sites import Place, Site


class Through(Protocol):
    """What is shown the tensors of sites."""

    def at(self, site: Site, x: Tensor) -> Tensor:
        """Return what `x` [tokens, ...] becomes."""
        ...


class Spot(Protocol):
    """A place in a model's code where one or several sites are."""

    def install(self, taps: Through) -> Remove:
        """Show what comes by to `taps` until the function that is returned is called."""
        ...


class Input:
    """The first input of modules that all get the same tensor; they get what `sites` make of it, one after another."""

    def __init__(self, modules: Sequence[nn.Module], sites: Sequence[Site]) -> None:
        self._modules, self._sites = modules, sites
        self.last: Tensor | None = None
        """What they got in this step; kept while the spot is installed."""

    def install(self, taps: Through) -> Remove:
        """See `Spot.install`."""

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            key, x = first_tensor(args, kwargs)
            if module is self._modules[0] or self.last is None:  # the others get what it got
                self.last = _shown(x, self._sites, taps)
            return None if self.last is x else _replaced(args, kwargs, key, self.last)

        remove = _remover([one.register_forward_pre_hook(hook, with_kwargs=True) for one in self._modules])

        def end() -> None:
            self.last = None
            remove()

        return end


class Output:
    """The first output of a module."""

    def __init__(self, module: nn.Module, sites: Sequence[Site]) -> None:
        self._module, self._sites = module, sites

    def install(self, taps: Through) -> Remove:
        """See `Spot.install`."""

        def hook(_: nn.Module, __: Any, output: Any) -> Any:
            x = first_output(output)
            changed = _shown(x, self._sites, taps)
            return None if changed is x else _with_first(output, changed)

        return _remover([self._module.register_forward_hook(hook)])


class Sum:
    """What a module adds to the residual stream (`term`), and the stream after it (`total`), which no module gives.

    Whoever changes the total changes the term by as much, so that all that follows sees it.
    """

    def __init__(self, stream: Input, module: nn.Module, term: Site, total: Site) -> None:
        """`stream` is where the stream before it is seen; it must be installed too."""
        self._stream, self._module = stream, module
        self._term, self._total = term, total

    def install(self, taps: Through) -> Remove:
        """See `Spot.install`."""

        def hook(_: nn.Module, __: Any, output: Any) -> Any:
            x = first_output(output)
            term = _shown(x, [self._term], taps)
            if self._stream.last is None:
                raise RuntimeError("a block's end was seen without its beginning")
            total = self._stream.last + term
            changed = _shown(total, [self._total], taps)
            term = term if changed is total else term + (changed - total)
            return None if term is x else _with_first(output, term)

        return _remover([self._module.register_forward_hook(hook)])


class Router:
    """The scores that a router gives the experts, seen where they are made, and which experts it chooses."""

    def __init__(self, module: nn.Module, layer: int, experts: int) -> None:
        self._module, self._experts = module, experts
        self._logits, self._chosen = Site(Place.ROUTER_LOGITS, layer), Site(Place.ROUTER_EXPERTS, layer)

    def install(self, taps: Through) -> Remove:
        """See `Spot.install`. Choices can be seen, not changed."""
        within = ExitStack()

        def before(*_: Any) -> None:
            within.enter_context(_Products(self._experts, lambda x: taps.at(self._logits, x)))

        def after(_: nn.Module, __: Any, output: Any) -> None:
            within.close()
            if output is not None:
                taps.at(self._chosen, chosen_experts(output))

        return _remover([
            self._module.register_forward_pre_hook(before),
            self._module.register_forward_hook(after, always_call=True),
        ])  # fmt: skip


class _Products(TorchFunctionMode):
    """Lets products with as many columns as there are experts be changed: routers make their scores so."""

    def __init__(self, columns: int, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._columns, self._change = columns, change

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func is functional.linear and found.shape[-1] == self._columns:
            return self._change(found)
        return found


def chosen_experts(output: Any) -> Tensor:
    """Return the numbers of the experts [tokens, chosen] in a router's output, the one with most weight first."""
    chosen = next(one for one in output if isinstance(one, Tensor) and not one.is_floating_point())
    weights = next((one for one in output if one.is_floating_point() and one.shape == chosen.shape), None)
    return chosen if weights is None else chosen.gather(-1, weights.argsort(-1, descending=True))


def first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, Tensor]:
    """Return the first tensor that a module got and the name it came by, "" for the first of `args`."""
    if args and isinstance(args[0], Tensor):
        return "", args[0]
    return next((name, one) for name, one in kwargs.items() if isinstance(one, Tensor))


def first_output(output: Any) -> Tensor:
    """Return the first tensor that a module gave."""
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


def per_token(x: Tensor) -> Tensor:
    """Return [tokens, ...] of what modules pass on: [1, tokens, ...], or without the 1 where they dropped it."""
    return x[0] if x.dim() > 2 and x.shape[0] == 1 else x


def _shown(x: Tensor, sites: Sequence[Site], taps: Through) -> Tensor:
    own = changed = per_token(x)
    for site in sites:
        changed = taps.at(site, changed)
    return x if changed is own else changed.view(x.shape)


def _replaced(args: tuple[Any, ...], kwargs: dict[str, Any], key: str, x: Tensor) -> tuple[Any, dict[str, Any]]:
    return (args, {**kwargs, key: x}) if key else ((x, *args[1:]), kwargs)


def _with_first(output: Any, x: Tensor) -> Any:
    return (x, *output[1:]) if isinstance(output, tuple) else x


def _remover(handles: Sequence[RemovableHandle]) -> Remove:
    def remove() -> None:
        for handle in handles:
            handle.remove()

    return remove
