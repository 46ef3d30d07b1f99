"""The wire of `/admin/v1/reservations`. Times are seconds since the epoch."""

from pydantic import BaseModel, Field

from terascope.core.projects import MOST_SLOTS
from terascope.protocol.admin import Name, Strict
from terascope.protocol.projects import ProjectName


class ReservationView(BaseModel):
    """Slots of a model that a project holds between two times."""

    id: str
    project: str
    model: str = Field(description="A name, for all its versions, or `name@version`.")
    slots: int
    starts: float
    ends: float
    note: str
    created: float


class ReservationViews(BaseModel):
    """Reservations that are not over, by their beginning."""

    data: list[ReservationView]


class CreateReservation(Strict):
    """`POST /admin/v1/reservations`."""

    project: ProjectName
    model: Name
    slots: int = Field(
        ge=1, le=MOST_SLOTS, description="Requests of the project that may run at once before anybody else's."
    )
    starts: float | None = Field(default=None, description="Null: now.")
    ends: float
    note: str = ""
