"""What projects register to be used with a model: soft prompts and projectors."""

import re
from dataclasses import dataclass
from enum import StrEnum

from terascope.core.errors import BadRequest
from terascope.core.projects import PROJECT_PATTERN

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


class ArtefactKind(StrEnum):
    """What an artefact is."""

    SOFT_PROMPT = "softprompt"  # vectors that stand before a prompt
    PROJECTOR = "projector"  # a small network from somebody's vectors to a model's


@dataclass(frozen=True, slots=True)
class ArtefactName:
    """An artefact as a request names it: `[project/]name[@version]`; without a project, one's own or a shared one."""

    name: str
    version: str = ""
    project: str = ""

    @classmethod
    def parse(cls, text: str, param: str) -> "ArtefactName":
        """Read a name. Raises `BadRequest` with `param` when the text cannot be one."""
        before, slash, rest = text.rpartition("/")
        name, at, version = rest.partition("@")
        project_fits = re.fullmatch(PROJECT_PATTERN, before) if slash else True
        if not project_fits or not re.fullmatch(_NAME, name) or (at and not re.fullmatch(_NAME, version)):
            raise BadRequest(f"{text[:80]!r} is no name here; write name, name@version or project/name", param=param)
        return cls(name, version, before)

    def __str__(self) -> str:
        owner = f"{self.project}/" if self.project else ""
        return f"{owner}{self.name}{'@' if self.version else ''}{self.version}"
