"""What can be asked about deployments."""

from codecs import getincrementaldecoder
from collections.abc import Iterator
from typing import Any, overload
from urllib.parse import quote

from terascope.client.ask import Ask, Noun, Sender, Sends, SendsLater, call
from terascope.client.flow import About, AsyncFlow, Flow
from terascope.protocol.deployments import (
    ChangeDeployment,
    CreateDeployment,
    DeploymentDetails,
    DeploymentEvents,
    DeploymentLog,
    DeploymentPreview,
    DeploymentPut,
    DeploymentSettings,
    DeploymentView,
    DeploymentViews,
)


class Deployments(Noun[Sender]):
    """Which models are served, by which engine, where, and how often; an operator's key is needed."""

    @call
    def list(self) -> Ask[DeploymentViews]:
        """Return every deployment, those of the gateway's configuration first."""
        return Ask("GET", _DEPLOYMENTS, DeploymentViews)

    @call
    def show(self, name: str) -> Ask[DeploymentDetails]:
        """Return a deployment with its replicas. Raises `NotFound`."""
        return Ask("GET", _path(name), DeploymentDetails)

    @call
    def create(self, name: str, settings: DeploymentSettings) -> Ask[DeploymentView]:
        """Serve a model; return once it is stored, not when it is ready. Raises `Conflict` when the name is taken."""
        return Ask("POST", _DEPLOYMENTS, DeploymentView, _named(name, settings))

    @call
    def preview(self, name: str, settings: DeploymentSettings) -> Ask[DeploymentPreview]:
        """Return what `create` would start for one replica."""
        return Ask("POST", _PREVIEW, DeploymentPreview, _named(name, settings))

    @call
    def put(self, name: str, settings: DeploymentSettings) -> Ask[DeploymentPut]:
        """Make a deployment what `settings` say, or a new one. Idempotent."""
        return Ask("PUT", _path(name), DeploymentPut, settings)

    @call
    def scale(
        self, name: str, replicas: int | None = None, *, least: int | None = None, most: int | None = None
    ) -> Ask[DeploymentView]:
        """Keep so many replicas, or from `least` to `most` by the load; without any number it is stopped.

        Raises `NotFound`, and `Conflict` for a deployment of the gateway's configuration.
        """
        change = ChangeDeployment(replicas=replicas, min=least, max=most)
        return Ask("PATCH", _path(name), DeploymentView, change)

    @call
    def stop(self, name: str) -> Ask[DeploymentView]:
        """Keep no replica until it is scaled again. Raises as `scale` does."""
        return Ask("PATCH", _path(name), DeploymentView, ChangeDeployment(replicas=None))

    @call
    def remove(self, name: str) -> Ask[None]:
        """Forget a deployment; its replicas finish what they are answering. Raises as `scale` does."""
        return Ask("DELETE", _path(name), type(None))

    @call
    def events(self, name: str, limit: int = 100) -> Ask[DeploymentEvents]:
        """Return what happened to a deployment and its replicas, newest first. Raises `NotFound`."""
        return Ask("GET", f"{_path(name)}/events", DeploymentEvents, query={"limit": str(limit)})

    @call
    def log(self, name: str, replica: str = "", lines: int = 200, rank: int = 0) -> Ask[DeploymentLog]:
        """Return the last lines that a replica's program has printed; of the newest when none is named.

        `rank` is the node's, where a replica has several. Raises `NotFound` for one that it does not have.
        """
        query = _of_log(replica, lines, rank)
        return Ask("GET", f"{_path(name)}/log", DeploymentLog, query=query)

    @overload
    def follow_log(
        self: "Deployments[Sends]", name: str, replica: str = "", lines: int = 200, rank: int = 0
    ) -> Flow[str]: ...
    @overload
    def follow_log(
        self: "Deployments[SendsLater]", name: str, replica: str = "", lines: int = 200, rank: int = 0
    ) -> AsyncFlow[str]: ...
    def follow_log(self: "Deployments[Any]", name: str, replica: str = "", lines: int = 200, rank: int = 0) -> Any:
        """Return pieces of what `log` returns, and then of what is added to it, until it is closed or the log ends.

        The request goes out when the first piece is asked for; what it raises is raised then.
        """
        query = _of_log(replica, lines, rank)
        ask = Ask("GET", f"{_path(name)}/log/follow", type(None), query=query, patient=True)
        return self._client.flow(ask, _Text())


def _of_log(replica: str, lines: int, rank: int) -> dict[str, str]:
    return {"lines": str(lines), "rank": str(rank)} | ({"replica": replica} if replica else {})


class _Text:
    """Reads an answer that is plain text."""

    about = About()

    def __init__(self) -> None:
        self._decoder = getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes) -> Iterator[str]:
        if text := self._decoder.decode(data):
            yield text

    def end(self) -> None:
        """Any end will do."""


_DEPLOYMENTS = "/admin/v1/deployments"
_PREVIEW = "/admin/v1/deployment-preview"


def _path(name: str) -> str:
    return f"{_DEPLOYMENTS}/{quote(name, safe='')}"


def _named(name: str, settings: DeploymentSettings) -> CreateDeployment:
    return CreateDeployment(name=name, **settings.model_dump())
