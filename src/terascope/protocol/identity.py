"""The wire of `/v1/me`, `/.well-known/terascope` and `/admin/v1/service-accounts`."""

from typing import Annotated

from pydantic import BaseModel, Field, WithJsonSchema

from terascope.core.projects import PROJECT_PATTERN, Role
from terascope.protocol.admin import Strict
from terascope.protocol.projects import ProjectName

AccountName = Annotated[str, WithJsonSchema({"type": "string", "pattern": PROJECT_PATTERN})]


class MyProject(BaseModel):
    """A project that the caller may see."""

    name: str
    role: str | None = Field(description="What the caller is in it; null for an operator who is no member.")


class Me(BaseModel):
    """`GET /v1/me`."""

    user: str
    key_id: str = Field(description="The key used; for a token what takes its place, the same for all of a user's.")
    scopes: list[str]
    operator: bool
    project: str = Field(description="Who pays, unless a request names another project.")
    confined: bool = Field(description="Whether that is the only project there is for this key.")
    expires: float | None = Field(description="Seconds since the epoch; null: never.")
    projects: list[MyProject]


class LoginOption(BaseModel):
    """An issuer at which a program may sign its user in by device code (RFC 8628), and as which client."""

    name: str
    issuer: str
    client_id: str
    scopes: list[str]
    resource: str = Field(description="Resource indicator (RFC 8707) to ask for; empty: none.")
    token: str = Field(description="Which of the tokens to send: `access` or `id`.")


class LoginOptions(BaseModel):
    """`GET /.well-known/terascope`."""

    login: list[LoginOption]


class ServiceAccountView(BaseModel):
    """A service account."""

    project: str
    name: str
    user: str = Field(description="The user that it is; keys for it are made with this `user`.")
    title: str
    role: str | None = Field(description="What it is in its project.")
    created: float
    created_by: str


class ServiceAccountViews(BaseModel):
    """`GET /admin/v1/service-accounts`."""

    data: list[ServiceAccountView]


class CreateServiceAccount(Strict):
    """`POST /admin/v1/service-accounts`."""

    project: ProjectName
    name: AccountName
    role: Role = Role.MEMBER
    title: str = ""
