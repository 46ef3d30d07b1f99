"""Which models exist, exactly: what the rest of Terascope asks and operators change."""

import asyncio
import hashlib
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from terascope.catalog.adapters import AdapterFacts, check_base, describe_adapter
from terascope.catalog.files import digest_of, hash_files
from terascope.catalog.hashes import HashCache
from terascope.catalog.index import Index
from terascope.catalog.inspect import Facts, describe, tokenizer_sha256
from terascope.catalog.sources.contract import Fetched, Progress, Source
from terascope.catalog.sources.registry import parse_source
from terascope.catalog.threads import Work, in_thread, to_the_end
from terascope.core.clock import Clock
from terascope.core.errors import BadRequest, ModelNotFound, ModelUnavailable, SourceUnavailable
from terascope.core.models import Alias, LifeCycle, ModelFile, ModelName, ModelVersion, Task
from terascope.core.prices import Price
from terascope.store.database import Database
from terascope.store.models import ModelStore

_Result = TypeVar("_Result")

_VERSION_DIGITS = 12
_ELSEWHERE = ("remote:", "echo:")


class Catalog:
    """The models of one database.

    Look-ups are answered from memory; every change is durable on return and then seen by the next look-up.
    Changes by other processes on the same database are seen after `reload` or the next change here.
    """

    def __init__(self, database: Database, cache_dir: Path, clock: Clock) -> None:
        self._store = ModelStore(database)
        self._cache_dir = cache_dir
        self._clock = clock
        self._index = Index()
        self._loading = asyncio.Lock()
        self._expected: frozenset[str] = frozenset()

    @classmethod
    async def open(cls, database: Database, cache_dir: Path, clock: Clock) -> "Catalog":
        """Return the catalogue of `database`; fetched models are kept below `cache_dir`, made when needed."""
        catalog = cls(database, cache_dir, clock)
        await catalog.reload()
        return catalog

    async def reload(self) -> None:
        """Bring the look-ups up to date with the database."""
        async with self._loading:  # so that an older reading never replaces a newer one
            self._index = Index(*await self._store.load())

    def resolve(self, text: str) -> ModelVersion:
        """Return the version that a request's `model` means: `name@version`, an alias, or the newest of a name.

        Raises `ModelNotFound` that names what is near, also for retired versions; `BadRequest` when it is no name;
        `ModelUnavailable` for one that is on its way into the catalogue (see `expect`).
        """
        try:
            return self.find(text)
        except ModelNotFound:
            if text.partition("@")[0].partition(":")[0] in self._expected:
                raise ModelUnavailable(f"{text} is being prepared; ask again soon", retry_after=1) from None
            raise

    def find(self, text: str) -> ModelVersion:
        """Return what `resolve` returns. Raises `ModelNotFound` for one that is on its way, too, and `BadRequest`."""
        return self._index.resolve(text)

    def expect(self, names: Iterable[str]) -> None:
        """Say of models of these names or aliases, while they are not there, that they are on their way."""
        self._expected = frozenset(names)

    def get(self, name: str, version: str) -> ModelVersion:
        """Return `name@version` in whatever stage of its life it is. Raises `ModelNotFound`."""
        return self._index.get(name, version)

    def base_of(self, version: ModelVersion) -> ModelVersion:
        """Return the version that an adapter adds to, and every other version itself. Raises `ModelNotFound`."""
        return self._index.base_of(version)

    def versions(self, name: str) -> tuple[ModelVersion, ...]:
        """Return all versions of `name`, oldest first. Raises `ModelNotFound`."""
        return self._index.named(name)

    def list(self) -> tuple[ModelVersion, ...]:
        """Return all versions of all models, by name and then oldest first."""
        return self._index.versions

    def aliases(self) -> tuple[Alias, ...]:
        """Return all aliases, by name."""
        return self._index.aliases

    def aliases_of(self, version: ModelVersion) -> tuple[str, ...]:
        """Return the aliases that mean `version` now, by name."""
        return self._index.aliases_of(version)

    async def add(
        self, name: str, source: str, version: str = "", aliases: Sequence[str] = (), progress: Progress | None = None
    ) -> ModelVersion:
        """Fetch what `source` names, read and hash it, and enter it as `name@version`.

        Without `version` it is the first 12 hex digits of the digest. Adding the same files again changes nothing
        but where they are, and aliases that already name the model stay where they were moved to. Raises
        `BadRequest` for a source that is wrong or damaged, `SourceUnavailable` for one that cannot be had now,
        `Conflict` when that version has other files or a name is taken. On any raise and on cancellation the
        catalogue is as it was.
        """
        if source.startswith(_ELSEWHERE):
            return await self.add_remote(name, source, version, aliases=aliases)
        _check_names(name, version, aliases)
        origin = parse_source(source, self._cache_dir, self._clock)
        tell = progress or _silent
        added = await asyncio.to_thread(self._already, name, version, origin)
        if added is None:
            fetched = await origin.fetch(tell)
            facts, files = await in_thread(lambda work: self._read(fetched, work), tell)
            added = self._version(name, version, fetched, facts, files)
        return await self._enter(added, aliases, named=bool(version))

    async def add_remote(
        self,
        name: str,
        source: str,
        version: str = "",
        context_length: int = 0,
        task: Task = Task.GENERATE,
        aliases: Sequence[str] = (),
    ) -> ModelVersion:
        """Enter a model that only its engine holds; its digest names the source, not bytes.

        `source` is `remote:URL`, or `echo:NAME` for the echo engine, which has no weights.
        Raises `BadRequest` and `Conflict` as `add` does.
        """
        _check_names(name, version, aliases)
        _check_remote(source)
        digest = hashlib.sha256(source.encode()).hexdigest()
        added = ModelVersion(
            name=name,
            version=version or digest[:_VERSION_DIGITS],
            digest=digest,
            source=source,
            directory="",
            task=task,
            context_length=context_length,
            created=self._clock.now(),
        )
        return await self._enter(added, aliases, named=bool(version))

    async def add_adapter(
        self, adapter: str, source: str, base: str, version: str = "", owner: str = "", licence: str = ""
    ) -> ModelVersion:
        """Read and hash the LoRA adapter in `source`, and enter it as `base:adapter@version`.

        It belongs to the version that `base` means now, and to that alone. With an `owner`, a project, no other project
        may use it. Without `version` it is the first 12 hex digits of the digest of its files; without `licence` what
        they say. Adding the same files again changes nothing. Raises as `add` does, `BadRequest` also for what is no
        adapter of `base`. On any raise and on cancellation the catalogue is as it was.
        """
        parent = self.resolve(base)
        check_base(parent)
        name = f"{parent.name}:{adapter}"
        if ":" in adapter:
            raise BadRequest(f"{adapter[:80]!r} has a colon in it; the adapter's own name is wanted", param="name")
        _check_version(name, version)
        fetched = await parse_source(source, self._cache_dir, self._clock).fetch(_silent)
        facts, files = await in_thread(lambda work: self._read_adapter(fetched, parent, work), _silent)
        added = self._adapter(name, version, fetched, parent, facts, files)
        added = replace(added, owner=owner, licence=(licence or added.licence)[:100])
        return await self._enter(added, (), named=bool(version))

    async def alias(self, alias: str, target: str) -> Alias:
        """Make or move an alias to `name` (its newest version, whichever that is) or to `name@version`.

        An alias with the name of its own target pins which version the bare name means; an alias of an alias
        points to where that one points now. Raises `BadRequest`, `ModelNotFound` without the target or when it is
        retired, `Conflict` when `alias` is the name of another model.
        """
        _check_names(alias)
        means = self.resolve(target)
        wanted = ModelName.parse(target)
        pointer = next((one for one in self.aliases() if one.alias == target != one.name), None)
        pinned = means.version if wanted.version or wanted.base_version else ""
        name, version = (pointer.name, pointer.version) if pointer else (means.name, pinned)
        made = Alias(alias, name, version, self._clock.now())
        await self._change(self._store.put_alias(made))
        return made

    async def remove_alias(self, alias: str) -> None:
        """Forget an alias. Raises `NotFound`."""
        await self._change(self._store.remove_alias(alias))

    async def remove(self, name: str, version: str) -> None:
        """Forget `name@version`; its files stay where they are.

        Raises `ModelNotFound`, and `Conflict` while an alias points to it.
        """
        await self._change(self._store.remove(name, version))

    async def set_life_cycle(self, name: str, version: str, life_cycle: LifeCycle) -> ModelVersion:
        """Move a version to another stage of its life and return it. Raises `ModelNotFound`."""
        await self._change(self._store.set_life_cycle(name, version, life_cycle))
        return self.get(name, version)

    async def set_price(self, name: str, version: str, price: Price | None) -> ModelVersion:
        """Set what a version costs, or leave it to the formula (None), and return it. Raises `ModelNotFound`."""
        await self._change(self._store.set_price(name, version, price))
        return self.get(name, version)

    async def verify(self, version: ModelVersion, progress: Progress | None = None) -> tuple[str, ...]:
        """Read all files of `version` again; return a line for each that differs, such as `config.json: changed`.

        Empty when all is well, and for models without files here. Raises `BadRequest` when a file cannot be read.
        """
        if not version.files:
            return ()
        return await in_thread(lambda work: tuple(_differences(version, work)), progress)

    async def _enter(self, version: ModelVersion, aliases: Sequence[str], *, named: bool) -> ModelVersion:
        return await self._change(self._store.add(version, aliases, named=named))

    async def _change(self, change: Coroutine[Any, Any, _Result]) -> _Result:
        """Make a change and show it to the look-ups; one that began is carried through even when cancelled."""

        async def both() -> _Result:
            result = await change
            await self.reload()
            return result

        return await to_the_end(both())

    def _already(self, name: str, version: str, origin: Source) -> ModelVersion | None:
        """The version that `origin` gave before, when it cannot give another and its files are all there."""
        if not origin.pinned:
            return None
        same = (one for one in self._index.versions if (one.name, one.source) == (name, origin.text))
        return next((one for one in same if version in ("", one.version) and _is_there(one)), None)

    def _read(self, fetched: Fetched, work: Work) -> tuple[Facts, tuple[ModelFile, ...]]:
        facts = describe(fetched.directory)  # first: it is quick, and says what is wrong before hours of hashing
        cache = HashCache(self._cache_dir / "hashes.json", self._clock)
        files = hash_files(fetched.directory, work, cache)
        cache.save()
        if fetched.expected and fetched.expected != {file.path: file.sha256 for file in files}:
            raise SourceUnavailable(
                f"{fetched.directory} is not what was fetched: a file was changed, lost or added; "
                f"delete {fetched.directory.parent} and add the model again"
            )
        return facts, files

    def _read_adapter(
        self, fetched: Fetched, parent: ModelVersion, work: Work
    ) -> tuple[AdapterFacts, tuple[ModelFile, ...]]:
        facts = describe_adapter(fetched.directory, parent)
        return facts, hash_files(fetched.directory, work)

    def _adapter(
        self,
        name: str,
        version: str,
        fetched: Fetched,
        parent: ModelVersion,
        facts: AdapterFacts,
        files: tuple[ModelFile, ...],
    ) -> ModelVersion:
        digest = digest_of(files)
        return ModelVersion(
            name=name,
            version=version or digest[:_VERSION_DIGITS],
            digest=digest,
            source=fetched.source,
            directory=str(fetched.directory),
            task=parent.task,
            context_length=parent.context_length,
            files=files,
            architecture=parent.architecture,
            parameters=facts.parameters,
            active_parameters=(parent.active_parameters or parent.parameters) + facts.parameters,
            licence=facts.licence or fetched.licence,
            chat_template_sha256=parent.chat_template_sha256,
            tokenizer_sha256=parent.tokenizer_sha256,
            created=self._clock.now(),
            parent=parent.public_name,
        )

    def _version(
        self, name: str, version: str, fetched: Fetched, facts: Facts, files: tuple[ModelFile, ...]
    ) -> ModelVersion:
        digest = digest_of(files)
        return ModelVersion(
            name=name,
            version=version or digest[:_VERSION_DIGITS],
            digest=digest,
            source=fetched.source,
            directory=str(fetched.directory),
            task=facts.task,
            context_length=facts.context_length,
            files=files,
            architecture=facts.architecture,
            parameters=facts.parameters,
            active_parameters=facts.active_parameters,
            licence=(facts.licence or fetched.licence)[:100],
            chat_template_sha256=facts.chat_template_sha256,
            tokenizer_sha256=facts.tokenizer_sha256 or tokenizer_sha256(files),
            created=self._clock.now(),
        )


def _silent(message: str, fraction: float | None) -> None:
    """Progress that nobody asked for."""


def _check_names(name: str, version: str = "", aliases: Sequence[str] = ()) -> None:
    for text in (name, *aliases):
        if ModelName.parse(text).version or ":" in text:
            raise BadRequest(f"{text!r} has a version in it, or an adapter; the name alone is wanted", param="model")
    _check_version(name, version)


def _check_version(name: str, version: str) -> None:
    """Raise `BadRequest` unless `name@version`, or `name` where there is no version, can name a model."""
    found = ModelName.parse(f"{name}@{version}" if version else name)
    if found.version != version:
        raise BadRequest(f"{name[:80]!r} has a version in it; here the name alone is wanted", param="model")


def _check_remote(source: str) -> None:
    kind, _, rest = source.partition(":")
    url = urlsplit(rest)
    if kind != "echo" and (
        kind != "remote" or url.scheme not in ("http", "https", "unix") or not url.netloc + url.path
    ):
        raise BadRequest(f"{source[:200]!r} is not a remote source; write remote:https://host/prefix", param="source")
    if url.username or url.password:
        raise BadRequest(
            "the URL has a user name or password in it, which every listing would show; name the variable that holds "
            "the key with `api_key_env` of the deployment",
            param="source",
        )


def _is_there(version: ModelVersion) -> bool:
    """True when all files have their sizes; what is in them is not read."""
    try:
        return all((Path(version.directory) / file.path).stat().st_size == file.size for file in version.files)
    except OSError:
        return False


def _differences(version: ModelVersion, work: Work) -> Iterator[str]:
    directory = Path(version.directory)
    there = hash_files(directory, work) if directory.is_dir() else ()
    before = {file.path: file.sha256 for file in version.files}
    now = {file.path: file.sha256 for file in there}
    for path in sorted(before.keys() | now.keys()):
        if path not in now:
            yield f"{path}: missing"
        elif path not in before:
            yield f"{path}: not in the catalogue"
        elif before[path] != now[path]:
            yield f"{path}: changed"
