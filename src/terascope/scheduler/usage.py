"""What projects have used, with a half-life, and what weight that leaves them.

The weight of a project is its shares times the fair-share factor of Slurm's classic algorithm, 2^(-U/S), where U is its
part of all use and S its part of all shares (https://slurm.schedmd.com/classic_fair_share.html): 1 for a project that
has used nothing, 1/2 for one that has used just what it is entitled to, and never less than `LEAST`, so that nobody
starves. As in Slurm the factors are computed at intervals: between them weights are constant.
"""

import math

LEAST = 1 / 8
REFRESH_S = 60.0


class Usage:
    """The decayed usage of all projects, in micro service units. Times are in seconds, of any one clock."""

    def __init__(self, half_life_s: float, now: float) -> None:
        """`half_life_s` may be infinite: then everything counts for ever."""
        self._half_life_s = half_life_s
        self._at = now
        self._used: dict[str, float] = {}
        self._shares: dict[str, float] = {}
        self._weights: dict[str, float] = {}
        self._refreshed = now

    def add(self, project: str, cost: float, now: float) -> None:
        """`project` has used `cost`; when what is given back is more than it used, it has used nothing."""
        self._decay(now)
        self._used[project] = max(0.0, self._used.get(project, 0.0) + cost)

    def set_shares(self, project: str, shares: float) -> None:
        """Say how many shares a project has, above 0; one that was not told of has one."""
        if self._shares.get(project) != shares:
            self._shares[project] = shares
            self._weights.pop(project, None)

    def used(self, project: str, now: float) -> float:
        """What counts today of all that `project` has used."""
        self._decay(now)
        return self._used.get(project, 0.0)

    def weight(self, project: str, now: float) -> float:
        """The shares of `project`, less for one that has used more than its part; above 0."""
        if now - self._refreshed >= REFRESH_S:
            self._weights, self._refreshed = {}, now
        found = self._weights.get(project)
        if found is None:
            found = self._weights[project] = self._shares.get(project, 1.0) * self._factor(project, now)
        return found

    def _factor(self, project: str, now: float) -> float:
        used = self.used(project, now)
        if used <= 0:
            return 1.0
        all_shares = sum(self._shares.get(name, 1.0) for name in self._used)
        over = (used / sum(self._used.values())) / (self._shares.get(project, 1.0) / all_shares)
        return max(LEAST, math.exp2(-over))

    def _decay(self, now: float) -> None:
        """Let what was used fade, once a second at most: finer steps would cost more than they tell."""
        if now - self._at < 1.0:
            return
        left = 0.5 ** ((now - self._at) / self._half_life_s)
        self._used = {name: used * left for name, used in self._used.items() if used * left >= 1.0}
        self._at = now
