"""The wire of `/admin/v1/projects`."""

from typing import Annotated

from pydantic import BaseModel, Field, StrictBool, WithJsonSchema

from terascope.core.models import MODEL_PATTERN, Mode
from terascope.core.projects import MOST_SHARES, PROJECT_PATTERN, Qos, Role
from terascope.protocol.admin import Strict

ProjectName = Annotated[str, WithJsonSchema({"type": "string", "pattern": PROJECT_PATTERN})]
PolicyModel = Annotated[str, WithJsonSchema({"type": "string", "pattern": rf"^\*$|{MODEL_PATTERN}"})]
"""`*`, a name, or `name@version`."""


class PolicyView(BaseModel):
    """What a project may do with a model."""

    model: str = Field(description="`*` for every model, a name for all its versions, or `name@version`.")
    modes: list[str]
    qos: list[str]


class ProjectView(BaseModel):
    """A project."""

    name: str
    title: str
    created: float
    closed: float | None = Field(description="Since when nobody may use it; null: it is open.")
    shares: int = Field(description="Its part of what models can do, beside the shares of others who wait.")
    role: str | None = Field(description="What the caller is in it; null for an operator who is no member.")
    policies: list[PolicyView] = Field(description="What it may do; all else is denied.")


class ProjectViews(BaseModel):
    """`GET /admin/v1/projects`."""

    data: list[ProjectView]


class CreateProject(Strict):
    """`POST /admin/v1/projects`."""

    name: ProjectName
    title: str = ""
    pi: str = Field(default="", description="The user who leads it.")


class ChangeProject(Strict):
    """`PATCH /admin/v1/projects/{project}`; what is null stays."""

    title: str | None = None
    closed: StrictBool | None = None
    shares: int | None = Field(default=None, ge=1, le=MOST_SHARES)


class SetPolicy(Strict):
    """`PUT /admin/v1/projects/{project}/policies/{model}`."""

    modes: list[Mode] = Field(default=[Mode.QUERY, Mode.EMBED], min_length=1)
    qos: list[Qos] = Field(default=[Qos.INTERACTIVE, Qos.BATCH], min_length=1)


class MemberView(BaseModel):
    """A member of a project."""

    user: str
    role: str
    added: float


class MemberViews(BaseModel):
    """`GET /admin/v1/projects/{project}/members`."""

    data: list[MemberView]


class SetMember(Strict):
    """`PUT /admin/v1/projects/{project}/members/{user}`."""

    role: Role = Role.MEMBER
