"""The wire of `/admin/v1/artefacts`. Times are seconds since the epoch."""

from typing import Literal

from pydantic import BaseModel, Field

from terascope.protocol.admin import Name, Strict
from terascope.protocol.projects import ProjectName

Kind = Literal["softprompt", "projector"]


class ArtefactView(BaseModel):
    """One version of a soft prompt or projector."""

    project: str
    kind: str
    name: str
    version: str
    model: str = Field(description="The `name@version` that it was made for.")
    digest: str = Field(description="sha256 of its file.")
    size: int
    shape: list[int] = Field(description="[vectors, width], or a projector's widths from its input to its output.")
    activation: str = Field(description="Between a projector's layers.")
    shared_with: list[str]
    note: str
    created: float
    created_by: str


class ArtefactViews(BaseModel):
    """Versions by project and name, then oldest first."""

    data: list[ArtefactView]


class AddArtefact(Strict):
    """`POST /admin/v1/artefacts/{kind}`."""

    project: ProjectName
    name: str = Field(description="Letters, digits, dots, dashes and underscores.")
    version: str = Field("", description="By default the first 12 digits of its sha256.")
    model: Name = Field(description="The model it was made for.")
    data: str = Field(description="Base64 of a safetensors file.")
    activation: str = Field("gelu", description="Of a projector: gelu, relu, silu or tanh.")
    note: str = ""


class ShareArtefact(Strict):
    """`PUT /admin/v1/artefacts/{kind}/{project}/{name}/shared_with`."""

    projects: list[ProjectName] = Field(description="Those that may use it besides its own; none takes that back.")
