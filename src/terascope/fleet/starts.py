"""How long replicas took to become ready, and how long the next will probably take."""

from collections import defaultdict, deque
from statistics import median

from terascope.core.clock import Clock
from terascope.fleet.deployed import Deployed
from terascope.store.starts import KEPT_STARTS, StartRow, StartStore

_Key = tuple[str, str, str]


class Starts:
    """The last starts of each deployment, in the store and here; a deployment's model or site changed begins anew."""

    def __init__(self, store: StartStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._past: defaultdict[_Key, deque[StartRow]] = defaultdict(lambda: deque(maxlen=KEPT_STARTS))

    async def read(self) -> None:
        """Remember what earlier lives of the gateway have stored."""
        self._past.clear()
        for row in await self._store.all():
            self._past[row.deployment, row.model, row.launcher].append(row)

    async def add(self, replica_id: str, of: Deployed, queue_s: float, load_s: float) -> None:
        """Keep that a replica waited `queue_s` seconds to be begun, and was ready `load_s` after that. Durable."""
        row = StartRow(replica_id, *_key(of), self._clock.now(), queue_s, load_s)
        self._past[_key(of)].append(row)
        await self._store.add(row)

    def left_s(self, of: Deployed, queue_s: float = 0.0, load_s: float | None = None) -> float | None:
        """Seconds until a replica is ready that has waited `queue_s` and, if it was begun, has loaded for `load_s`.

        It is the median of those past starts that took longer than this one has; None when none did.
        """
        past = self._past.get(_key(of), ())
        if load_s is None:
            left = [one.queue_s + one.load_s - queue_s for one in past]
        else:
            left = [one.load_s - load_s for one in past]
        return median(longer) if (longer := [one for one in left if one > 0]) else None


def _key(of: Deployed) -> _Key:
    return of.name, of.model, of.launcher_name
