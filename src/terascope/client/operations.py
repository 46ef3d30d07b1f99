"""The operations of a plan, as functions: each returns what docs/reference/plans.md has under the same name.

Words that Python keeps for itself have an underscore here: `in_`, `from_`, `with_`, `set_`. Wherever a plan has an
array, numbers in lists, numpy's, torch's, xarray's and arrays of a result will do.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict, Unpack

Operation = dict[str, Any]
Sites = str | Sequence[str]
Tokens = int | str | Sequence[int] | Mapping[str, str]
Indices = int | Sequence[int]
Vectors = Any
"""An array, or numbers in lists."""


class Where(TypedDict, total=False):
    """Which part of its sites an operation is about; all of it by default.

    `in_`: names of prompts. `tokens`: "all", "last", a position, positions, "2:5", {"text": "Paris"}. `steps`:
    "prompt", "generated", "all", or numbers, 0 being the prompt. `heads`, `units`: indices along these axes.
    """

    in_: str | Sequence[str]
    tokens: Tokens
    steps: int | str | Sequence[int]
    heads: Indices
    units: Indices


def capture(
    sites: Sites, *, name: str | None = None, reduce: str | Mapping[str, Any] | None = None, **where: Unpack[Where]
) -> Operation:
    """Give back what is at `sites`: [token, channel], or [token, head, channel] where there are heads.

    The result is called `name` (`name/SITE` with several sites), else as the site. `reduce` makes less of it before it
    travels, such as "norm" or {"logit_lens": 5}.
    """
    return _operation("capture", sites, where, name=name, reduce=reduce)


def set_(sites: Sites, value: Vectors, **where: Unpack[Where]) -> Operation:
    """Put `value` in place of what is there; it broadcasts to [tokens, heads, units]."""
    return _operation("set", sites, where, value=value)


def add(sites: Sites, value: Vectors, *, by: float | None = None, **where: Unpack[Where]) -> Operation:
    """Add `by` (1) times `value` to what is there; it broadcasts to [tokens, heads, units]."""
    return _operation("add", sites, where, value=value, by=by)


def scale(sites: Sites, by: float, **where: Unpack[Where]) -> Operation:
    """Multiply what is there by `by`."""
    return _operation("scale", sites, where, by=by)


def ablate(
    sites: Sites,
    *,
    with_: Literal["zero", "mean", "resample"] | None = None,
    from_: str | None = None,
    **where: Unpack[Where],
) -> Operation:
    """Put zero in place of what is there, or its mean over the prompt, or what the prompt `from_` has there."""
    return _operation("ablate", sites, where, with_=with_, from_=from_)


def project_out(sites: Sites, directions: Vectors, **where: Unpack[Where]) -> Operation:
    """Take away what lies along `directions`: [width] or [n, width]."""
    return _operation("project_out", sites, where, directions=directions)


def clamp(sites: Sites, *, min: float | None = None, max: float | None = None, **where: Unpack[Where]) -> Operation:
    """Keep each element between `min` and `max`."""
    return _operation("clamp", sites, where, min=min, max=max)


def patch(
    sites: Sites,
    from_: str,
    *,
    from_site: str | None = None,
    from_tokens: Tokens | None = None,
    from_heads: Indices | None = None,
    **where: Unpack[Where],
) -> Operation:
    """Put what the prompt `from_` of the same call has there in place of what is there; acts in the prompt."""
    source = {"from_site": from_site, "from_tokens": from_tokens, "from_heads": from_heads}
    return _operation("patch", sites, where, from_=from_, **source)


def edit_feature(
    sites: Sites,
    autoencoder: Mapping[str, Any],
    feature: int,
    *,
    to: float | None = None,
    plus: float | None = None,
    times: float | None = None,
    **where: Unpack[Where],
) -> Operation:
    """Change a feature of a sparse autoencoder (`encoder`, `decoder`, ...): `to` a value, `plus` one or `times` one."""
    change = {"to": to, "plus": plus, "times": times}
    return _operation("edit_feature", sites, where, autoencoder=autoencoder, feature=feature, **change)


def gradient(
    of: Mapping[str, Any],
    with_respect_to: str | Sequence[str | Mapping[str, Any]],
    *,
    method: str | None = None,
    steps: int | None = None,
    from_: str | None = None,
    in_: str | Sequence[str] | None = None,
) -> dict[str, Any]:
    """What to differentiate, for `client.trace(..., gradient=...)`: `of` is such as {"logit": " Paris"}.

    Gives `gradient/value` and `gradient/SITE`: shaped as the site for the method "gradient", summed along its last axis
    for the others.
    """
    sites = [with_respect_to] if isinstance(with_respect_to, str) else [*with_respect_to]
    return _given(of=of, with_respect_to=sites, method=method, steps=steps, from_=from_, in_=in_)


def _operation(verb: str, sites: Sites, where: Where, **fields: Any) -> Operation:
    return {verb: sites if isinstance(sites, str) else [*sites], **_given(**fields, **where)}


def _given(**fields: Any) -> dict[str, Any]:
    """What was said, by the names that the wire has."""
    return {name.removesuffix("_"): value for name, value in fields.items() if value is not None}
