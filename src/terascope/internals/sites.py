"""One language of sites for all architectures: where a model may be looked into.

`embeddings`, `blocks.L.residual.pre`, ..., `norm`, `logits`, or `module:PATH:input` for experts. In a request `L` is a
layer from 0, a negative one, a range `3-7` or `*`; a `Site` is one place with its layer known.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from terascope.core.errors import BadRequest
from terascope.core.words import nearest, suggestion
from terascope.internals.shape import Attention, Kind, ModelShape


class Place(StrEnum):
    """What a site is, the layer left out."""

    EMBEDDINGS = "embeddings"
    RESIDUAL_PRE = "residual.pre"
    RESIDUAL_MID = "residual.mid"
    RESIDUAL_POST = "residual.post"
    ATTENTION_Q = "attention.q"
    ATTENTION_K = "attention.k"
    ATTENTION_V = "attention.v"
    ATTENTION_HEADS = "attention.heads"
    ATTENTION_OUTPUT = "attention.output"
    ATTENTION_PROBABILITIES = "attention.probabilities"
    MLP_INPUT = "mlp.input"
    MLP_NEURONS = "mlp.neurons"
    MLP_OUTPUT = "mlp.output"
    ROUTER_LOGITS = "router.logits"
    ROUTER_EXPERTS = "router.experts"
    NORM = "norm"
    LOGITS = "logits"
    MODULE_INPUT = "input"
    MODULE_OUTPUT = "output"


MEANINGS: dict[Place, str] = {
    Place.EMBEDDINGS: "what the first block gets: token embeddings, with what the model adds or multiplies",
    Place.RESIDUAL_PRE: "the residual stream before the block",
    Place.RESIDUAL_MID: "the residual stream between attention and MLP",
    Place.RESIDUAL_POST: "the residual stream after the block",
    Place.ATTENTION_Q: "queries, after their rotation where the model has one",
    Place.ATTENTION_K: "keys of the key-value heads, after their rotation",
    Place.ATTENTION_V: "values of the key-value heads",
    Place.ATTENTION_HEADS: "each head's output, before the output projection",
    Place.ATTENTION_OUTPUT: "what attention adds to the residual stream",
    Place.ATTENTION_PROBABILITIES: "how much each head looks at each token: all tokens of the row up to this step",
    Place.MLP_INPUT: "what the MLP (or the mixture of experts) gets, after its norm",
    Place.MLP_NEURONS: "the MLP's inside, before its output projection",
    Place.MLP_OUTPUT: "what the MLP (or the mixture of experts) adds to the residual stream",
    Place.ROUTER_LOGITS: "the router's scores of all experts, before their selection",
    Place.ROUTER_EXPERTS: "the numbers of the chosen experts, the likeliest first; can be read, not written",
    Place.NORM: "what the final norm gives",
    Place.LOGITS: "the logits of the next token",
    Place.MODULE_INPUT: "the first input of a module of the model's code, by its path",
    Place.MODULE_OUTPUT: "the (first) output of a module of the model's code, by its path",
}
"""What each place holds."""
_OF_MODEL = (Place.EMBEDDINGS, Place.NORM, Place.LOGITS)
_OF_MODULE = (Place.MODULE_INPUT, Place.MODULE_OUTPUT)
_OF_BLOCK = tuple(place for place in Place if place not in (*_OF_MODEL, *_OF_MODULE))
_OF_MOE = (Place.ROUTER_LOGITS, Place.ROUTER_EXPERTS)
_RESIDUAL = (
    Place.EMBEDDINGS, Place.RESIDUAL_PRE, Place.RESIDUAL_MID, Place.RESIDUAL_POST, Place.ATTENTION_OUTPUT,
    Place.MLP_OUTPUT, Place.NORM,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Site:
    """One place of one model. `layer` counts from 0 and is None outside the blocks; `module` is a module's path."""

    place: Place
    layer: int | None = None
    module: str = ""

    def __str__(self) -> str:
        if self.module:
            return f"module:{self.module}:{self.place}"
        return str(self.place) if self.layer is None else f"blocks.{self.layer}.{self.place}"


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of what a site holds for a token. A `size` of 0 is as many as the row has tokens up to the step."""

    name: str
    size: int


def axes(site: Site, shape: ModelShape) -> tuple[Axis, ...]:
    """The axes of `site` for one token; the last is what a vector lies along. Module widths may be 0: not known."""
    kv_heads = shape.heads if shape.attention is Attention.LATENT else shape.kv_heads or shape.heads
    values = shape.value_width or shape.head_width
    found: dict[Place, tuple[Axis, ...]] = {
        Place.ATTENTION_Q: (Axis("head", shape.heads), Axis("channel", shape.head_width)),
        Place.ATTENTION_K: (Axis("kv_head", kv_heads), Axis("channel", shape.head_width)),
        Place.ATTENTION_V: (Axis("kv_head", kv_heads), Axis("channel", values)),
        Place.ATTENTION_HEADS: (Axis("head", shape.heads), Axis("channel", values)),
        Place.ATTENTION_PROBABILITIES: (Axis("head", shape.heads), Axis("key", 0)),
        Place.MLP_NEURONS: (Axis("neuron", shape.neurons),),
        Place.ROUTER_LOGITS: (Axis("expert", shape.experts),),
        Place.ROUTER_EXPERTS: (Axis("choice", shape.experts_per_token),),
        Place.LOGITS: (Axis("vocabulary", shape.vocabulary),),
    }
    if site.module:
        widths = shape.modules.get(site.module, (0, 0))
        return (Axis("channel", widths[site.place is Place.MODULE_OUTPUT]),)
    return found.get(site.place, (Axis("channel", shape.width),))


def is_residual(site: Site) -> bool:
    """Whether it lies in the residual stream or adds to it, and so can be read through the unembedding."""
    return site.place in _RESIDUAL


def is_writable(site: Site) -> bool:
    """Whether interventions may change it."""
    return site.place is not Place.ROUTER_EXPERTS


def has_heads(site: Site) -> bool:
    """Whether it has an axis of heads."""
    return site.place in (
        Place.ATTENTION_Q, Place.ATTENTION_K, Place.ATTENTION_V, Place.ATTENTION_HEADS, Place.ATTENTION_PROBABILITIES,
    )  # fmt: skip


def all_sites(shape: ModelShape) -> Iterator[Site]:
    """Every site of the model but raw modules, from the input to the output."""
    yield Site(Place.EMBEDDINGS)
    for layer in range(shape.layers):
        yield from (Site(place, layer) for place in _OF_BLOCK if _is_in(place, layer, shape))
    if shape.final_norm:
        yield Site(Place.NORM)
    if shape.vocabulary and shape.kind is Kind.DECODER:
        yield Site(Place.LOGITS)


def _is_in(place: Place, layer: int, shape: ModelShape) -> bool:
    if place in shape.absent:
        return False
    if place in _OF_MOE:
        return layer in shape.moe_layers
    if place is Place.MLP_NEURONS:
        return layer not in shape.moe_layers
    return place is not Place.ATTENTION_PROBABILITIES or layer not in shape.linear_layers


@dataclass(frozen=True, slots=True)
class Layers:
    """Which layers: from `first` to `last`, both included and possibly negative; both None: all of them."""

    first: int | None = None
    last: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Layers":
        """Read `5`, `-1`, `3-7` or `*`. Raises `BadRequest`."""
        if text == "*":
            return cls()
        found = re.fullmatch(r"(-?\d{1,6})(?:-(-?\d{1,6}))?", text, re.ASCII)
        if not found:
            raise BadRequest(f"`{text}` is not a layer; write a number, a negative one, a range such as 3-7, or *")
        return cls(int(found[1]), int(found[2] or found[1]))

    def __str__(self) -> str:
        if self.first is None:
            return "*"
        return f"{self.first}" if self.first == self.last else f"{self.first}-{self.last}"

    def of(self, layers: int) -> range:
        """The layers in a model that has so many. Raises `BadRequest` for layers that it does not have."""
        if self.first is None or self.last is None:
            return range(layers)
        ends = [end + layers if end < 0 else end for end in (self.first, self.last)]
        if not all(0 <= end < layers for end in ends):
            raise BadRequest(f"there is no layer {self}; this model has layers 0 to {layers - 1} (or -{layers} to -1)")
        if ends[0] > ends[1]:
            raise BadRequest(f"the range {self} ends before it begins")
        return range(ends[0], ends[1] + 1)


@dataclass(frozen=True, slots=True)
class SitePattern:
    """A site as a request writes it; with layers, it may stand for many."""

    place: Place
    layers: Layers | None = None
    module: str = ""

    @classmethod
    def parse(cls, text: str) -> "SitePattern":
        """Read a site's name. Raises `BadRequest` with the nearest names for what is none."""
        if text.startswith("module:"):
            path, _, end = text.removeprefix("module:").rpartition(":")
            if not path or end not in ("input", "output"):
                raise BadRequest(f"`{text}` must be module:PATH:input or module:PATH:output")
            return cls(Place(end), None, path)
        blocks, _, rest = text.partition(".")
        layers, _, place = rest.partition(".")
        if blocks == "blocks" and place in _OF_BLOCK:
            return cls(Place(place), Layers.parse(layers))
        if text in _OF_MODEL:
            return cls(Place(text))
        raise _no_site(text, layers)

    def __str__(self) -> str:
        if self.module:
            return f"module:{self.module}:{self.place}"
        return str(self.place) if self.layers is None else f"blocks.{self.layers}.{self.place}"

    def expand(self, shape: ModelShape) -> tuple[Site, ...]:
        """The sites of that model, in the order of its layers; at least one.

        `*` stands for the layers that have such a site. Raises `BadRequest` for layers and sites it does not have.
        """
        if self.module:
            return (_module(self.module, self.place, shape),)
        if self.layers is None:
            return (_of_model(Site(self.place), shape),)
        wanted = self.layers.of(shape.layers)
        found = tuple(Site(self.place, layer) for layer in wanted if _is_in(self.place, layer, shape))
        if not found or (self.layers.first is not None and len(found) < len(wanted)):
            raise _not_there(self, shape)
        return found


def _no_site(text: str, layers: str) -> BadRequest:
    layer = layers if re.fullmatch(r"\*|-?\d+(--?\d+)?", layers) else "L"
    known = [*(str(place) for place in _OF_MODEL), *(f"blocks.{layer}.{place}" for place in _OF_BLOCK)]
    return BadRequest(f"there is no site `{text[:200]}`{suggestion(text, known)}")


def _not_there(pattern: SitePattern, shape: ModelShape) -> BadRequest:
    having = [layer for layer in range(shape.layers) if _is_in(pattern.place, layer, shape)]
    if having:
        places = f"layers {having[0]} to {having[-1]}" if len(having) > 1 else f"layer {having[0]}"
        return BadRequest(f"`{pattern}`: only {places} of this model have {pattern.place}")
    known = {str(site.place) for site in all_sites(shape)}
    return BadRequest(f"`{pattern}`: this model has no {pattern.place}{suggestion(pattern.place, sorted(known))}")


def _of_model(site: Site, shape: ModelShape) -> Site:
    if site not in set(all_sites(shape)):
        raise BadRequest(f"this model has no {site}; its last site is `blocks.{shape.layers - 1}.residual.post`")
    return site


def _module(path: str, place: Place, shape: ModelShape) -> Site:
    if shape.modules and path not in shape.modules:
        near = nearest(path, shape.modules)
        hint = suggestion(path, near) if near else f"; its modules are called like `{next(iter(shape.modules))}`"
        raise BadRequest(f"this model has no module `{path[:200]}`{hint}")
    return Site(place, None, path)
