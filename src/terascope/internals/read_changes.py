"""From the interventions of a request to those of a plan."""

from collections.abc import Callable, Iterator
from typing import Any

from terascope.core.errors import BadRequest
from terascope.internals.arrays import Array
from terascope.internals.context import Context, read_tokens
from terascope.internals.outputs import selected
from terascope.internals.places import at
from terascope.internals.plan import (
    AblateMean,
    AblateZero,
    Add,
    Change,
    Clamp,
    EditFeature,
    FeatureChange,
    Intervention,
    Patch,
    ProjectOut,
    Scale,
    Set,
    Where,
)
from terascope.internals.sites import Axis, Place, is_writable
from terascope.internals.tokens import PROMPT, parse_steps
from terascope.protocol.traces import (
    AblateFields,
    AddFields,
    ArrayValue,
    ClampFields,
    EditFeatureFields,
    PatchFields,
    Placed,
    ProjectOutFields,
    ScaleFields,
    SetFields,
)


def read_interventions(verb: str, fields: Placed, context: Context) -> Iterator[Intervention]:
    """One intervention for each site. Raises `BadRequest`."""
    changes: dict[tuple[Axis, ...], Change] = {}  # sites with the same axes share the change and its arrays
    for site in context.sites(verb, getattr(fields, verb)):
        if not is_writable(site):
            raise BadRequest(f"`{site}` can be read, not written", param=verb)
        where = context.placed(site, fields)
        if isinstance(fields, PatchFields) or (isinstance(fields, AblateFields) and fields.with_ == "resample"):
            yield _patch(where, fields, context)
            continue
        kind = selected(where, context.shape, 0)
        if kind not in changes:
            changes[kind] = _READERS[type(fields)](fields, context, where)
        yield Intervention(where, changes[kind])


def source_of(fields: Placed) -> str:
    """The prompt that the operation takes from; empty: none."""
    return (fields.from_ or "") if isinstance(fields, PatchFields | AblateFields) else ""


def _value(value: ArrayValue, context: Context, where: Where) -> Array:
    with at("value"):
        return context.arrays.broadcast(value, [axis.size for axis in selected(where, context.shape, 0)])


def _set(fields: SetFields, context: Context, where: Where) -> Change:
    return Set(_value(fields.value, context, where))


def _add(fields: AddFields, context: Context, where: Where) -> Change:
    return Add(_value(fields.value, context, where), fields.by)


def _scale(fields: ScaleFields, context: Context, where: Where) -> Change:
    return Scale(fields.by)


def _ablate(fields: AblateFields, context: Context, where: Where) -> Change:
    if fields.from_ is not None:
        raise BadRequest('`from` goes with "resample"', param="from")
    if fields.with_ == "mean" and where.site.place is Place.ATTENTION_PROBABILITIES:
        raise BadRequest("attention probabilities have no mean over tokens, which see different numbers of them")
    return AblateMean() if fields.with_ == "mean" else AblateZero()


def _project_out(fields: ProjectOutFields, context: Context, where: Where) -> Change:
    _check_fixed(where)
    directions = context.arrays.vectors("directions", fields.directions, context.width(where))
    if not all(any(directions.part(number).numbers()) for number in range(directions.shape[0])):
        raise BadRequest("a direction is zero", param="directions")
    return ProjectOut(directions)


def _clamp(fields: ClampFields, context: Context, where: Where) -> Change:
    if fields.min is None and fields.max is None:
        raise BadRequest("`clamp` needs `min`, `max` or both", param="min")
    if fields.min is not None and fields.max is not None and fields.min > fields.max:
        raise BadRequest(f"`min` is {fields.min:g}, above `max`, {fields.max:g}", param="min")
    return Clamp(fields.min, fields.max)


def _edit_feature(fields: EditFeatureFields, context: Context, where: Where) -> Change:
    _check_fixed(where)
    autoencoder = context.arrays.autoencoder(fields.autoencoder, context.width(where))
    if autoencoder.decoder is None:
        raise BadRequest("a feature is edited with a `decoder`", param="autoencoder.decoder")
    if fields.feature >= autoencoder.features:
        message = f"there is no feature {fields.feature}; there are 0 to {autoencoder.features - 1}"
        raise BadRequest(message, param="feature")
    given = {
        FeatureChange.SET: fields.to,
        FeatureChange.ADD: fields.plus,
        FeatureChange.SCALE: fields.times,
    }
    amounts = [(change, amount) for change, amount in given.items() if amount is not None]
    if len(amounts) != 1:
        raise BadRequest("say exactly one of `to`, `plus` and `times`", param="to")
    return EditFeature(autoencoder, fields.feature, *amounts[0])


def _check_fixed(where: Where) -> None:
    if where.site.place is Place.ATTENTION_PROBABILITIES:
        raise BadRequest("attention probabilities have as many keys as the row has tokens; no direction fits them")


def _patch(where: Where, fields: PatchFields | AblateFields, context: Context) -> Intervention:
    if fields.from_ is None:
        raise BadRequest('"resample" needs `from`, the prompt that it takes from', param="from")
    if fields.steps is not None and parse_steps(fields.steps) != PROMPT:
        raise BadRequest("what is taken from another prompt acts in the prompt", param="steps")
    here = Where(where.site, where.tokens, PROMPT, where.heads, where.units)
    there = _there(here, fields, context) if isinstance(fields, PatchFields) else here
    return Intervention(here, Patch(context.source(fields.from_), there))


def _there(here: Where, fields: PatchFields, context: Context) -> Where:
    """What is taken; it has as many heads and units as what it replaces."""
    site = here.site
    if fields.from_site is not None:
        sites = context.sites("from_site", fields.from_site)
        if len(sites) > 1:
            raise BadRequest(f"`from_site` must be one site; this is {len(sites)}", param="from_site")
        site = sites[0]
    tokens = here.tokens if fields.from_tokens is None else read_tokens("from_tokens", fields.from_tokens)
    heads = fields.heads if fields.from_heads is None else fields.from_heads
    there = context.where(
        site, tokens, PROMPT, heads, fields.units, prefix="from_" if fields.from_heads is not None else ""
    )
    sizes = [[axis.size for axis in selected(where, context.shape, 0)] for where in (here, there)]
    if sizes[0] != sizes[1]:
        place = "from_heads" if fields.from_heads is not None else "from_site"
        raise BadRequest(f"`{here.site}` has the shape {_shown(sizes[0])}, `{site}` {_shown(sizes[1])}", param=place)
    return there


def _shown(sizes: list[int]) -> str:
    return f"[tokens, {', '.join(str(size or 'any') for size in sizes[1:])}]"


_READERS: dict[type[Placed], Callable[[Any, Context, Where], Change]] = {
    SetFields: _set,
    AddFields: _add,
    ScaleFields: _scale,
    AblateFields: _ablate,
    ProjectOutFields: _project_out,
    ClampFields: _clamp,
    EditFeatureFields: _edit_feature,
}
