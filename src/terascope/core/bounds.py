"""Between which numbers of replicas a deployment is kept."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """From `least` to `most` replicas, by the load; equal ones are kept whatever the load.

    `hot` replicas stand by beside those that are busy. Fewer replicas are kept only when fewer would have been enough
    for all of the last `idle_s` seconds.
    """

    least: int = 1
    most: int = 1
    hot: int = 0
    idle_s: float = 600.0

    @classmethod
    def fixed(cls, replicas: int) -> "Bounds":
        """So many, whatever the load."""
        return cls(replicas, replicas)

    @property
    def elastic(self) -> bool:
        """Whether the number follows the load."""
        return self.least < self.most

    @property
    def rest(self) -> int:
        """How many are kept while nobody asks."""
        return min(self.most, max(self.least, self.hot))
