"""A plan: what each row of a call asks to be seen, changed and differentiated inside the model.

Sites are those of one model, arrays have been checked to fit them, names have been resolved. A row's operations are in
the order in which they act at a site: a capture sees what those before it in the list did, and not those after it.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from terascope.internals.arrays import Array, DType
from terascope.internals.reductions import Reduction, SparseAutoencoder
from terascope.internals.sites import Place, Site
from terascope.internals.tokens import ALL_STEPS, AllTokens, LastToken, Steps, Tokens

Token = int | str
"""A token by its number, or as a text that must be exactly one token."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a row begins with: exactly one of a text, tokens and messages for the chat template."""

    name: str
    text: str | None = None
    tokens: tuple[int, ...] | None = None
    messages: tuple[Message, ...] | None = None


@dataclass(frozen=True, slots=True)
class Where:
    """A part of a site: of the tokens and steps chosen, the `heads` and, along the last axis, the `units` (None: all).

    What it selects has the shape [tokens, heads, units], without heads where the site has none.
    """

    site: Site
    tokens: Tokens = field(default_factory=AllTokens)
    steps: Steps = ALL_STEPS
    heads: tuple[int, ...] | None = None
    units: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Capture:
    """Give back what is at `where`, reduced; `name` is unique in its row."""

    name: str
    where: Where
    reduction: Reduction | None = None


# changes: what is at a place is x [tokens, heads, units]


@dataclass(frozen=True, slots=True)
class Set:
    """x becomes `value`, which broadcasts to x."""

    value: Array


@dataclass(frozen=True, slots=True)
class Add:
    """x becomes x + `by` * `value`, which broadcasts to x."""

    value: Array
    by: float = 1.0


@dataclass(frozen=True, slots=True)
class Scale:
    """x becomes `by` * x."""

    by: float


@dataclass(frozen=True, slots=True)
class AblateZero:
    """x becomes 0."""


@dataclass(frozen=True, slots=True)
class AblateMean:
    """x becomes its mean over all tokens of the row's prompt, as they are when this operation's turn comes."""


@dataclass(frozen=True, slots=True)
class ProjectOut:
    """x loses what lies in the span of `directions` [n, units]. They need not be orthogonal or of length 1."""

    directions: Array


@dataclass(frozen=True, slots=True)
class Clamp:
    """Elements of x below `least` become it, and those above `most` become that; None: no such bound."""

    least: float | None = None
    most: float | None = None


@dataclass(frozen=True, slots=True)
class Patch:
    """x becomes what the row `source` has at `where` in the pass of its prompt, after its own operations.

    The tokens chosen there must be as many as here, or one, which then stands for all. Acts in the prompt only.
    """

    source: str
    where: Where


class FeatureChange(StrEnum):
    """How a feature's activation is changed."""

    SET = "set"
    ADD = "add"
    SCALE = "scale"


@dataclass(frozen=True, slots=True)
class EditFeature:
    """x is encoded, the activation a of `feature` becomes a', and x becomes x + (a' - a) * decoder[feature]."""

    autoencoder: SparseAutoencoder
    feature: int
    change: FeatureChange
    amount: float


Change = Set | Add | Scale | AblateZero | AblateMean | ProjectOut | Clamp | Patch | EditFeature


@dataclass(frozen=True, slots=True)
class Intervention:
    """Change what is at `where`. Nothing outside it changes."""

    where: Where
    change: Change


Operation = Capture | Intervention

# gradients


@dataclass(frozen=True, slots=True)
class Logit:
    """The logit of `token` after the token `at` (one token), less that of `minus` where given."""

    token: Token
    minus: Token | None = None
    at: Tokens = field(default_factory=LastToken)


@dataclass(frozen=True, slots=True)
class LogProbability:
    """The log-probability of `token` as the next after the token `at` (one token)."""

    token: Token
    at: Tokens = field(default_factory=LastToken)


@dataclass(frozen=True, slots=True)
class Loss:
    """The mean negative log-probability of the row's own `tokens`, each given those before it; never the first."""

    tokens: Tokens = field(default_factory=AllTokens)


@dataclass(frozen=True, slots=True)
class Dot:
    """The sum over the chosen tokens (and heads) of the dot product of what is at `where` with `direction`."""

    where: Where
    direction: Array


Scalar = Logit | LogProbability | Loss | Dot


class Method(StrEnum):
    """What is made of gradients."""

    GRADIENT = "gradient"
    """d scalar / d x, in the site's own shape."""
    INPUT_TIMES_GRADIENT = "input_times_gradient"
    """x * gradient, summed along the last axis: a first-order guess of what zeroing x would cost."""
    INTEGRATED_GRADIENTS = "integrated_gradients"
    """(x - base) * mean gradient on the line from base to x, summed along the last axis; base is zero or `source`'s x.
    The gradient is taken at the `steps` midpoints of equal parts of the line (Sundararajan et al., 2017), one site at
    a time."""
    ATTRIBUTION_PATCHING = "attribution_patching"
    """(x of the row `source` - x) * gradient, summed along the last axis: a first-order guess of what a patch does."""
    DIRECT_LOGIT = "direct_logit"
    """What x adds to the scalar, a `Logit`, by the residual stream alone: through the final norm with its scale held
    fixed and the unembedding. Needs no gradient; sites are what adds to the residual stream."""


@dataclass(frozen=True, slots=True)
class Gradient:
    """Differentiate `of` with respect to what is at each of `sites`, with the row's operations acting.

    `source` names the row that the method compares with ("": none), `steps` is integrated gradients'. Acts in the
    prompt's pass.
    """

    of: Scalar
    sites: tuple[Where, ...]
    method: Method = Method.GRADIENT
    source: str = ""
    steps: int = 1

    @property
    def passes(self) -> int:
        """How many times the row goes forward and back."""
        if self.method is Method.DIRECT_LOGIT:
            return 0
        return self.steps * len(self.sites) if self.method is Method.INTEGRATED_GRADIENTS else 1


@dataclass(frozen=True, slots=True)
class Generation:
    """How a row goes on: up to `max_tokens` tokens; 0 is a single pass. `temperature` 0 takes the likeliest."""

    max_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class RowTrace:
    """What one row asks. Rows with different ones share a step."""

    prompt: Prompt
    operations: tuple[Operation, ...] = ()
    gradient: Gradient | None = None
    generation: Generation = field(default_factory=Generation)

    @property
    def name(self) -> str:
        """The row's, unique in its call."""
        return self.prompt.name

    @property
    def captures(self) -> tuple[Capture, ...]:
        """Those of its operations that see."""
        return tuple(one for one in self.operations if isinstance(one, Capture))

    @property
    def interventions(self) -> tuple[Intervention, ...]:
        """Those of its operations that change."""
        return tuple(one for one in self.operations if isinstance(one, Intervention))

    @property
    def sources(self) -> frozenset[str]:
        """The names of the rows that must have been computed before this one."""
        patches = {one.change.source for one in self.interventions if isinstance(one.change, Patch)}
        return frozenset(patches | ({self.gradient.source} if self.gradient and self.gradient.source else set()))

    @property
    def places(self) -> frozenset[Place]:
        """Which kinds of site it touches, its gradient's included; sites that others take from it are not."""
        touched = [one.where for one in self.operations]
        if self.gradient:
            touched += self.gradient.sites
            touched += [self.gradient.of.where] if isinstance(self.gradient.of, Dot) else []
        return frozenset(where.site.place for where in touched)

    @property
    def needs_gradient(self) -> bool:
        """Whether it goes backwards: such rows form batches of their own."""
        return self.gradient is not None and self.gradient.passes > 0


class Format(StrEnum):
    """How results travel."""

    JSON = "json"
    SAFETENSORS = "safetensors"


@dataclass(frozen=True, slots=True)
class TracePlan:
    """A whole call. No two rows have one name, and no row waits for itself (`order.waves`).

    `dtype` is that of captures without a reduction and of gradients; None: the model's own.
    """

    model: str
    rows: tuple[RowTrace, ...]
    dtype: DType | None = None
    format: Format = Format.JSON
    stream: bool = False
    dry_run: bool = False

    def row(self, name: str) -> RowTrace:
        """The row of that name. Raises `KeyError`."""
        return {row.name: row for row in self.rows}[name]

    def taken_from(self, name: str) -> tuple[Where, ...]:
        """What other rows take from the row `name`, each once: what must be kept of its prompt's pass."""
        patches = [one.change for row in self.rows for one in row.interventions if isinstance(one.change, Patch)]
        wanted = [patch.where for patch in patches if patch.source == name]
        for row in self.rows:
            if row.gradient and row.gradient.source == name:
                wanted += row.gradient.sites
        return tuple(dict.fromkeys(wanted))
