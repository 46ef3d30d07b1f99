"""Direct logit attribution: what each part adds to a logit by the residual stream alone.

The final norm is linear but for its scale, and that is held fixed.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from terascope.core.errors import BadRequest
from terascope.engines.torch.attachment import Part
from terascope.engines.torch.taps import Tap
from terascope.engines.torch.tracing.gradients import Ask, Named
from terascope.engines.torch.tracing.lens import Unembedding
from terascope.engines.torch.tracing.passes import Passes, PlainRow
from terascope.engines.torch.tracing.places import Chosen, select
from terascope.engines.torch.tracing.tensors import wide
from terascope.internals.outputs import GRADIENT
from terascope.internals.plan import Where
from terascope.internals.sites import Place, Site


@dataclass(frozen=True, slots=True)
class NormAt:
    """A norm at one vector, as a linear map: what it does to parts of that vector while its scale stays."""

    weight: Tensor
    scale: Tensor
    centers: bool

    @classmethod
    def of(cls, norm: torch.nn.Module | None, x: Tensor) -> "NormAt":
        """Find it by what `norm` makes of `x` [width] and of a few vectors whose size is known."""
        one = torch.ones_like(x)
        if norm is None:
            return cls(one, one[0], centers=False)
        sides = torch.where(torch.arange(len(x), device=x.device) % 2 == 0, one, -one)
        zero, ones, alternating, found = (norm(v[None])[0] for v in (torch.zeros_like(x), one, sides, x))
        weight = (alternating - zero) * sides
        centers = bool((ones - zero).norm() < 0.01 * weight.norm())
        plain = weight * (x - x.mean() if centers else x)
        return cls(weight, (found - zero) @ plain / plain.pow(2).sum(), centers)

    def pull(self, direction: Tensor) -> Tensor:
        """The vector whose dot product with a part is what that part adds along `direction` behind the norm."""
        found = direction * self.weight * self.scale
        return found - found.mean() if self.centers else found


class Direct:
    """One row whose parts are counted. A `passes.Traced`."""

    def __init__(self, ask: Ask, passes: Passes, unembedding: Unembedding) -> None:
        self._ask, self._passes, self._unembedding = ask, passes, unembedding
        self._at = ask.scalar.keep[0]
        self._seen: dict[Site, Tensor] = {}

    @contextmanager
    def attach(self, part: Part) -> Iterator[None]:
        """See `passes.Traced.attach`."""
        with ExitStack() as stack:
            stack.enter_context(self._ask.tracer.attached(part))
            for site in self._needed():
                tap = self._tap(site)
                stack.enter_context(self._passes.taps.open(site, part.first, part.last, tap))
            yield

    @torch.enable_grad()
    def run(self) -> Named:
        """Compute the row; return the scalar's value and, by name, what each part adds, [tokens, heads].

        Raises `BadRequest` where the model's parts cannot be told apart.
        """
        ask = self._ask
        row = PlainRow(ask.tokens, sorted({*ask.scalar.keep, *ask.tracer.logits_at}), self)
        with torch.inference_mode(mode=False):
            (logits,) = self._passes.run([row])
            found: Named = {f"{GRADIENT}/value": ask.scalar.value(logits, row.keep).detach().cpu()}
            along = self._along()
            for where in ask.gradient.sites:
                found[f"{GRADIENT}/{where.site}"] = self._added(where, along).detach().cpu()
        return found

    def _needed(self) -> Sequence[Site]:
        sites = [where.site for where in self._ask.gradient.sites]
        behind = [Site(Place.ATTENTION_OUTPUT, site.layer) for site in sites if site.place is Place.ATTENTION_HEADS]
        return list(dict.fromkeys([*sites, *behind, self._last]))

    @property
    def _last(self) -> Site:
        return Site(Place.RESIDUAL_POST, self._passes.sites.shape.layers - 1)

    def _tap(self, site: Site) -> Tap:
        def tap(x: Tensor) -> Tensor | None:
            if site.place is Place.ATTENTION_HEADS:  # what it adds goes through a projection: see `_of_heads`
                self._seen[site] = x.detach().clone().requires_grad_()
                return self._seen[site]
            self._seen[site] = x
            return None

        return tap

    def _along(self) -> Tensor:
        """The direction of the residual stream that the scalar grows along."""
        rows = self._unembedding.directions(self._ask.scalar.tokens)
        direction = wide(rows[0] if len(rows) == 1 else rows[0] - rows[1])
        final = self._seen[self._last][self._at].detach()
        norm = NormAt.of(self._unembedding.norm, final)
        return NormAt(wide(norm.weight), wide(norm.scale), norm.centers).pull(direction).detach()

    def _added(self, where: Where, along: Tensor) -> Tensor:
        x = self._seen[where.site]
        made = self._of_heads(where, along) if where.site.place is Place.ATTENTION_HEADS else wide(x) @ along
        here = torch.zeros_like(made)
        here[self._at] = made[self._at]  # other tokens' streams are not this one
        chosen = Chosen(where, self._ask.pieces).of_prompt
        return select(here, where, torch.tensor(chosen, dtype=torch.long, device=here.device))

    def _of_heads(self, where: Where, along: Tensor) -> Tensor:
        """Each head's part of what attention adds; [tokens, heads]."""
        output = self._seen[Site(Place.ATTENTION_OUTPUT, where.site.layer)]
        if not output.requires_grad:
            raise BadRequest(f"what the heads of `{where.site}` add cannot be told apart", param="gradient")
        x = self._seen[where.site]
        (found,) = torch.autograd.grad(wide(output[self._at]) @ along, x, retain_graph=True)
        return (wide(x) * wide(found)).sum(-1)
