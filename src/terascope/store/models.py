"""Repository of `models` and `aliases`.

The rules that keep the two tables in step are part of the changes themselves, so they hold whatever other
processes write to the same database.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from terascope.core.errors import Conflict, ModelNotFound, NotFound
from terascope.core.models import Alias, LifeCycle, ModelFile, ModelVersion, Task
from terascope.core.prices import Price
from terascope.store.audit import audited
from terascope.store.changes import one_by_one
from terascope.store.database import Database
from terascope.store.tables import aliases, models

_FIELDS = tuple(one.name for one in fields(ModelVersion))


@dataclass(frozen=True, slots=True)
class _Addition:
    version: ModelVersion
    aliases: tuple[str, ...]
    named: bool  # the operator chose the version's name


class ModelStore:
    """Reads and writes `models` and `aliases`. Every change is durable on return, and whole or not at all."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> tuple[list[ModelVersion], list[Alias]]:
        """Return every version, oldest first, and every alias, as one state of the database."""
        async with self._database.read() as connection, connection.begin():
            versions = await connection.execute(select(models).order_by(models.c.created, models.c.version))
            names = await connection.execute(select(aliases).order_by(aliases.c.alias))
            return [_version(row) for row in versions.mappings()], [_alias(row) for row in names.mappings()]

    async def add(self, version: ModelVersion, names: Sequence[str] = (), *, named: bool = True) -> ModelVersion:
        """Store `version` and its aliases; return what is stored.

        A version that is there already with the same digest stays, and only what was read from its files and
        where they are is brought up to date; unless `named`, that also holds for one that has the digest under
        another version name. Raises `Conflict` when `name@version` has another digest, when its name is an
        alias of another model, or when one of `names` is taken.
        """
        addition = _Addition(version, tuple(names), named)
        try:
            stored: ModelVersion = await self._database.writer.submit(_add, addition)
        except IntegrityError:  # another process added it between our look and our insert: now it is seen
            stored = await self._database.writer.submit(_add, addition)
        return stored

    async def remove(self, name: str, version: str) -> None:
        """Forget a version. Raises `ModelNotFound`, or `Conflict` while an alias needs it."""
        await self._database.writer.submit(_remove, (name, version))

    async def set_life_cycle(self, name: str, version: str, life_cycle: LifeCycle) -> None:
        """Move a version to another stage. Raises `ModelNotFound`."""
        await self._database.writer.submit(_set_life_cycle, (name, version, life_cycle))

    async def set_price(self, name: str, version: str, price: Price | None) -> None:
        """Set what a version costs, or let the formula say it (None). Raises `ModelNotFound`."""
        await audited(
            self._database, _set_price, (name, version, price), "price.set", f"{name}@{version}",
            prompt=price and price.prompt, output=price and price.output,
        )  # fmt: skip

    async def put_alias(self, alias: Alias) -> None:
        """Make the alias, or move it. Raises `ModelNotFound` without its target, `Conflict` when it names a model."""
        await self._database.writer.submit(_put_alias, alias)

    async def remove_alias(self, alias: str) -> None:
        """Forget an alias. Raises `NotFound`."""
        await self._database.writer.submit(_remove_alias, alias)


@one_by_one
def _add(connection: Connection, addition: _Addition) -> ModelVersion:
    new = addition.version
    stored = _known(connection, addition)
    _check_name(connection, new.name)
    if stored is None:
        connection.execute(insert(models).values(_values(new)))
        stored = new
    elif stored.digest != new.digest:
        raise Conflict(
            f"{new.public_name} is there already with other files (digest {stored.digest[:12]}, these have "
            f"{new.digest[:12]}); a version never changes, so give these another version name"
        )
    elif (stored.parent, stored.owner) != (new.parent, new.owner):
        raise Conflict(
            f"{stored.public_name} has these files already, for {stored.parent} and "
            f"{stored.owner or 'every project'}; give it another version name"
        )
    else:
        stored = _refresh(connection, stored, new)
    for name in addition.aliases:
        _claim(connection, Alias(name, new.name, moved=new.created))
    return stored


def _known(connection: Connection, addition: _Addition) -> ModelVersion | None:
    new = addition.version
    stored = _find(connection, new.name, new.version)
    if stored is None and not addition.named:
        query = select(models).where(models.c.name == new.name, models.c.digest == new.digest)
        row = connection.execute(query.order_by(models.c.created)).mappings().first()
        stored = _version(row) if row else None
    return stored


_REFRESHED = (
    "source",
    "directory",
    "task",
    "context_length",
    "files",
    "architecture",
    "parameters",
    "licence",
    "chat_template_sha256",
    "tokenizer_sha256",
    "active_parameters",
)


def _refresh(connection: Connection, stored: ModelVersion, new: ModelVersion) -> ModelVersion:
    values = _values(new)
    connection.execute(
        update(models).where(_is(stored.name, stored.version)).values({name: values[name] for name in _REFRESHED})
    )
    found = _find(connection, stored.name, stored.version)
    assert found is not None  # noqa: S101 - updated in this transaction
    return found


def _check_name(connection: Connection, name: str) -> None:
    row = connection.execute(select(aliases).where(aliases.c.alias == name, aliases.c.name != name)).mappings().first()
    if row:
        raise Conflict(f"{name!r} is an alias of {row['name']!r}; remove the alias first, or choose another name")


def _claim(connection: Connection, alias: Alias) -> None:
    """Make an alias that comes with a model; one that already names this model stays where it was moved to."""
    row = connection.execute(select(aliases).where(aliases.c.alias == alias.alias)).mappings().first()
    if row and row["name"] != alias.name:
        raise Conflict(f"the alias {alias.alias!r} points to {row['name']!r}; move it with `terascope models alias`")
    if not row:
        _write_alias(connection, alias)


@one_by_one
def _put_alias(connection: Connection, alias: Alias) -> None:
    if not _has(connection, alias.name, alias.version):
        target = f"{alias.name}@{alias.version}" if alias.version else alias.name
        raise ModelNotFound(f"there is no model {target!r} for the alias {alias.alias!r} to point to", param="model")
    connection.execute(delete(aliases).where(aliases.c.alias == alias.alias))
    _write_alias(connection, alias)


def _write_alias(connection: Connection, alias: Alias) -> None:
    if alias.alias != alias.name and _has(connection, alias.alias, ""):
        raise Conflict(f"{alias.alias!r} is the name of a model; an alias of that name may only pin its version")
    connection.execute(
        insert(aliases).values(alias=alias.alias, name=alias.name, version=alias.version, moved=alias.moved)
    )


@one_by_one
def _remove_alias(connection: Connection, alias: str) -> None:
    if not connection.execute(delete(aliases).where(aliases.c.alias == alias)).rowcount:
        raise NotFound(f"there is no alias {alias!r}; `terascope models list` shows them")


@one_by_one
def _remove(connection: Connection, which: tuple[str, str]) -> None:
    name, version = which
    if not connection.execute(delete(models).where(_is(name, version))).rowcount:
        raise _not_there(name, version)
    gone = (version,) if _has(connection, name, "") else (version, "")
    query = select(aliases.c.alias).where(aliases.c.name == name, aliases.c.version.in_(gone))
    if holders := connection.execute(query.order_by(aliases.c.alias)).scalars().all():
        raise Conflict(f"{name}@{version} is what {_listed(holders)} points to; move or remove the alias first")
    children = select(models.c.name).where(models.c.parent == f"{name}@{version}").distinct()
    if found := connection.execute(children.order_by(models.c.name)).scalars().all():
        raise Conflict(f"{name}@{version} is what the adapters {', '.join(found[:5])} add to; remove them first")


@one_by_one
def _set_life_cycle(connection: Connection, change: tuple[str, str, LifeCycle]) -> None:
    name, version, life_cycle = change
    statement = update(models).where(_is(name, version)).values(life_cycle=life_cycle.value)
    if not connection.execute(statement).rowcount:
        raise _not_there(name, version)


@one_by_one
def _set_price(connection: Connection, change: tuple[str, str, Price | None]) -> None:
    name, version, price = change
    values = {"price_prompt": price and price.prompt, "price_output": price and price.output}
    if not connection.execute(update(models).where(_is(name, version)).values(values)).rowcount:
        raise _not_there(name, version)


def _is(name: str, version: str) -> Any:
    return (models.c.name == name) & (models.c.version == version)


def _find(connection: Connection, name: str, version: str) -> ModelVersion | None:
    row = connection.execute(select(models).where(_is(name, version))).mappings().first()
    return _version(row) if row else None


def _has(connection: Connection, name: str, version: str) -> bool:
    condition = _is(name, version) if version else models.c.name == name
    return connection.execute(select(models.c.name).where(condition).limit(1)).first() is not None


def _not_there(name: str, version: str) -> ModelNotFound:
    return ModelNotFound(f"there is no model '{name}@{version}'; `terascope models list` shows them", param="model")


def _listed(names: Sequence[str]) -> str:
    return ("the alias " if len(names) == 1 else "each of the aliases ") + ", ".join(repr(name) for name in names)


def _values(version: ModelVersion) -> dict[str, Any]:
    files = [[file.path, file.size, file.sha256] for file in version.files]
    price = version.own_price
    return {name: getattr(version, name) for name in _FIELDS if name != "own_price"} | {
        "files": files,
        "price_prompt": price and price.prompt,
        "price_output": price and price.output,
        "task": version.task.value,
        "life_cycle": version.life_cycle.value,
    }


def _version(row: RowMapping) -> ModelVersion:
    files = tuple(ModelFile(*file) for file in row["files"])
    kept = {**row, "files": files, "task": Task(row["task"]), "life_cycle": LifeCycle(row["life_cycle"])}
    prompt, output = kept.pop("price_prompt"), kept.pop("price_output")
    return ModelVersion(**kept, own_price=None if prompt is None or output is None else Price(prompt, output))


def _alias(row: RowMapping) -> Alias:
    return Alias(**row)
