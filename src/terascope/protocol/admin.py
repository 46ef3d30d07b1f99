"""The wire of `/admin/v1` and of `/v1/models`."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from terascope.core.models import ADAPTER_PATTERN, MODEL_PATTERN, NAME_PATTERN

Name = Annotated[str, WithJsonSchema({"type": "string", "pattern": MODEL_PATTERN})]
"""`name` or `name@version`; `core.models.ModelName` checks it, with a better message than a pattern's."""
NewName = Annotated[str, WithJsonSchema({"type": "string", "pattern": NAME_PATTERN})]
"""A name without a version."""
AdapterName = Annotated[str, WithJsonSchema({"type": "string", "pattern": ADAPTER_PATTERN})]
"""An adapter's own name, without its base's."""


class Strict(BaseModel):
    """Requests of our own: an unknown field is a mistake, and so is NaN, which JSON would turn into null."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class ModelCard(BaseModel):
    """One entry of `GET /v1/models`: OpenAI's fields and ours."""

    id: str = Field(description="Name or alias to put into `model`.")
    object: Literal["model"] = "model"
    created: int = Field(description="Seconds since the epoch.")
    owned_by: str
    version: str
    digest: str = Field(description="sha256 over all files of this version.")
    modes: list[str] = Field(description="What it may be used for here.")
    context_length: int = Field(description="Tokens, prompt and answer together; 0 when not known.")
    state: str = Field(description="`ready`, `starting`, `failed` or `stopped`.")
    alias_of: str | None = None
    parent: str | None = Field(default=None, description="`name@version` of the model that an adapter adds to.")


class ModelCards(BaseModel):
    """`GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class FileView(BaseModel):
    """A file of a model version."""

    path: str
    size: int
    sha256: str


class ModelView(BaseModel):
    """A model version, as the catalogue has it."""

    name: str
    version: str
    digest: str
    source: str
    directory: str
    task: str
    context_length: int
    architecture: str
    parameters: int
    licence: str
    chat_template_sha256: str
    tokenizer_sha256: str
    life_cycle: str
    active_parameters: int = Field(default=0, description="Those that each token passes through; 0: all of them.")
    price_prompt: int = Field(default=0, description="Service units for a million tokens of prompts.")
    price_output: int = Field(default=0, description="Service units for a million tokens of answers.")
    created: float
    aliases: list[str]
    state: str
    files: list[FileView]
    parent: str = Field(default="", description="`name@version` of the model that an adapter adds to.")
    owner: str = Field(default="", description="The project that alone may use it; empty: whoever may use the model.")


class ModelViews(BaseModel):
    """`GET /admin/v1/models`."""

    data: list[ModelView]


class AddModel(Strict):
    """`POST /admin/v1/models`."""

    name: NewName
    source: str = Field(description="`path:DIR`, `hf:org/name@revision` or `pypi:package==version`.")
    version: str = ""
    aliases: list[NewName] = []


class AddAdapter(Strict):
    """`POST /admin/v1/adapters`."""

    name: AdapterName
    base: Name = Field(description="The model it adds to: `name`, for its newest version, or `name@version`.")
    source: str = Field(description="`path:DIR`: what PEFT's `save_pretrained` wrote. `hf:` and `pypi:` as for models.")
    version: str = ""
    project: str = Field(default="", description="The project that alone may use it.")
    licence: str = Field(default="", description="Its licence, where its README.md does not say it.")


class SetAlias(Strict):
    """`PUT /admin/v1/models/aliases/{alias}`."""

    target: Name = Field(description="`name` or `name@version`.")


class KeyView(BaseModel):
    """A key, without the key."""

    id: str
    name: str
    prefix: str = Field(description="How the key begins.")
    scopes: list[str]
    created: float
    expires: float | None
    revoked: float | None
    user: str = Field(description="Whose it is.")
    project: str = Field(description="Who pays, unless a request names another project.")
    confined: bool = Field(default=False, description="Whether that is the only project that the key works in.")


class KeyViews(BaseModel):
    """`GET /admin/v1/keys`."""

    data: list[KeyView]


class CreateKey(Strict):
    """`POST /admin/v1/keys`."""

    name: str
    scopes: list[str] = ["query", "embed"]
    expires: float | None = Field(default=None, description="Seconds since the epoch; null: never.")
    user: str = Field(default="", description="Whose key it is; by default its name. Becomes a member of the project.")
    project: str = Field(default="", description="Who pays, unless a request names another project; by default local.")


class NewKey(KeyView):
    """The one answer that holds the key itself."""

    key: str


class RunView(BaseModel):
    """A run record."""

    id: str
    started: float
    key_id: str
    endpoint: str
    model: str
    digest: str
    replica: str
    engine: str
    parameters: dict[str, Any]
    stream: bool
    outcome: str
    status: int
    error: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = Field(description="Tokens of the prompt that the engine had computed before.")
    queued_s: float
    first_s: float
    total_s: float
    attempts: int
    project: str = Field(description="Who paid.")
    user: str = Field(description="Who asked.")
    service_units: float = Field(description="What the project was charged.")


class RunViews(BaseModel):
    """`GET /admin/v1/runs`, newest first; pass the last `id` as `before` for the next page."""

    data: list[RunView]
    has_more: bool


class Ready(BaseModel):
    """`GET /ready`."""

    status: Literal["ready", "starting"]
    deployments: dict[str, str] = Field(description="State of every deployment.")
