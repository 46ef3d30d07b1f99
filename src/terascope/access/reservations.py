"""Reservations: a project holds slots of a model between two times, such as for an experiment in progress."""

from collections import Counter
from collections.abc import Mapping

from terascope.access.principal import Principal
from terascope.access.projects import Projects, Right
from terascope.core.clock import Clock
from terascope.core.errors import BadRequest
from terascope.core.ids import new_id
from terascope.core.models import ModelName, ModelVersion
from terascope.core.projects import MOST_SLOTS, checked_text
from terascope.store.database import Database
from terascope.store.reservations import ReservationRow, ReservationStore

_LOOK_S = 5.0  # another gateway's change is seen within this time; one's own at once


class Reservations:
    """Makes, lists and cancels reservations, and says what is reserved now."""

    def __init__(self, database: Database, projects: Projects, clock: Clock) -> None:
        self._store = ReservationStore(database)
        self._projects = projects
        self._clock = clock
        self._open: list[ReservationRow] = []

    async def create(
        self, project: str, model: str, slots: int, starts: float, ends: float, note: str = ""
    ) -> ReservationRow:
        """Reserve `slots` of `model` (a name, or `name@version`) for `project` from `starts` to `ends`.

        Times are seconds since the epoch. Raises `BadRequest`, and `NotFound` for an unknown project.
        """
        ModelName.parse(model)
        if not 1 <= slots <= MOST_SLOTS:
            raise BadRequest(f"`slots` must be from 1 to {MOST_SLOTS:,}", param="slots")
        if not max(starts, self._clock.now()) < ends < 1e11:
            raise BadRequest("`ends` must be a time to come, after `starts`, in seconds since 1970", param="ends")
        note, now = checked_text(note, "note", empty=True), self._clock.now()
        row = ReservationRow(new_id("reservation"), project, model, slots, starts, ends, note, now)
        await self._store.add(row)
        await self.look()
        return row

    async def cancel(self, reservation_id: str) -> None:
        """End a reservation at once. Raises `NotFound`."""
        await self._store.remove(reservation_id)
        await self.look()

    async def visible_to(self, who: Principal, project: str = "") -> list[ReservationRow]:
        """Return the reservations that are not over, of one project or of all that `who` may see.

        Raises `NotFound` when there is no such project or `who` may not see it.
        """
        if project:
            await self._projects.require(who, project, Right.SEE)
        names = {project} if project else {row.name for row in await self._projects.visible_to(who)}
        return [row for row in await self._store.ending_after(self._clock.now()) if row.project in names]

    def reserved(self, version: ModelVersion, later_s: float) -> Mapping[str, int]:
        """How many slots of `version` are reserved in so many seconds, by project; without waiting."""
        if not self._open:
            return {}
        now = self._clock.now() + later_s
        slots: Counter[str] = Counter()
        for row in self._open:
            if row.starts <= now < row.ends and row.model in (version.name, version.public_name):
                slots[row.project] += row.slots
        return slots

    async def look(self) -> None:
        """Read what is stored now."""
        self._open = await self._store.ending_after(self._clock.now())

    async def keep_looking(self) -> None:
        """Read what other gateways stored, every few seconds, until cancelled."""
        while True:
            await self.look()
            await self._clock.sleep(_LOOK_S)
