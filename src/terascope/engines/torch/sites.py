"""The sites of a transformers model: which it has, how large they are, and where in its modules they are."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from terascope.core.errors import BadRequest
from terascope.engines.torch.anatomy import Anatomy, Block, examine
from terascope.engines.torch.spots import Input, Output, Router, Spot, Sum, per_token
from terascope.engines.torch.taps import Listening, Remove, Tapped, Taps
from terascope.internals.shape import Attention, Kind, ModelShape
from terascope.internals.sites import Place, Site

IN_ATTENTION = (
    Place.ATTENTION_Q, Place.ATTENTION_K, Place.ATTENTION_V, Place.ATTENTION_HEADS, Place.ATTENTION_PROBABILITIES,
)  # fmt: skip
"""Sites that attention itself tells of; no module's hook is needed."""
Run = Callable[[Listening], object]
"""Computes one forward pass over several tokens; attention tells what it is given of what it computes."""


class SiteMap:
    """Where the sites of one model are. `shape` says which there are; see `find_sites`."""

    def __init__(
        self,
        shape: ModelShape,
        spots: dict[Site, tuple[Spot, ...]],
        modules: dict[str, nn.Module],
        norm: nn.Module | None,
    ) -> None:
        self.shape = shape
        self.norm = norm
        """The final norm."""
        self._spots = spots
        self._modules = modules
        self._installed: Counter[Spot] = Counter()
        self._removers: dict[Spot, Remove] = {}

    def taps(self) -> Taps:
        """Return new taps of this model."""
        return Taps(self.install)

    def install(self, site: Site, taps: Any) -> Remove:
        """Let the model show `taps` what is at `site` until the function that is returned is called.

        Raises `BadRequest` when the model has no such site.
        """
        if site.place in IN_ATTENTION or site.place is Place.LOGITS:
            return _nothing  # they are told of without hooks
        spots = self._spots_of(site)
        for spot in spots:
            self._installed[spot] += 1
            if self._installed[spot] == 1:
                self._removers[spot] = spot.install(taps)

        def remove() -> None:
            for spot in spots:
                self._installed[spot] -= 1
                if not self._installed[spot]:
                    self._removers.pop(spot)()

        return remove

    def _spots_of(self, site: Site) -> tuple[Spot, ...]:
        if site.module and site.module in self._modules:
            module = self._modules[site.module]
            spot = Input([module], [site]) if site.place is Place.MODULE_INPUT else Output(module, [site])
            return self._spots.setdefault(site, (spot,))
        if site not in self._spots:
            raise BadRequest(f"this model has no site `{site}`; `terascope sites` lists those it has")
        return self._spots[site]


class _Sizes:
    """Notes how large what attention tells of is, by place, in every layer."""

    def __init__(self) -> None:
        self.seen: dict[Place, tuple[int, ...]] = {}
        self.layers: set[int] = set()

    def wants(self, place: Place, layer: int | None = None) -> bool:
        """See `Listening.wants`."""
        return place in IN_ATTENTION

    def through(self, place: Place, layer: int | None, x: Tensor) -> Tensor:
        """See `Listening.through`."""
        self.seen[place] = tuple(x.shape[1:])
        self.layers.add(-1 if layer is None else layer)
        return x

    def rows(self, place: Place, layer: int | None) -> list[Tapped]:
        """See `Listening.rows`."""
        return []


@torch.inference_mode()
def find_sites(module: PreTrainedModel, run: Run, kind: Kind = Kind.DECODER) -> SiteMap:
    """Return the map of `module`, found in one forward pass that `run` computes."""
    sizes = _Sizes()
    anatomy = examine(module, lambda: run(sizes))
    blocks = {block.layer: block for block in anatomy.blocks}
    shape = _shape(module.config.get_text_config(), anatomy, sizes, kind, _vocabulary(module))
    spots: dict[Site, tuple[Spot, ...]] = {}
    for block in blocks.values():
        spots |= _spots(block, shape)
    if anatomy.norm is not None:
        spots[Site(Place.NORM)] = (Output(anatomy.norm.module, [Site(Place.NORM)]),)
    calls = {call.name: call.module for call in anatomy.calls if call.name in shape.modules}
    return SiteMap(shape, spots, calls, anatomy.norm.module if anatomy.norm else None)


def _vocabulary(module: PreTrainedModel) -> int:
    head = module.get_output_embeddings()
    return 0 if head is None else int(head.weight.shape[0])


def _shape(config: PretrainedConfig, anatomy: Anatomy, sizes: _Sizes, kind: Kind, vocabulary: int) -> ModelShape:
    blocks = anatomy.blocks
    moe = tuple(block.layer for block in blocks if block.router is not None)
    neurons = [_width(block.neurons.input) for block in blocks if block.neurons is not None]
    routers = [block.router.outputs for block in blocks if block.router is not None]
    heads, head_width = sizes.seen[Place.ATTENTION_Q]
    chosen = next((one.shape[-1] for one in (routers[0] if routers else ()) if not one.is_floating_point()), 0)
    return ModelShape(
        layers=len(blocks),
        width=_width(blocks[0].call.input),
        heads=heads,
        head_width=head_width,
        vocabulary=vocabulary,
        neurons=neurons[0] if neurons else 0,
        kv_heads=sizes.seen[Place.ATTENTION_K][0],
        value_width=sizes.seen[Place.ATTENTION_V][1],
        experts=routers[0][0].shape[-1] if routers else 0,
        experts_per_token=chosen,
        moe_layers=moe,
        kind=kind,
        attention=Attention.LATENT if getattr(config, "kv_lora_rank", None) else Attention.SOFTMAX,
        final_norm=anatomy.norm is not None,
        modules=_modules(anatomy),
        absent=_absent(blocks),
    )


def _absent(blocks: tuple[Block, ...]) -> tuple[str, ...]:
    """Places that not all of the blocks have, though blocks of other models do."""
    dense = [block for block in blocks if block.router is None]
    has = {
        Place.RESIDUAL_MID: all(block.sequential for block in blocks),
        Place.ATTENTION_OUTPUT: all(block.attention for block in blocks),
        Place.MLP_INPUT: all(block.mlp_input for block in blocks),
        Place.MLP_OUTPUT: all(block.mlp for block in blocks),
        Place.MLP_NEURONS: all(block.neurons for block in dense),
    }
    return tuple(place.value for place, there in has.items() if not there)


def _modules(anatomy: Anatomy) -> dict[str, tuple[int, int]]:
    """Paths and widths of modules that get and give vectors for each token."""
    tokens = per_token(_tensor(anatomy.blocks[0].call.input)).shape[0]
    return {
        call.name: (_width(call.input), _width(call.output))
        for call in anatomy.calls
        if call.name and _is_per_token(call.input, tokens) and _is_per_token(call.output, tokens)
    }


def _is_per_token(x: Tensor | None, tokens: int) -> bool:
    return x is not None and x.is_floating_point() and x.dim() > 1 and per_token(x).shape[0] == tokens


def _spots(block: Block, shape: ModelShape) -> dict[Site, tuple[Spot, ...]]:
    layer = block.layer
    site = {place: Site(place, layer) for place in Place}
    first = [Site(Place.EMBEDDINGS)] if layer == 0 else []
    pre = Input([block.call.module], [*first, site[Place.RESIDUAL_PRE]])
    found: dict[Site, tuple[Spot, ...]] = dict.fromkeys([*first, site[Place.RESIDUAL_PRE]], (pre,))
    found |= _middle(block, pre)
    outputs = ((Place.MLP_OUTPUT, block.mlp), (Place.RESIDUAL_POST, block.call))
    found |= {site[place]: (Output(call.module, [site[place]]),) for place, call in outputs if call is not None}
    inputs = ((Place.MLP_INPUT, block.mlp_input), (Place.MLP_NEURONS, block.neurons))
    found |= {site[place]: (Input([call.module], [site[place]]),) for place, call in inputs if call is not None}
    if block.router is not None:
        router = Router(block.router.module, layer, shape.experts)
        found |= dict.fromkeys([site[Place.ROUTER_LOGITS], site[Place.ROUTER_EXPERTS]], (router,))
    return found


def _middle(block: Block, pre: Input) -> dict[Site, tuple[Spot, ...]]:
    """What attention adds to the stream, and the stream after it."""
    term, total = Site(Place.ATTENTION_OUTPUT, block.layer), Site(Place.RESIDUAL_MID, block.layer)
    if block.attention is None:
        return {}
    if block.sequential and block.mid is None:
        return dict.fromkeys([term, total], (pre, Sum(pre, block.attention.module, term, total)))
    found: dict[Site, tuple[Spot, ...]] = {term: (Output(block.attention.module, [term]),)}
    if block.mid is not None:
        found[total] = (Output(block.mid.module, [total]),)
    return found


def _width(x: Tensor | None) -> int:
    return 0 if x is None else x.shape[-1]


def _tensor(x: Tensor | None) -> Tensor:
    if x is None:
        raise RuntimeError("a block got no tensor")
    return x


def _nothing() -> None:
    pass
