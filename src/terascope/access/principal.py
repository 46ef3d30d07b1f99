"""Who asks: the result of identification."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from terascope.access.scopes import OPERATOR
from terascope.core.errors import NotAllowed
from terascope.core.models import Mode
from terascope.core.prices import FREE, Price
from terascope.core.projects import LOCAL_PROJECT, Qos, Role


@dataclass(frozen=True, slots=True)
class Principal:
    """A verified caller: the key used, what it may do, whose it is, and which project pays by default.

    A caller with a token has a `key_id` of its user's own, the same for all tokens of that user.
    """

    key_id: str
    name: str
    scopes: frozenset[str]
    user_id: str = ""
    project: str = LOCAL_PROJECT
    roles: Mapping[str, Role] = field(default_factory=dict, hash=False)
    """Roles by project that the caller has by its groups, besides those of the user."""
    confined: bool = False
    """Whether `project` is the only one that the caller may use or see."""
    expires: float | None = None
    """When it ends (seconds since the epoch); None: never."""

    @property
    def operator(self) -> bool:
        """True when the caller may do everything."""
        return OPERATOR in self.scopes

    @property
    def is_key(self) -> bool:
        """Whether it came with an API key, and not with a token of an issuer."""
        return self.key_id.startswith("key_")

    @property
    def scope(self) -> str:
        """Within what the caller's requests share computed prefixes (`EngineCall.scope`); never empty."""
        return self.key_id

    def require(self, scope: str) -> None:
        """Raise `NotAllowed` unless the caller has `scope` or is an operator."""
        if scope not in self.scopes and not self.operator:
            raise NotAllowed(f"this key lacks the scope {str(scope)!r}; ask an operator for a key that has it")


@dataclass(frozen=True, slots=True)
class Grant:
    """The right to one request: who asks, in which mode, for which model version; who pays, how urgent it is."""

    principal: Principal
    mode: Mode
    model: str
    project: str = LOCAL_PROJECT
    qos: Qos = Qos.INTERACTIVE
    price: Price = FREE
    shares: int = 1
    unlimited: str = ""
    """The allocation without a limit that pays; empty where service units are held first."""
