"""The wire of `POST /v1/traces`, version 1: what to see, change and differentiate inside a model.

What the fields mean for a model is decided in `internals/reading.py`; here is their form.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from terascope.core.words import either, nearest, suggestion
from terascope.protocol.openai import Wire

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
SiteName = Annotated[str, Field(min_length=1, max_length=512)]
Sites = SiteName | Annotated[list[SiteName], Field(min_length=1, max_length=1024)]
Index = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]
Indices = Index | Annotated[list[Index], Field(min_length=1, max_length=65536)]
Step = Annotated[int, Field(ge=0, le=2**31 - 1)]
TokenValue = Annotated[int, Field(ge=0, le=2**31 - 1)] | Annotated[str, Field(min_length=1, max_length=1000)]


class Known(Wire):
    """Base of the parts of a plan: an unknown field is a mistake, and the nearest known one is named.

    Of `choices`, where there are any, exactly one must be there.
    """

    model_config = ConfigDict(extra="forbid")
    choices: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _check_fields(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        known = [field.alias or name for name, field in cls.model_fields.items()]
        if unknown := [str(name) for name in value if name not in known]:
            raise ValueError(f"there is no field `{unknown[0][:80]}`{suggestion(unknown[0], known)}")
        if cls.choices and sum(value.get(name) is not None for name in cls.choices) != 1:
            raise ValueError(f"must have exactly one of {either(cls.choices)}")
        return value


class ArrayData(Known):
    """An array as bytes: base64 of little-endian elements in C order."""

    dtype: Literal["F64", "F32", "F16", "BF16", "I64", "I32", "U8"]
    shape: list[Annotated[int, Field(ge=0, le=2**40)]] = Field(max_length=4)
    data: str = Field(description="Base64.")


Vector = list[float]
Numbers = float | Vector | list[Vector] | list[list[Vector]]
ArrayValue = Numbers | ArrayData | str
"""Numbers, bytes, or the name of an array in `arrays` or `safetensors`."""


class TokenTextValue(Known):
    """The tokens that have part of that text."""

    text: str = Field(min_length=1, max_length=1000)


def _check_tokens(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | list | str | dict | TokenTextValue):
        raise ValueError('must be "all", "last", a position, a list of positions, "2:5" or {"text": "Paris"}')
    return value


TokensValue = Annotated[Indices | Annotated[str, Field(max_length=64)] | TokenTextValue, BeforeValidator(_check_tokens)]
StepsValue = Step | Annotated[list[Step], Field(min_length=1, max_length=65536)] | Annotated[str, Field(max_length=64)]
_TOKENS = '`"all"`, `"last"`, a position, a list of them, a slice `"2:5"`, or `{"text": "Paris"}`'


class TraceMessage(Known):
    """One message of a conversation."""

    role: str = Field(min_length=1, max_length=64)
    content: str


class TracePrompt(Known):
    """A prompt with a name."""

    choices = ("text", "tokens", "messages")

    name: Name | None = Field(None, description="How operations call it; its number by default, from `0`.")
    text: str | None = Field(None, description="Read by the model's tokenizer.")
    tokens: list[Annotated[int, Field(ge=0, le=2**31 - 1)]] | None = Field(None, min_length=1, description="Token ids.")
    messages: list[TraceMessage] | None = Field(None, min_length=1, description="For the model's chat template.")


# reductions


class AutoencoderFields(Known):
    """A sparse autoencoder: activation((x - decoder_bias) @ encoder + encoder_bias)."""

    encoder: ArrayValue = Field(description="[width, features].")
    encoder_bias: ArrayValue | None = Field(None, description="[features].")
    decoder: ArrayValue | None = Field(None, description="[features, width]; needed by `edit_feature`.")
    decoder_bias: ArrayValue | None = Field(None, description="[width].")
    threshold: ArrayValue | None = Field(None, description="[features]; of `jump_relu`.")
    activation: Literal["relu", "jump_relu", "top_k"] = "relu"
    k: int | None = Field(None, ge=1, description="How many features stay; of `top_k`.")
    center: bool = Field(True, description="Subtract `decoder_bias` first.")


class TunedLensFields(Known):
    """The logit lens of x + x @ weight.T + bias."""

    k: int = Field(ge=1, le=1000)
    weight: ArrayValue = Field(description="[width, width], or one for each site: [sites, width, width].")
    bias: ArrayValue | None = Field(None, description="[width] or [sites, width].")


class ProjectFields(Known):
    """(x - center) @ directions.T; for a PCA basis its components and its mean."""

    directions: ArrayValue = Field(description="[width] or [n, width].")
    center: ArrayValue | None = Field(None, description="[width].")


class EncodeFields(Known):
    """The most active features."""

    autoencoder: AutoencoderFields
    k: int = Field(ge=1, le=65536)


OverValue = Literal["tokens", "heads", "units"]


class ReduceFields(Known):
    """What to make of a capture before it travels; exactly one of these. `"mean"`, `"max"`, `"norm"` alone do, too."""

    choices = ("mean", "max", "norm", "top_k", "logit_lens", "tuned_lens", "project", "encode")

    mean: OverValue | None = Field(None, description="Mean over `tokens`, `heads` or `units`.")
    max: OverValue | None = Field(None, description="Maximum over `tokens`, `heads` or `units`.")
    norm: Literal["units"] | None = Field(None, description="Euclidean norm along the last axis.")
    top_k: int | None = Field(None, ge=1, le=65536, description="The largest along the last axis, with their indices.")
    logit_lens: int | None = Field(
        None, ge=1, le=1000, description="The likeliest next tokens if the model ended here: how many of them."
    )
    tuned_lens: TunedLensFields | None = None
    project: ProjectFields | None = None
    encode: EncodeFields | None = None


# operations


class Placed(Known):
    """What all operations have in common."""

    in_: Name | list[Name] | None = Field(None, alias="in", description="Prompts that it is for; all by default.")
    tokens: TokensValue = Field("all", description=f"{_TOKENS}. Positions and slices are of the prompt.")
    steps: StepsValue | None = Field(
        None,
        description='`"prompt"`, `"generated"`, `"all"`, or numbers, where 0 is the prompt and n computes the nth '
        "token of the answer. By default all, with positions or a slice the prompt.",
    )
    heads: Indices | None = Field(None, description="At sites with heads: only these.")
    units: Indices | None = Field(None, description="Only these channels, neurons, experts or tokens of the last axis.")


class CaptureFields(Placed):
    """Give back what is there."""

    capture: Sites
    name: Name | None = Field(
        None, description="What the result is called: `NAME`, or `NAME/SITE` with several sites; else the site's name."
    )
    reduce: Literal["mean", "max", "norm"] | ReduceFields | None = Field(
        None, description="What to make of it before it travels."
    )


class SetFields(Placed):
    """x becomes `value`."""

    set: Sites
    value: ArrayValue = Field(description="Broadcasts to [tokens, heads, units], without heads where there are none.")


class AddFields(Placed):
    """x becomes x + `by` * `value`."""

    add: Sites
    value: ArrayValue = Field(description="Broadcasts as in `set`.")
    by: float = 1.0


class ScaleFields(Placed):
    """x becomes `by` * x."""

    scale: Sites
    by: float


class AblateFields(Placed):
    """x becomes zero, its mean over the row's prompt, or what another prompt has at the same tokens."""

    ablate: Sites
    with_: Literal["zero", "mean", "resample"] = Field("zero", alias="with")
    from_: Name | None = Field(None, alias="from", description="The other prompt; of `resample`.")


class ProjectOutFields(Placed):
    """x loses what lies along the directions."""

    project_out: Sites
    directions: ArrayValue = Field(description="[width] or [n, width].")


class ClampFields(Placed):
    """Elements of x are kept between `min` and `max`."""

    clamp: Sites
    min: float | None = None
    max: float | None = None


class PatchFields(Placed):
    """x becomes what another prompt of the call has there. Acts in the prompt."""

    patch: Sites
    from_: Name = Field(alias="from", description="The other prompt.")
    from_site: SiteName | None = Field(None, description="Where it is taken; the same site by default.")
    from_tokens: TokensValue | None = Field(None, description="As many as `tokens`, or one; `tokens` by default.")
    from_heads: Indices | None = Field(None, description="As many as `heads`; `heads` by default.")


class EditFeatureFields(Placed):
    """One feature of an autoencoder is changed, and what that changes is added to x."""

    edit_feature: Sites
    autoencoder: AutoencoderFields
    feature: int = Field(ge=0, le=2**31 - 1)
    to: float | None = Field(None, description="Its new activation; or")
    plus: float | None = Field(None, description="what is added to it; or")
    times: float | None = Field(None, description="what it is multiplied by.")


OPERATIONS: dict[str, type[Placed]] = {
    "capture": CaptureFields,
    "set": SetFields,
    "add": AddFields,
    "scale": ScaleFields,
    "ablate": AblateFields,
    "project_out": ProjectOutFields,
    "clamp": ClampFields,
    "patch": PatchFields,
    "edit_feature": EditFeatureFields,
}
"""What an operation does, and its fields. An operation has exactly one of these keys; its value is the sites."""


def _tag(value: Any) -> str | None:
    """What an operation does; not as its key, which would be taken for a part of the place of an error."""
    if isinstance(value, Placed):
        return next(f"to {verb}" for verb, kind in OPERATIONS.items() if isinstance(value, kind))
    return next((f"to {verb}" for verb in OPERATIONS if verb in value), None)


def _check_verb(value: object) -> object:
    if isinstance(value, Placed):
        return value
    given = list(value) if isinstance(value, dict) else []
    verbs = [verb for verb in OPERATIONS if verb in given]
    if len(verbs) > 1:
        raise ValueError(f"an operation does one thing, not {either(verbs, 'and')}; make several of it")
    if not verbs:
        first = str(given[0])[:80] if given else ""
        hint = f", not `{first}`{suggestion(first, OPERATIONS)}" if nearest(first, OPERATIONS) else ""
        raise ValueError(f"an operation must have one of {either(OPERATIONS)}{hint}")
    return value


OperationFields = Annotated[
    Annotated[CaptureFields, Tag("to capture")]
    | Annotated[SetFields, Tag("to set")]
    | Annotated[AddFields, Tag("to add")]
    | Annotated[ScaleFields, Tag("to scale")]
    | Annotated[AblateFields, Tag("to ablate")]
    | Annotated[ProjectOutFields, Tag("to project_out")]
    | Annotated[ClampFields, Tag("to clamp")]
    | Annotated[PatchFields, Tag("to patch")]
    | Annotated[EditFeatureFields, Tag("to edit_feature")],
    Discriminator(_tag),
    BeforeValidator(_check_verb),
]

# gradients


class DotFields(Known):
    """The dot product of what is at a site with a direction, summed over the chosen tokens."""

    site: SiteName
    direction: ArrayValue
    tokens: TokensValue = "last"
    heads: Indices | None = None


class ScalarFields(Known):
    """What is differentiated; exactly one of these."""

    choices = ("logit", "log_probability", "loss", "dot")

    logit: TokenValue | None = Field(None, description="The logit of a token; with `minus`, less that of another.")
    minus: TokenValue | None = Field(None, description="Goes with `logit`.")
    log_probability: TokenValue | None = Field(None, description="The log-probability of a token as the next one.")
    loss: TokensValue | None = Field(
        None, description="The mean negative log-probability of the prompt's own tokens, but the first."
    )
    dot: DotFields | None = None
    at: Index | Literal["last"] = Field("last", description="After which token of the prompt the next one is meant.")


class TargetFields(Known):
    """A part of a site that gets a gradient."""

    site: Sites
    tokens: TokensValue = "all"
    heads: Indices | None = None
    units: Indices | None = None


class GradientFields(Known):
    """A gradient, or an attribution made of gradients."""

    of: ScalarFields
    with_respect_to: list[SiteName | TargetFields] = Field(min_length=1, max_length=1024)
    method: Literal[
        "gradient", "input_times_gradient", "integrated_gradients", "attribution_patching", "direct_logit"
    ] = Field("gradient", description="All but `gradient` are summed along the last axis.")
    steps: int | None = Field(None, ge=1, le=1000, description="Of `integrated_gradients`; 20 by default.")
    from_: Name | None = Field(
        None, alias="from", description="The other prompt of `attribution_patching`, or a base of the integral."
    )
    in_: Name | list[Name] | None = Field(None, alias="in", description="Prompts that it is for; all by default.")


class TraceRequest(Known):
    """Body of `POST /v1/traces`."""

    version: Literal[1] = Field(1, description="Of this language.")
    model: str = Field(min_length=1, max_length=256, description="Model, `name` or `name@version`.")
    prompts: list[Annotated[str, Field(min_length=1)] | TracePrompt] = Field(
        min_length=1, description="Texts, or objects with a name and one of `text`, `tokens`, `messages`."
    )
    operations: list[OperationFields] = Field([], description="In the order in which they act at a site.")
    gradient: GradientFields | None = Field(None, description="What to differentiate.")
    arrays: dict[Name, Numbers | ArrayData] = Field({}, description="Arrays by name, for use in operations.")
    safetensors: str | None = Field(None, description="Base64 of a safetensors file: more arrays by name.")
    max_tokens: int = Field(0, ge=0, le=2**31 - 1, description="Tokens of each answer; 0 makes none.")
    temperature: float = Field(0.0, ge=0, le=100, description="0 takes the likeliest token.")
    top_p: float = Field(1.0, ge=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    ignore_eos: bool = Field(False, description="Go on when the model says that it has finished.")
    format: Literal["json", "safetensors", "file"] = Field(
        "json", description="How results travel; `file`: not at all, they become a file of the project."
    )
    dtype: Literal["F32", "F16", "BF16"] | None = Field(
        None, description="Of captures that are not reduced, and of gradients; the model's own by default."
    )
    stream: bool = Field(False, description="Send each prompt's answer as a server-sent event as it is made.")
    dry_run: bool = Field(False, description="Only say what it would cost.")


class SitesRequest(Wire):
    """Body of `POST /v1/traces/sites`."""

    model: str = Field(min_length=1, max_length=256, description="Model, `name` or `name@version`.")
