"""What a model is, to every room: names, modes, versions."""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from terascope.core.errors import BadRequest
from terascope.core.prices import Price, formula

_NAME = r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}"
_VERSION = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
NAME_PATTERN = f"^{_NAME}$"
"""A model's or an alias' name, as JSON schemas show it."""
_ADAPTER = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
MODEL_PATTERN = f"^{_NAME}(@{_VERSION})?(:{_ADAPTER}(@{_VERSION})?)?$"
"""`name[@version][:adapter[@version]]`, as JSON schemas show it."""
ADAPTER_PATTERN = f"^{_ADAPTER}$"
"""An adapter's own name, as JSON schemas show it."""
_LONGEST_NAME = 128


class Mode(StrEnum):
    """A way of using a model (arXiv 2402.03480, section 3)."""

    QUERY = "query"
    EMBED = "embed"
    INTERNALS = "internals"
    TUNE = "tune"


class LifeCycle(StrEnum):
    """Where a model version stands."""

    PREVIEW = "preview"
    STABLE = "stable"
    DEPRECATED = "deprecated"
    RETIRED = "retired"


class Task(StrEnum):
    """What a checkpoint was trained to do."""

    GENERATE = "generate"
    EMBED = "embed"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a model version: its path below the version's directory, size in bytes, sha256 in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class ModelVersion:
    """One immutable `name@version` of the catalogue.

    `digest` is the sha256 over the sorted lines `sha256  path` of `files`, so it names the exact bytes of
    weights, tokenizer, chat template and configuration. `directory` is where they are on this machine; it is
    empty for a model that only a remote engine holds (then `files` is empty and `digest` names the source).

    An adapter's name is `base:adapter`; its `parent` is the `name@version` that it was made for.
    """

    name: str
    version: str
    digest: str
    source: str
    directory: str
    task: Task
    context_length: int
    files: tuple[ModelFile, ...] = ()
    architecture: str = ""
    parameters: int = 0
    licence: str = ""
    chat_template_sha256: str = ""
    tokenizer_sha256: str = ""
    life_cycle: LifeCycle = LifeCycle.STABLE
    created: float = 0.0
    active_parameters: int = 0
    """Those that each token passes through; 0 when that is all of `parameters`."""
    own_price: Price | None = None
    """What an operator set; None: the formula's."""
    parent: str = ""
    """`name@version` of the model that an adapter adds to; empty for a model of its own."""
    owner: str = ""
    """The project that alone may use it; empty: whoever may use the model."""

    @property
    def base_name(self) -> str:
        """The name of the model itself: an adapter's is that of its base."""
        return self.name.partition(":")[0]

    @property
    def served_as(self) -> str:
        """`name@version` of what is deployed: an adapter is served by the replicas of its base."""
        return self.parent or self.public_name

    @cached_property
    def price(self) -> Price:
        """What a token costs."""
        return self.own_price or formula(self.active_parameters or self.parameters)

    @cached_property
    def public_name(self) -> str:
        """`name@version`: what answers and receipts say."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class Alias:
    """Another name of a model, or the name of a model pinned to one of its versions.

    An empty `version` means the newest version of `name`, whichever that is at the time of the request.
    """

    alias: str
    name: str
    version: str = ""
    moved: float = 0.0


@dataclass(frozen=True, slots=True)
class ModelName:
    """A model as a request names it: `name[@version]`, or with an adapter `name[@version]:adapter[@version]`.

    With an adapter, `name` is `name:adapter` and `version` that of the adapter; `base_version` is the base's.
    """

    name: str
    version: str = ""
    base_version: str = ""

    @classmethod
    def parse(cls, text: str) -> "ModelName":
        """Read a name.

        Raises `BadRequest` when the text cannot name a model.
        """
        if not re.fullmatch(MODEL_PATTERN, text):
            raise BadRequest(
                f"{text[:80]!r} is not a model name; write name, name@version or name:adapter", param="model"
            )
        base, colon, adapter = text.partition(":")
        name, _, version = base.partition("@")
        if not colon:
            return cls(name, version)
        own, _, own_version = adapter.partition("@")
        if len(name) + len(own) >= _LONGEST_NAME:
            raise BadRequest(f"{text[:80]!r}: a name has at most {_LONGEST_NAME} characters", param="model")
        return cls(f"{name}:{own}", own_version, version)

    def __str__(self) -> str:
        return f"{self.name}@{self.version}" if self.version else self.name


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do, as it says itself and as the conformance suite checks.

    `endpoints` are paths below `/v1` such as `chat/completions`, besides `tokenize` and `detokenize`;
    `features` are request features that not every engine has, see `Feature`.
    """

    endpoints: frozenset[str] = field(default_factory=frozenset)
    features: frozenset[str] = field(default_factory=frozenset)


class Feature(StrEnum):
    """Request features that a request may need and an engine may lack."""

    LOGPROBS = "logprobs"
    SEED = "seed"
    TOOLS = "tools"
    ENFORCED_TOOLS = "enforced_tools"  # `tool_choice` that demands a call
    JSON_SCHEMA = "json_schema"
    ECHO = "echo"
    TOKEN_PROMPTS = "token_prompts"  # noqa: S105 - the name of a feature, not a password
    LOGIT_BIAS = "logit_bias"
    REPRODUCIBLE = "reproducible"
    PROMPT_EMBEDS = "prompt_embeds"
    MIXED_PROMPTS = "mixed_prompts"  # vectors beside text in one message, soft prompts of chats, projectors
    MIXED_COMPLETIONS = "mixed_completions"  # vectors beside text in one prompt of a completion, soft prompts of those
    EMBEDDING_LAYERS = "embedding_layers"  # `layer` and `pooling`
    EMBEDDING_OPTIONS = "embedding_options"  # `truncate`, `windows`, `stream`
    ADAPTERS = "adapters"
    DIMENSIONS = "dimensions"  # embeddings cut to so many
    SEVERAL_GREEDY = "several_greedy"  # more than one choice at temperature 0
