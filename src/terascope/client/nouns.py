"""What can be asked of a gateway, besides the models themselves."""

from collections.abc import Sequence
from urllib.parse import quote

from pydantic import BaseModel

from terascope.client.ask import Ask, Noun, Sender, call
from terascope.protocol.admin import (
    AddAdapter,
    AddModel,
    CreateKey,
    KeyView,
    KeyViews,
    ModelCard,
    ModelCards,
    ModelView,
    ModelViews,
    NewKey,
    Ready,
    RunView,
    RunViews,
    SetAlias,
)
from terascope.protocol.status import Status


class Health(BaseModel):
    """`GET /health`."""

    status: str


class Gateway(Noun[Sender]):
    """The gateway itself; `health` and `ready` need no key."""

    @call
    def health(self) -> Ask[Health]:
        """Ask whether the gateway's process answers."""
        return Ask("GET", "/health", Health)

    @call
    def ready(self) -> Ask[Ready]:
        """Ask for the state of every deployment; a gateway that is still starting is no error."""
        return Ask("GET", "/ready", Ready, also=frozenset({503}))

    @call
    def status(self) -> Ask[Status]:
        """Ask what runs and how much it has to do; an operator's key is needed."""
        return Ask("GET", "/admin/v1/status", Status)


class Models(Noun[Sender]):
    """The models that are served."""

    @call
    def get(self, name: str) -> Ask[ModelCard]:
        """Return one model, by name, `name@version` or alias."""
        return Ask("GET", _path("/v1/models", name), ModelCard)

    @call
    def list(self) -> Ask[ModelCards]:
        """Return every model and alias that is served, whether it answers already or not."""
        return Ask("GET", "/v1/models", ModelCards)


class Catalog(Noun[Sender]):
    """The model versions of the catalogue; needs an operator's key."""

    @call
    def add(self, name: str, source: str, *, version: str = "", aliases: Sequence[str] = ()) -> Ask[ModelView]:
        """Fetch a model and pin it as `name@version`; returns once it is whole, which may take minutes."""
        body = AddModel(name=name, source=source, version=version, aliases=[*aliases])
        return Ask("POST", _CATALOG, ModelView, body, patient=True)

    @call
    def get(self, name: str) -> Ask[ModelView]:
        """Return one version, by name, `name@version` or alias."""
        return Ask("GET", _path(_CATALOG, name), ModelView)

    @call
    def alias(self, alias: str, target: str) -> Ask[ModelView]:
        """Point an alias to a model or to one version of it; returns that version."""
        return Ask("PUT", _path(f"{_CATALOG}/aliases", alias), ModelView, SetAlias(target=target))

    @call
    def unalias(self, alias: str) -> Ask[None]:
        """Remove an alias; the model stays."""
        return Ask("DELETE", _path(f"{_CATALOG}/aliases", alias), _NOTHING)

    @call
    def remove(self, name: str) -> Ask[None]:
        """Remove one version, given as `name@version`; its files stay."""
        return Ask("DELETE", _path(_CATALOG, name), _NOTHING)

    @call
    def list(self) -> Ask[ModelViews]:
        """Return every version of every model."""
        return Ask("GET", _CATALOG, ModelViews)


class Adapters(Noun[Sender]):
    """The adapters of the catalogue; needs an operator's key."""

    @call
    def add(
        self, name: str, base: str, source: str, *, version: str = "", project: str = "", licence: str = ""
    ) -> Ask[ModelView]:
        """Read the adapter in `source` and pin it as `base:name@version`; with a `project` it is that project's own."""
        body = AddAdapter(name=name, base=base, source=source, version=version, project=project, licence=licence)
        return Ask("POST", _ADAPTERS, ModelView, body, patient=True)

    @call
    def get(self, name: str) -> Ask[ModelView]:
        """Return one version, by `base:adapter` or `base:adapter@version`."""
        return Ask("GET", _path(_ADAPTERS, name), ModelView)

    @call
    def remove(self, name: str) -> Ask[None]:
        """Remove one version, given as `base:adapter@version`; its files stay."""
        return Ask("DELETE", _path(_ADAPTERS, name), _NOTHING)

    @call
    def list(self) -> Ask[ModelViews]:
        """Return every version of every adapter."""
        return Ask("GET", _ADAPTERS, ModelViews)


class Keys(Noun[Sender]):
    """The API keys: all of them for an operator, for a PI those of her project."""

    @call
    def create(
        self, name: str, scopes: Sequence[str] = (), *, expires: float | None = None, user: str = "", project: str = ""
    ) -> Ask[NewKey]:
        """Make a key; this answer is the only place where it is ever shown. `expires`: seconds since the epoch.

        `user` is whose it is, by default `name`; `project` pays unless a request names another, by default `local`.
        """
        body = CreateKey(name=name, expires=expires, user=user, project=project)
        return Ask("POST", _KEYS, NewKey, body.model_copy(update={"scopes": [*scopes]}) if scopes else body)

    @call
    def revoke(self, key_id: str) -> Ask[KeyView]:
        """Make a key void at once; idempotent."""
        return Ask("DELETE", _path(_KEYS, key_id), KeyView)

    @call
    def list(self, *, project: str = "") -> Ask[KeyViews]:
        """Return every key, or those of one project, without the keys."""
        return Ask("GET", _KEYS, KeyViews, query={"project": project} if project else {})


class Runs(Noun[Sender]):
    """The run records: everybody's for an operator, else one's own."""

    @call
    def get(self, run_id: str) -> Ask[RunView]:
        """Return one record, by the request id of its answer."""
        return Ask("GET", _path(_RUNS, run_id), RunView)

    @call
    def list(self, *, limit: int = 50, key: str = "", model: str = "", before: str = "") -> Ask[RunViews]:
        """Return up to `limit` records, newest first: of one key, of one `name@version`, older than one run."""
        asked: dict[str, str | int] = {"limit": limit, "key": key, "model": model, "before": before}
        return Ask("GET", _RUNS, RunViews, query={name: value for name, value in asked.items() if value != ""})


_CATALOG = "/admin/v1/models"
_ADAPTERS = "/admin/v1/adapters"
_KEYS = "/admin/v1/keys"
_RUNS = "/admin/v1/runs"
_NOTHING = type(None)


def _path(prefix: str, name: str) -> str:
    return f"{prefix}/{quote(name, safe='/@:')}"
