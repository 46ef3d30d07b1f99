"""When a step that is being computed is given up, because somebody who has come must not wait for its end."""

_SHARE = 0.05  # of the time computed that may be thrown away
_MOST_S = 1.0  # computing time, in seconds, whose loss may be saved up
_LATE = 0.75  # part of a step after which it is rather finished


class Interrupted(Exception):
    """A step was given up. What it wrote to the cache is written again when its rows are computed again."""


class Interruptions:
    """How much computing may still be thrown away: a twentieth of what was done, so that everything gets on."""

    def __init__(self) -> None:
        self.count = 0
        self.lost_s = 0.0
        self._left_s = _MOST_S

    @property
    def allowed(self) -> bool:
        """True when a step may be given up."""
        return self._left_s > 0

    def computed(self, seconds: float) -> None:
        """Note a step that was computed to its end."""
        self._left_s = min(_MOST_S, self._left_s + _SHARE * seconds)

    def lost(self, seconds: float) -> None:
        """Note a step that was given up after `seconds`."""
        self.count += 1
        self.lost_s += seconds
        self._left_s -= seconds


def worthwhile(done: float) -> bool:
    """Whether it is worth giving up a step of which the part `done`, 0 to 1, is computed."""
    return done < _LATE
