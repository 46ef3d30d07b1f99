"""What can be asked about soft prompts and projectors."""

import base64
from urllib.parse import quote

from terascope.client.ask import Ask, Noun, Sender, call
from terascope.protocol.artefacts import AddArtefact, ArtefactView, ArtefactViews, Kind, ShareArtefact


class Artefacts(Noun[Sender]):
    """What projects register to be used with a model: soft prompts and projectors."""

    @call
    def list(self, kind: Kind, project: str = "") -> Ask[ArtefactViews]:
        """Return what one's projects, or one of them, have or may use."""
        return Ask("GET", f"{_ARTEFACTS}/{kind}", ArtefactViews, query={"project": project} if project else {})

    @call
    def add(
        self, kind: Kind, project: str, name: str, model: str, data: bytes, *, version: str = "",
        activation: str = "gelu", note: str = "",
    ) -> Ask[ArtefactView]:  # fmt: skip
        """Register the safetensors file `data` as a version for `model`."""
        encoded = base64.b64encode(data).decode()
        body = AddArtefact(
            project=project, name=name, version=version, model=model, data=encoded, activation=activation, note=note
        )
        return Ask("POST", f"{_ARTEFACTS}/{kind}", ArtefactView, body)

    @call
    def show(self, kind: Kind, project: str, name: str) -> Ask[ArtefactViews]:
        """Return all versions of one."""
        return Ask("GET", _path(kind, project, name), ArtefactViews)

    @call
    def share(self, kind: Kind, project: str, name: str, projects: "tuple[str, ...]") -> Ask[ArtefactViews]:
        """Let `projects`, and no others besides its own, use it."""
        body = ShareArtefact(projects=[*projects])
        return Ask("PUT", f"{_path(kind, project, name)}/shared_with", ArtefactViews, body)

    @call
    def remove(self, kind: Kind, project: str, name: str, version: str = "") -> Ask[None]:
        """Forget a version, or all."""
        query = {"version": version} if version else {}
        return Ask("DELETE", _path(kind, project, name), type(None), query=query)


_ARTEFACTS = "/admin/v1/artefacts"


def _path(kind: str, project: str, name: str) -> str:
    return f"{_ARTEFACTS}/{kind}/{quote(project, safe='')}/{quote(name, safe='')}"
