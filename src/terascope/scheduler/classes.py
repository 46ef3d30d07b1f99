"""Which class of service goes next: the most urgent that waits, but none gets less than its floor."""

from collections.abc import Collection, Mapping

from terascope.core.projects import Qos

_RANKS = {qos: rank for rank, qos in enumerate(Qos)}


class Classes:
    """Keeps account of what classes are owed.

    Of all service that is given while a class waits it is owed its floor, a part of all service. A class that is owed
    something goes before more urgent ones, and pays with what it gets then.
    """

    def __init__(self, floors: Mapping[Qos, float]) -> None:
        """`floors` sum up to less than 1; a class that is not named has none."""
        self._floors = floors
        self.owed: dict[Qos, float] = {}
        """What each class is owed, in the unit of costs; nothing is said of those that are owed nothing."""

    def order(self, waiting: Collection[Qos]) -> list[Qos]:
        """The classes of `waiting`: first those that are owed something, who is owed most first; then by rank."""
        return sorted(waiting, key=lambda qos: (-max(0.0, self.owed.get(qos, 0.0)), _RANKS[qos]))

    def served_alone(self, qos: Qos, cost: float) -> None:
        """As `served` where `qos` is the only class that waits."""
        owed = self.owed.get(qos, 0.0)
        if owed:
            owed += self._floors.get(qos, 0.0) * cost
            self.owed = {qos: max(min(0.0, owed), owed - cost)}
        elif self.owed:
            self.owed = {}

    def served(self, qos: Qos, cost: float, waiting: Collection[Qos]) -> None:
        """A request of `qos` is served; `waiting` are the classes that waited when it was chosen, `qos` among them.

        Who stops waiting is owed nothing any more.
        """
        self.owed = {one: self.owed.get(one, 0.0) + self._floors.get(one, 0.0) * cost for one in waiting}
        left = self.owed[qos] - cost
        by_rank = all(_RANKS[qos] <= _RANKS[one] for one in waiting)
        self.owed[qos] = max(left, min(0.0, self.owed[qos])) if by_rank else left  # by rank it would have been anyway
