"""Which version a name means: a picture of the catalogue, made anew at every change and never changed itself."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from terascope.core.errors import ModelNotFound
from terascope.core.models import Alias, LifeCycle, ModelName, ModelVersion

_LISTED = "GET /v1/models lists the models"


class Index:
    """Every name a request may use, worked out beforehand: a request costs one look-up."""

    def __init__(self, versions: Iterable[ModelVersion] = (), aliases: Iterable[Alias] = ()) -> None:
        ordered = sorted(versions, key=lambda version: (version.name, version.created, version.version))
        own = {version.public_name: version for version in ordered}
        self.versions = tuple(_priced(version, own) for version in ordered)
        self.aliases = tuple(sorted(aliases, key=lambda alias: alias.alias))
        self._exact = {(version.name, version.version): version for version in self.versions}
        self._by_name = _grouped(self.versions)
        self._usable = [version for version in self.versions if self._may_answer(version)]
        self._answers = {version.public_name: version for version in self._usable}
        self._answers |= {name: newest for name, all_ in _grouped(self._usable).items() if (newest := _newest(all_))}
        self._answers |= self._pointed_to(self.aliases)

    def resolve(self, text: str) -> ModelVersion:
        """Return the version that `text` means. Raises `ModelNotFound`, and `BadRequest` when it is no name."""
        if version := self._answers.get(text):
            return version
        name = ModelName.parse(text)
        if found := self._adapter_of(text):
            return found
        raise self._unknown(name)

    def get(self, name: str, version: str) -> ModelVersion:
        """Return `name@version`, retired ones too. Raises `ModelNotFound`."""
        if found := self._exact.get((name, version)):
            return found
        raise self._unknown(ModelName.parse(f"{name}@{version}"))

    def named(self, name: str) -> tuple[ModelVersion, ...]:
        """Return all versions of `name`, oldest first. Raises `ModelNotFound`."""
        if found := self._by_name.get(name):
            return tuple(found)
        raise self._unknown(ModelName.parse(name))

    def base_of(self, version: ModelVersion) -> ModelVersion:
        """Return the version that an adapter adds to, and every other version itself. Raises `ModelNotFound`."""
        return self.get(*_split(version.parent)) if version.parent else version

    def aliases_of(self, version: ModelVersion) -> tuple[str, ...]:
        """Return the aliases that mean `version` now, by name; also those of a retired version."""
        return tuple(alias.alias for alias in self.aliases if self._target(alias) == version)

    def _may_answer(self, version: ModelVersion) -> bool:
        """Whether requests may use it; an adapter is retired with its base."""
        return _usable(version) and all(_usable(one) for one in [self._exact.get(_split(version.parent))] if one)

    def _adapter_of(self, text: str) -> ModelVersion | None:
        """The adapter in a name that says which version of its base is meant, or that has an alias for it."""
        base_text, colon, adapter = text.partition(":")
        base = self._answers.get(base_text)
        if not colon or base is None:
            return None
        own, _, version = adapter.partition("@")
        named = [one for one in self._usable if one.name == f"{base.name}:{own}" and one.parent == base.public_name]
        return _newest([one for one in named if version in ("", one.version)])

    def _pointed_to(self, aliases: Iterable[Alias]) -> dict[str, ModelVersion]:
        targets = {alias.alias: self._target(alias) for alias in aliases}
        return {alias: target for alias, target in targets.items() if target and _usable(target)}

    def _target(self, alias: Alias) -> ModelVersion | None:
        if alias.version:
            return self._exact.get((alias.name, alias.version))
        return _newest(self._by_name.get(alias.name, ()))

    def _unknown(self, name: ModelName) -> ModelNotFound:
        return ModelNotFound(f"{self._reason(name)}; {_LISTED}", param="model")

    def _reason(self, name: ModelName) -> str:
        if name.base_version and name.name in self._by_name:
            return f"{name.name!r} was made for another version of the model than {name.base_version!r}"
        if (name.name, name.version) in self._exact or (not name.version and name.name in self._by_name):
            return f"the model '{name}' is retired"
        if pointer := next((one for one in self.aliases if not name.version and one.alias == name.name), None):
            return f"the model that the alias {pointer.alias!r} points to is retired"
        if versions := self._by_name.get(name.name):
            there = ", ".join(version.version for version in versions[-5:])
            return f"the model {name.name!r} has no version {name.version!r}; it has {there}"
        near = self._nearest(name.name)
        return f"there is no model '{name}'" + (f"; did you mean {' or '.join(map(repr, near))}?" if near else "")

    def _nearest(self, name: str) -> Sequence[str]:
        known = {text.lower(): text for text in self._answers if "@" not in text}
        return [known[text] for text in difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)]


def _grouped(versions: Iterable[ModelVersion]) -> Mapping[str, Sequence[ModelVersion]]:
    groups: dict[str, list[ModelVersion]] = {}
    for version in versions:
        groups.setdefault(version.name, []).append(version)
    return groups


def _split(public_name: str) -> tuple[str, str]:
    name, _, version = public_name.partition("@")
    return name, version


def _priced(version: ModelVersion, own: Mapping[str, ModelVersion]) -> ModelVersion:
    """An adapter costs what its base costs, unless an operator says otherwise."""
    base = own.get(version.parent)
    return version if base is None or version.own_price else replace(version, own_price=base.own_price)


def _usable(version: ModelVersion) -> bool:
    return version.life_cycle is not LifeCycle.RETIRED


def _newest(versions: Sequence[ModelVersion]) -> ModelVersion | None:
    """The version added last; a preview only where there is nothing else, a retired one never."""
    usable = [version for version in versions if _usable(version)]
    return max(
        usable, key=lambda one: (one.life_cycle is not LifeCycle.PREVIEW, one.created, one.version), default=None
    )
