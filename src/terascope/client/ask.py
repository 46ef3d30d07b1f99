"""One request, said once for both clients: a method builds an `Ask`, and its client decides how to send it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from pydantic import BaseModel

from terascope.client.flow import AsyncFlow, Flow, Item, Reader

P = ParamSpec("P")
T = TypeVar("T")
Sender = TypeVar("Sender", bound="Sends | SendsLater")


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of this machine that goes with a request as a form, read while it is sent."""

    path: Path
    filename: str
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Ask(Generic[T]):
    """A request and the model its answer is read with; None for an answer without a body.

    `patient` is for work that takes as long as it takes. `also` are statuses besides 2xx that carry the answer.
    """

    method: str
    path: str
    answer: type[T]
    body: BaseModel | None = None
    query: Mapping[str, str | int] = field(default_factory=dict)
    patient: bool = False
    also: frozenset[int] = frozenset()
    upload: Upload | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Sends(Protocol):
    """A client that blocks."""

    def flow(self, ask: Ask[Any], reader: Reader[Item]) -> Flow[Item]:
        """Return what `reader` makes of the answer to `ask`, as it comes."""
        ...

    def send(self, ask: Ask[T]) -> T:
        """Send `ask` and return its answer. Raises the `ServiceError` that the gateway gave."""
        ...


class SendsLater(Protocol):
    """A client that is awaited."""

    def flow(self, ask: Ask[Any], reader: Reader[Item]) -> AsyncFlow[Item]:
        """Return what `reader` makes of the answer to `ask`, as it comes."""
        ...

    async def send(self, ask: Ask[T]) -> T:
        """Send `ask` and return its answer. Raises the `ServiceError` that the gateway gave."""
        ...


class Noun(Generic[Sender]):
    """A group of calls of one client."""

    def __init__(self, client: Sender) -> None:
        self._client = client

    def _send(self, ask: Ask[Any]) -> Any:
        return self._client.send(ask)


class call(Generic[P, T]):  # noqa: N801 - a decorator
    """Makes a method that builds an `Ask` into one that sends it: at once, or to be awaited."""

    def __init__(self, build: Callable[Concatenate[Any, P], Ask[T]]) -> None:
        self._build = build
        self.__doc__ = build.__doc__

    @overload
    def __get__(self, noun: None, owner: type) -> Callable[Concatenate[Any, P], Ask[T]]: ...
    @overload
    def __get__(self, noun: Noun[Sends], owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, noun: Noun[SendsLater], owner: type) -> Callable[P, Awaitable[T]]: ...
    def __get__(self, noun: Noun[Any] | None, owner: type) -> Callable[..., Any]:
        if noun is None:
            return self._build

        @wraps(self._build)
        def send(*arguments: P.args, **named: P.kwargs) -> Any:
            return noun._send(self._build(noun, *arguments, **named))  # noqa: SLF001 - the other half of `Noun`

        return send
