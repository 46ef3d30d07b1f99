"""What projects have used, counting half after a half-life, over the shares they have.

Slurm's fair-share looks at the same number (PriorityDecayHalfLife, https://slurm.schedmd.com/priority_multifactor.html).
"""

from collections.abc import Callable

_STEP_S = 1.0  # what was used fades in steps: finer ones would cost more than they tell


class Usage:
    """The decayed usage of all projects, in micro service units."""

    def __init__(self, half_life_s: float, monotonic: Callable[[], float]) -> None:
        """`half_life_s` may be infinite: then everything counts for ever."""
        self._half_life_s = half_life_s
        self._monotonic = monotonic
        self._at = monotonic()
        self._used: dict[str, float] = {}
        self._shares: dict[str, int] = {}
        self.before_reading: list[Callable[[], None]] = []
        """Called before anything is read: to add what was put off."""

    def add(self, project: str, cost: float) -> None:
        """`project` has used `cost`; when more is given back than it used, it has used nothing."""
        if self._monotonic() - self._at >= _STEP_S:
            self._fade()
        used = self._used.get(project, 0.0) + cost
        if used > 0:
            self._used[project] = used
        else:
            self._used.pop(project, None)

    def set_shares(self, project: str, shares: int) -> None:
        """Say how many shares a project has, at least 1; one that was not told of has one."""
        self._shares[project] = shares

    def shares(self, project: str) -> int:
        """How many shares it has."""
        return self._shares.get(project, 1)

    def used(self, project: str) -> float:
        """What counts today of all that `project` has used."""
        self._complete()
        return self._used.get(project, 0.0)

    def per_share(self) -> Callable[[str], float]:
        """What every project used over its shares, as a function of its name that holds for now.

        Who has less is further behind its part.
        """
        self._complete()
        used, shares = self._used, self._shares
        return lambda project: used.get(project, 0.0) / shares.get(project, 1)

    def _complete(self) -> None:
        for tell in self.before_reading:
            tell()
        self._fade()

    def _fade(self) -> None:
        now = self._monotonic()
        if now - self._at >= _STEP_S:
            left = 0.5 ** ((now - self._at) / self._half_life_s)
            self._used = {name: used * left for name, used in self._used.items() if used * left >= 1.0}
            self._at = now
