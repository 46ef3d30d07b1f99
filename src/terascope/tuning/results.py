"""What a job has made becomes an adapter of the catalogue, or an artefact of its project."""

import asyncio
import os
import shutil
from contextlib import suppress
from pathlib import Path

from terascope.access.artefacts import Artefacts, NewArtefact, version_of
from terascope.catalog.catalog import Catalog
from terascope.core.artefacts import ArtefactKind
from terascope.core.errors import Conflict, ModelNotFound
from terascope.core.models import ModelName, ModelVersion
from terascope.core.tuning import TuningMethod
from terascope.engines.torch.tuning.job import PROJECTOR_FILE, PROMPT_FILE
from terascope.store.tuning import JobRow


class Results:
    """Registers results. `adapters` is the directory in which the files of adapters stay."""

    def __init__(self, catalog: Catalog, artefacts: Artefacts, adapters: Path) -> None:
        self._catalog, self._artefacts, self._adapters = catalog, artefacts, adapters

    def check_name(self, base: ModelVersion, suffix: str, project: str) -> None:
        """Look at the name that an adapter is to have before anything is trained.

        Raises `BadRequest` when it is too long, `Conflict` when it is another project's: its users would get this one.
        """
        ModelName.parse(f"{base.name}:{suffix}")
        try:
            there = self._catalog.versions(f"{base.name}:{suffix}")
        except ModelNotFound:
            return
        if any(one.owner != project for one in there):
            raise Conflict(f"there is an adapter {base.name}:{suffix} that is not of your project", param="suffix")

    async def register(self, row: JobRow, directory: Path) -> str:
        """Register what is in `directory`; return the name by which requests use it. Doing it again changes nothing.

        Raises `Conflict` when the name went to another project meanwhile, and what registering raises.
        """
        base = self._catalog.resolve(row.base)
        if row.method is TuningMethod.LORA:
            return await self._adapter(row, base, directory)
        soft = row.method is TuningMethod.SOFT_PROMPT
        data = await asyncio.to_thread((directory / (PROMPT_FILE if soft else PROJECTOR_FILE)).read_bytes)
        kind = ArtefactKind.SOFT_PROMPT if soft else ArtefactKind.PROJECTOR
        activation = "" if soft else str(row.settings["activation"])
        new = NewArtefact(row.project, kind, row.suffix, "", data, activation, _note(row))
        version = version_of(data)
        with suppress(Conflict):  # the same bytes under the same name: it was registered before a crash
            await self._artefacts.keep(row.user_id, new, base)
        return f"{row.base}+{row.suffix}@{version}" if soft else f"{row.project}/{row.suffix}@{version}"

    async def _adapter(self, row: JobRow, base: ModelVersion, directory: Path) -> str:
        self.check_name(base, row.suffix, row.project)
        home = self._adapters / row.id
        await asyncio.to_thread(_moved, directory, home)
        added = await self._catalog.add_adapter(row.suffix, f"path:{home}", row.base, owner=row.project)
        return added.public_name


def _note(row: JobRow) -> str:
    """What an artefact says of where it is from."""
    return f"made by {row.id} from data {row.data_digest[:12]} with seed {row.seed}"


def _moved(directory: Path, home: Path) -> None:
    """Bring the files to where they stay, as a whole or not at all."""
    if home.exists():
        return
    home.parent.mkdir(mode=0o700, exist_ok=True)
    draft = home.with_name(f".{home.name}")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(directory, draft)
    for path in draft.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    draft.rename(home)
