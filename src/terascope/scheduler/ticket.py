"""A request that waits for its turn, or has had it."""

from collections.abc import Hashable
from dataclasses import dataclass

from terascope.core.projects import Qos


@dataclass(slots=True, eq=False)
class Ticket:
    """One request, as far as its turn depends on it. Costs are micro service units.

    `needs` is what a replica must be able to do; tickets of equal needs can run on the same replicas. `expected` is
    what the request will probably cost: it is charged when the turn comes, and set right by what it really costs.
    """

    project: str
    user: str
    qos: Qos
    expected: int = 0
    needs: Hashable = None
    charged: int = 0
    """What its project has been charged for it so far."""
    catches_up: bool = False
    """Whether its turn came because its project had used little lately."""
