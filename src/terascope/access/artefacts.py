"""Soft prompts and projectors: a project's own, those that others share with it, and how requests get them."""

import asyncio
import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from terascope.access.principal import Grant, Principal
from terascope.access.projects import Projects, Right
from terascope.core.artefacts import ArtefactKind, ArtefactName
from terascope.core.clock import Clock
from terascope.core.errors import BadRequest, NotFound
from terascope.core.models import ModelVersion
from terascope.core.projects import checked_text
from terascope.internals.artefacts import ACTIVATIONS, MOST_BYTES, projector_widths, soft_prompt_shape
from terascope.protocol.request import ModelRequest
from terascope.store.artefacts import ArtefactRow, ArtefactStore
from terascope.store.blobs import Blobs
from terascope.store.database import Database

_VERSION_DIGITS = 12


@dataclass(frozen=True, slots=True)
class NewArtefact:
    """An artefact to be registered; without a `version` it is called by the beginning of its digest."""

    project: str
    kind: ArtefactKind
    name: str
    version: str
    data: bytes
    activation: str = ""
    note: str = ""


class Artefacts:
    """Registers, lists and removes artefacts, and puts them into requests that name them."""

    def __init__(self, database: Database, blobs: Blobs, projects: Projects, clock: Clock) -> None:
        self._store = ArtefactStore(database)
        self._blobs = blobs
        self._projects = projects
        self._clock = clock

    async def add(self, who: Principal, new: NewArtefact, version: ModelVersion) -> ArtefactRow:
        """Register `new` for the model `version`; it is durable on return.

        Raises `BadRequest` for a file that is not what it must be, `Conflict` when that version is there, and
        `NotFound` or `NotAllowed` when `who` may not use the project.
        """
        await self._projects.require(who, new.project, Right.USE)
        return await self.keep(who.user_id, new, version)

    async def keep(self, user_id: str, new: NewArtefact, version: ModelVersion) -> ArtefactRow:
        """Register `new` for a user who was found to be allowed to, as `add` does for one who is looked at."""
        named = ArtefactName.parse(f"{new.name}@{new.version}" if new.version else new.name, "name")
        if named.project or len(new.data) > MOST_BYTES:
            told = f"{len(new.data)} bytes; it may have {MOST_BYTES}" if not named.project else "a project in its name"
            raise BadRequest(f"{new.name[:80]!r} has {told}", param="data" if not named.project else "name")
        if new.kind is ArtefactKind.PROJECTOR and new.activation not in ACTIVATIONS:
            raise BadRequest(f"`activation` must be one of {', '.join(ACTIVATIONS)}", param="activation")
        read = soft_prompt_shape if new.kind is ArtefactKind.SOFT_PROMPT else projector_widths
        shape = await asyncio.to_thread(read, new.data)
        digest = await asyncio.to_thread(self._blobs.put, new.data)
        row = ArtefactRow(
            new.project, new.kind, named.name, named.version or version_of(new.data), version.public_name,
            digest, len(new.data), tuple(shape), new.activation, await self._shares_of(new),
            checked_text(new.note, "note", empty=True), self._clock.now(), user_id,
        )  # fmt: skip
        await self._store.add(row)
        return row

    async def visible_to(self, who: Principal, kind: ArtefactKind, project: str = "") -> list[ArtefactRow]:
        """Return what projects that `who` may see, or one of them, have or may use. Raises `NotFound`."""
        if project:
            await self._projects.require(who, project, Right.SEE)
        names = {project} if project else {row.name for row in await self._projects.visible_to(who)}
        return [row for row in await self._store.all(kind) if row.project in names or names & set(row.shared_with)]

    async def versions(self, who: Principal, kind: ArtefactKind, project: str, name: str) -> list[ArtefactRow]:
        """Return all versions of one, oldest first. Raises `NotFound` when there is none or `who` may not see it."""
        rows = [row for row in await self.visible_to(who, kind) if (row.project, row.name) == (project, name)]
        if not rows:
            raise _missing(kind, f"{project}/{name}")
        return rows

    async def share(
        self, who: Principal, kind: ArtefactKind, project: str, name: str, shared_with: Sequence[str]
    ) -> list[ArtefactRow]:
        """Let the projects `shared_with`, and no others besides its own, use all versions; for a PI and operators.

        Raises `NotFound`, `NotAllowed`.
        """
        await self._projects.require(who, project, Right.MANAGE)
        rows = await self.versions(who, kind, project, name)
        await self._store.share(rows[0], sorted(set(shared_with)))
        return await self.versions(who, kind, project, name)

    async def remove(self, who: Principal, kind: ArtefactKind, project: str, name: str, version: str = "") -> None:
        """Forget a version, or all; for whoever added it, a PI and operators. Raises `NotFound`, `NotAllowed`."""
        rows = [row for row in await self.versions(who, kind, project, name) if version in ("", row.version)]
        if not rows:
            raise _missing(kind, f"{project}/{name}@{version[:60]}")
        own = all(row.created_by == who.user_id for row in rows)
        await self._projects.require(who, project, Right.USE if own else Right.MANAGE)
        for row in rows:
            if await self._store.remove(row):
                await asyncio.to_thread(self._blobs.remove, row.digest)

    async def applied(self, request: ModelRequest, grant: Grant, version: ModelVersion) -> ModelRequest:
        """Return `request` with what it names in place of the names, for the engine.

        Raises `NotFound` for names that the paying project may not use, and `BadRequest` for what was made for
        another model.
        """
        fields: dict[str, Any] = {}
        labels: dict[str, str] = {}
        if request.soft_prompt:
            row = await self._usable(ArtefactKind.SOFT_PROMPT, request.soft_prompt, grant, version, "model")
            fields["soft_prompt"] = await self._encoded(row)
            labels["softprompt"] = row.public_name
        if request.encoder:
            row = await self._usable(ArtefactKind.PROJECTOR, request.encoder, grant, version, "encoder")
            fields["encoder"] = {"data": await self._encoded(row), "activation": row.activation}
            labels["encoder"] = row.public_name
        if not fields:
            return request
        size = request.size + len(fields.get("soft_prompt", ""))
        return replace(request, fields=request.fields | fields, labels=labels, size=size)

    async def _encoded(self, row: ArtefactRow) -> str:
        return await asyncio.to_thread(lambda: base64.b64encode(self._blobs.get(row.digest)).decode())

    async def _usable(
        self, kind: ArtefactKind, text: str, grant: Grant, version: ModelVersion, param: str
    ) -> ArtefactRow:
        """The newest version that `text` can mean, one's own before those that others share."""
        wanted = ArtefactName.parse(text, param)
        rows = [
            row
            for row in await self._store.all(kind, wanted.name)
            if (wanted.version in ("", row.version) and wanted.project in ("", row.project))
            and (row.project == grant.project or grant.project in row.shared_with)
        ]
        rows = [row for row in rows if row.project == grant.project] or rows
        if not rows:
            raise _missing(kind, str(wanted), param)
        if len({row.project for row in rows}) > 1:
            owners = ", ".join(sorted({row.project for row in rows}))
            raise BadRequest(f"{text[:80]!r} is shared by several projects ({owners}); write project/name", param=param)
        fitting = [row for row in rows if row.model == version.public_name]
        if not fitting:
            raise BadRequest(
                f"{rows[-1].public_name} was made for {rows[-1].model}, not for {version.public_name}", param=param
            )
        return fitting[-1]

    async def _shares_of(self, new: NewArtefact) -> tuple[str, ...]:
        """Whom earlier versions are shared with."""
        rows = [row for row in await self._store.all(new.kind, new.name) if row.project == new.project]
        return rows[-1].shared_with if rows else ()


def version_of(data: bytes) -> str:
    """What a version with these bytes is called that nobody gave a name."""
    return hashlib.sha256(data).hexdigest()[:_VERSION_DIGITS]


def _missing(kind: ArtefactKind, name: str, param: str | None = None) -> NotFound:
    return NotFound(
        f"there is no {kind} {name[:140]!r} that you may use; `terascope {kind}s list` shows them", param=param
    )
