"""From `POST /v1/traces` to a plan for one model; everything that can be refused without running it is refused here."""

from collections import Counter
from collections.abc import Iterator

from terascope.core.errors import BadRequest
from terascope.internals.arrays import DType
from terascope.internals.context import Context
from terascope.internals.limits import Cost, Limits
from terascope.internals.order import waves
from terascope.internals.outputs import capture_outputs
from terascope.internals.places import at, told
from terascope.internals.plan import (
    Format,
    Generation,
    Gradient,
    Message,
    Operation,
    Prompt,
    RowTrace,
    TracePlan,
)
from terascope.internals.read_captures import read_captures
from terascope.internals.read_changes import read_interventions, source_of
from terascope.internals.read_gradients import read_gradient
from terascope.internals.shape import Kind, ModelShape
from terascope.internals.supplied import Arrays
from terascope.protocol.traces import OPERATIONS, CaptureFields, Placed, TracePrompt, TraceRequest

_DEFAULTS = Limits()


def read_plan(request: TraceRequest, shape: ModelShape, limits: Limits = _DEFAULTS) -> TracePlan:
    """Return what `request` asks of a model of that `shape`.

    Raises `BadRequest` whose message begins with the field and names what would be right, and whose `param` is the
    field: unknown sites, layers, prompts and arrays, sizes that do not fit, NaN, rows that wait for each other.
    What depends on the number of tokens is not checked; of `limits` only the numbers of prompts and operations are.
    """
    with told():
        prompts = _prompts(request, shape)
        names = tuple(prompt.name for prompt in prompts)
        context = Context(shape, Arrays.of(request), names, request.max_tokens)
        operations = _operations(request, context, limits)
        gradients = _gradients(request, context)
        generation = _generation(request, shape)
        rows = tuple(
            RowTrace(prompt, tuple(operations[prompt.name]), gradients.get(prompt.name), generation)
            for prompt in prompts
        )
        with at("operations"):
            waves(rows)
            for row in rows:
                _check_names(row, shape)
    dtype = None if request.dtype is None else DType(request.dtype)
    if request.format == "file":
        raise BadRequest("format: an engine keeps no files; ask a gateway, or for `safetensors`", param="format")
    return TracePlan(request.model, rows, dtype, Format(request.format), request.stream, request.dry_run)


def _prompts(request: TraceRequest, shape: ModelShape) -> list[Prompt]:
    found: dict[str, Prompt] = {}
    for number, one in enumerate(request.prompts):
        prompt = _prompt(str(number), one)
        with at("prompts", number):
            if prompt.name in found:
                raise BadRequest(f"two prompts are called `{prompt.name}`", param="name")
            most = max(prompt.tokens or (0,))
            if shape.vocabulary and most >= shape.vocabulary:
                message = f"the model has no token {most}; the last is {shape.vocabulary - 1}"
                raise BadRequest(message, param="tokens")
        found[prompt.name] = prompt
    return list(found.values())


def _prompt(name: str, one: str | TracePrompt) -> Prompt:
    if isinstance(one, str):
        return Prompt(name, text=one)
    messages = one.messages and tuple(Message(message.role, message.content) for message in one.messages)
    tokens = None if one.tokens is None else tuple(one.tokens)
    return Prompt(one.name or name, one.text, tokens, messages or None)


def _operations(request: TraceRequest, context: Context, limits: Limits) -> dict[str, list[Operation]]:
    """The operations of each prompt, by its name. Prompts share them."""
    found: dict[str, list[Operation]] = {name: [] for name in context.names}
    for number, fields in enumerate(request.operations):
        with at("operations", number):
            read = tuple(_operation(fields, context))
            for name in context.rows(fields.in_, but=source_of(fields)):
                found[name].extend(read)
        limits.check(Cost(prompts=len(found), operations=sum(map(len, found.values()))))
    return found


def _operation(fields: Placed, context: Context) -> Iterator[Operation]:
    if isinstance(fields, CaptureFields):
        yield from read_captures(fields, context)
        return
    verb = next(verb for verb, kind in OPERATIONS.items() if isinstance(fields, kind))
    yield from read_interventions(verb, fields, context)


def _gradients(request: TraceRequest, context: Context) -> dict[str, Gradient]:
    if request.gradient is None:
        return {}
    with at("gradient"):
        gradient = read_gradient(request.gradient, context)
        return dict.fromkeys(context.rows(request.gradient.in_, but=gradient.source), gradient)


def _generation(request: TraceRequest, shape: ModelShape) -> Generation:
    if request.max_tokens and shape.kind is Kind.ENCODER:
        raise BadRequest("this model reads texts and writes none; leave it out", param="max_tokens")
    return Generation(request.max_tokens, request.temperature, request.top_p, request.seed, request.ignore_eos)


def _check_names(row: RowTrace, shape: ModelShape) -> None:
    """Results are told apart by their names."""
    specs = [spec for one in row.captures for spec in capture_outputs(one, shape, 0, 0, DType.F32)]
    counted = Counter(spec.name for spec in specs)
    if twice := next((name for name, count in counted.items() if count > 1), None):
        raise BadRequest(f"two results of the prompt `{row.name}` are called `{twice}`; give one capture a `name`")
