"""`/v1/fine_tuning/jobs` as OpenAI has it, with our methods beside `supervised`; and the lines of training files."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from terascope.core.errors import BadRequest
from terascope.core.tuning import DEFAULTS, Hyperparameters, TuningMethod
from terascope.protocol.openai import ChatMessage, ContentPart, Seed, Tool, Wire

MOST_LISTED = 100
SUFFIX_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Auto = Literal["auto"]


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


_WHOLE = BeforeValidator(_whole)
Epochs = Annotated[int, Field(ge=1, le=1000), _WHOLE]
Lines = Annotated[int, Field(ge=1, le=1024), _WHOLE]
Steps = Annotated[int, Field(ge=1, le=10_000_000), _WHOLE]
Tokens = Annotated[int, Field(ge=1, le=1 << 20), _WHOLE]
Width = Annotated[int, Field(ge=1, le=1 << 16), _WHOLE]
Rank = Annotated[int, Field(ge=1, le=256), _WHOLE]
Few = Annotated[int, Field(ge=1, le=1024), _WHOLE]
Rate = Annotated[float, Field(ge=1e-9, le=10)]
Factor = Annotated[float, Field(ge=1e-6, le=1e6)]
Share = Annotated[float, Field(ge=0, le=1)]
Half = Annotated[float, Field(ge=0, le=0.5)]


class CommonHyperparameters(Wire):
    """What every method has; `auto` and what is left out are chosen here."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())

    n_epochs: Epochs | Auto | None = Field(None, description="How often all lines are read; 3 by default.")
    max_steps: Steps | None = Field(None, description="End after so many steps, whatever `n_epochs`.")
    batch_size: Lines | Auto | None = Field(None, description="Lines in a step; 8 by default.")
    learning_rate: Rate | None = Field(None, description="At its highest.")
    learning_rate_multiplier: Factor | Auto | None = Field(
        None, description="Of the method's own learning rate, in place of `learning_rate`."
    )
    schedule: Literal["cosine", "linear", "constant"] | None = Field(
        None, description="How the learning rate goes on after the warm-up; `cosine` by default."
    )
    warmup_ratio: Share | None = Field(None, description="Share of the steps in which the rate rises; 0.05.")
    weight_decay: Share | None = Field(None, description="As AdamW has it; 0 by default.")
    max_grad_norm: Factor | None = Field(None, description="Longer gradients are scaled to it; 1.")
    held_out_share: Half | None = Field(
        None, description="Share of the lines that is not trained on but measured, without a validation file; 0.1."
    )
    eval_every: Steps | None = Field(
        None, description="Measure the held-out loss every so many steps; at the end of each epoch by default."
    )
    checkpoint_every: Steps | None = Field(None, description="Steps between checkpoints; 50.")
    micro_batch_tokens: Tokens | None = Field(
        None, description="Tokens computed at once; a step with more is computed in parts; 2048."
    )


class LoraHyperparameters(CommonHyperparameters):
    """Those of `lora`."""

    rank: Rank | None = Field(None, description="Of the matrices; 8 by default.")
    alpha: Factor | None = Field(None, description="What they add is multiplied by alpha / rank; 16.")
    dropout: Half | None = Field(None, description="Share of their inputs left out in training; 0.")
    target_modules: Annotated[list[str], Field(min_length=1, max_length=100)] | None = Field(
        None, description="Names of linear layers, such as `q_proj`; all but the output head by default."
    )


class SoftPromptHyperparameters(CommonHyperparameters):
    """Those of `soft_prompt`."""

    vectors: Few | None = Field(None, description="How many there are; 16 by default.")
    init_text: Annotated[str, Field(max_length=10_000)] | None = Field(
        None, description="Text whose tokens' embeddings they begin as, repeated or cut; else tokens drawn by the seed."
    )


class ProjectorHyperparameters(CommonHyperparameters):
    """Those of `projector`."""

    hidden: Annotated[list[Width], Field(max_length=7)] | None = Field(
        None, description="Widths of its inner layers; [256] by default, [] for a single layer."
    )
    activation: Literal["gelu", "relu", "silu", "tanh"] | None = Field(None, description="Between layers; `gelu`.")


class LoraMethod(Wire):
    """`lora` or `supervised`: the same here."""

    hyperparameters: LoraHyperparameters | None = None


class SoftPromptMethod(Wire):
    """`soft_prompt`."""

    hyperparameters: SoftPromptHyperparameters | None = None


class ProjectorMethod(Wire):
    """`projector`."""

    hyperparameters: ProjectorHyperparameters | None = None


class Method(Wire):
    """How to train."""

    type: Literal["supervised", "lora", "soft_prompt", "projector"]
    supervised: LoraMethod | None = None
    lora: LoraMethod | None = None
    soft_prompt: SoftPromptMethod | None = None
    projector: ProjectorMethod | None = None


class FineTuningRequest(Wire):
    """Body of `POST /v1/fine_tuning/jobs`."""

    model: str = Field(min_length=1, max_length=256, description="The base, `name` or `name@version`.")
    training_file: str = Field(min_length=1, max_length=60, description="Id of an uploaded file of JSON lines.")
    validation_file: Annotated[str, Field(min_length=1, max_length=60)] | None = Field(
        None, description="Lines that are only measured, in place of a share of the training file."
    )
    suffix: Annotated[str, Field(pattern=SUFFIX_PATTERN)] | None = Field(
        None,
        description="What the result is called: `base:suffix` for LoRA, else the soft prompt's or projector's name.",
    )
    seed: Seed | None = Field(None, description="The same seed, data and machine give the same result, bit for bit.")
    method: Method | None = None
    hyperparameters: LoraHyperparameters | None = Field(None, description="OpenAI's older place of those of `method`.")
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None


def method_of(request: FineTuningRequest) -> tuple[TuningMethod, Hyperparameters]:
    """Return what the request asks for. Raises `BadRequest` for settings that stand under another method."""
    if request.method is None:
        return TuningMethod.LORA, hyperparameters(TuningMethod.LORA, request.hyperparameters)
    kind = request.method.type
    for other in ("supervised", "lora", "soft_prompt", "projector"):
        if other != kind and getattr(request.method, other) is not None:
            raise BadRequest(f"method.type is {kind}, but there are settings for {other}", param=f"method.{other}")
    own = getattr(request.method, kind)
    method = TuningMethod.LORA if kind == "supervised" else TuningMethod(kind)
    return method, hyperparameters(method, own.hyperparameters if own else None)


def hyperparameters(method: TuningMethod, given: CommonHyperparameters | None) -> Hyperparameters:
    """Return all settings of a job, with the method's defaults where `given` has none. Raises `BadRequest`."""
    usual = DEFAULTS[method]
    said = {} if given is None else given.model_dump(exclude_none=True)
    said = {name: value for name, value in said.items() if value != "auto"}
    if "learning_rate" in said and "learning_rate_multiplier" in said:
        raise BadRequest("give learning_rate or learning_rate_multiplier, not both", param="learning_rate_multiplier")
    times = said.pop("learning_rate_multiplier", None)
    if times is not None:
        said["learning_rate"] = usual.learning_rate * times
    return Hyperparameters.read(usual.values() | said)


# lines of training files


class LineMessage(ChatMessage):
    """A message of a training line."""

    weight: Literal[0, 1] | None = Field(None, description="0: this answer of the assistant is not learned.")


def is_learned(message: LineMessage) -> bool:
    """Whether a message is an answer that is to be learned."""
    return message.role == "assistant" and message.weight != 0 and bool(message.content or message.tool_calls)


class ChatLine(Wire):
    """A conversation; the answers of the assistant are learned."""

    messages: list[LineMessage] = Field(min_length=1)
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None

    @model_validator(mode="after")
    def _learns(self) -> "ChatLine":
        if not any(map(is_learned, self.messages)):
            raise ValueError("there is nothing to learn: no message of the assistant has content and no weight of 0")
        return self


class CompletionLine(Wire):
    """A prompt and what is to follow it, which is learned."""

    prompt: str | None = None
    prompt_embeds: str | Annotated[list[ContentPart], Field(min_length=1)] | None = None
    completion: Annotated[str, Field(min_length=1)]

    @model_validator(mode="after")
    def _has_prompt(self) -> "CompletionLine":
        if (self.prompt is None) == (self.prompt_embeds is None):
            raise ValueError("give `prompt` or `prompt_embeds`, and not both")
        return self
