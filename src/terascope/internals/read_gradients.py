"""From the gradient of a request to that of a plan."""

from terascope.core.errors import BadRequest
from terascope.core.words import either
from terascope.internals.context import Context, read_tokens
from terascope.internals.places import at
from terascope.internals.plan import Dot, Gradient, Logit, LogProbability, Loss, Method, Scalar, Where
from terascope.internals.shape import Kind
from terascope.internals.sites import Place, is_writable
from terascope.internals.tokens import LastToken, Positions, Tokens
from terascope.protocol.traces import DotFields, GradientFields, ScalarFields, TargetFields

_STEPS = 20
_ADDING = (Place.EMBEDDINGS, Place.ATTENTION_HEADS, Place.ATTENTION_OUTPUT, Place.MLP_OUTPUT)
"""What adds to the residual stream, and so can be counted without a gradient."""


def read_gradient(fields: GradientFields, context: Context) -> Gradient:
    """Raises `BadRequest`."""
    method = Method(fields.method)
    with at("of"):
        of = _scalar(fields.of, context)
    sites = _targets(fields, context)
    if method is Method.DIRECT_LOGIT:
        _check_direct(of, sites)
    if fields.steps is not None and method is not Method.INTEGRATED_GRADIENTS:
        raise BadRequest("`steps` is of `integrated_gradients`", param="steps")
    steps = (fields.steps or _STEPS) if method is Method.INTEGRATED_GRADIENTS else 1
    return Gradient(of, sites, method, _source(fields, method, context), steps)


def _source(fields: GradientFields, method: Method, context: Context) -> str:
    if fields.from_ is None:
        if method is Method.ATTRIBUTION_PATCHING:
            raise BadRequest("`attribution_patching` needs `from`, the prompt that it compares with", param="from")
        return ""
    if method not in (Method.ATTRIBUTION_PATCHING, Method.INTEGRATED_GRADIENTS):
        message = "`from` is of `attribution_patching` and `integrated_gradients`"
        raise BadRequest(message, param="from")
    return context.source(fields.from_)


def _targets(fields: GradientFields, context: Context) -> tuple[Where, ...]:
    found: list[Where] = []
    for number, target in enumerate(fields.with_respect_to):
        with at("with_respect_to", number):
            one = TargetFields(site=target) if isinstance(target, str) else target
            tokens = read_tokens("tokens", one.tokens)
            for site in context.sites("" if isinstance(target, str) else "site", one.site):
                if not is_writable(site):
                    raise BadRequest(f"`{site}` holds whole numbers, which have no gradient")
                if site in [where.site for where in found]:
                    raise BadRequest(f"`{site}` is there twice")
                found.append(context.where(site, tokens, heads=one.heads, units=one.units))
    return tuple(found)


def _check_direct(of: Scalar, sites: tuple[Where, ...]) -> None:
    if not isinstance(of, Logit):
        raise BadRequest("`direct_logit` is of a `logit`", param="of")
    for where in sites:
        if where.site.place not in _ADDING or where.units is not None:
            places = either(_ADDING)
            message = f"`direct_logit` is of what adds to the residual stream, whole: {places}; `{where.site}` is not"
            raise BadRequest(message, param="with_respect_to")


def _scalar(fields: ScalarFields, context: Context) -> Scalar:
    if fields.dot is not None:
        with at("dot"):
            return _dot(fields.dot, context)
    if not context.shape.vocabulary or context.shape.kind is Kind.ENCODER:
        raise BadRequest("this model has no logits; differentiate `dot`, the dot product of a site with a direction")
    if fields.minus is not None and fields.logit is None:
        raise BadRequest("`minus` goes with `logit`", param="minus")
    if fields.loss is not None:
        return Loss(read_tokens("loss", fields.loss))
    at_token: Tokens = LastToken() if fields.at == "last" else Positions((fields.at,))
    if fields.log_probability is not None:
        return LogProbability(_token("log_probability", fields.log_probability, context), at_token)
    minus = None if fields.minus is None else _token("minus", fields.minus, context)
    return Logit(_token("logit", fields.logit if fields.logit is not None else 0, context), minus, at_token)


def _dot(fields: DotFields, context: Context) -> Dot:
    sites = context.sites("site", fields.site)
    if len(sites) > 1:
        raise BadRequest(f"a dot product is of one site; this is {len(sites)}", param="site")
    if not is_writable(sites[0]) or sites[0].place is Place.ATTENTION_PROBABILITIES:
        raise BadRequest(f"no direction fits `{sites[0]}`", param="site")
    where = context.where(sites[0], read_tokens("tokens", fields.tokens), heads=fields.heads)
    direction = context.arrays.shaped("direction", fields.direction, context.width(where))
    if direction is None:
        raise BadRequest("a dot product needs a direction", param="direction")
    return Dot(where, direction)


def _token(field: str, token: int | str, context: Context) -> int | str:
    vocabulary = context.shape.vocabulary
    if isinstance(token, int) and token >= vocabulary:
        raise BadRequest(f"the model has no token {token}; the last is {vocabulary - 1}", param=field)
    return token
