"""`/admin/v1/reservations`: slots of a model that a project holds between two times."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from terascope.gateway.depends import NO_NUL, Caller, Operator, UseServices
from terascope.protocol.reservations import CreateReservation, ReservationView, ReservationViews
from terascope.store.reservations import ReservationRow

router = APIRouter(prefix="/admin/v1/reservations", tags=["admin: reservations"])


@router.get("")
async def list_reservations(
    use: UseServices, who: Caller, project: Annotated[str, Query(pattern=NO_NUL)] = ""
) -> ReservationViews:
    """The reservations that are not over, of projects that the caller may see, or of one."""
    return ReservationViews(data=[_view(row) for row in await use.access.reservations.visible_to(who, project)])


@router.post("", status_code=201)
async def create_reservation(asked: CreateReservation, use: UseServices, who: Operator) -> ReservationView:
    """Keep slots of a model for a project, whether it uses them or not."""
    starts = use.clock.now() if asked.starts is None else asked.starts
    return _view(
        await use.access.reservations.create(asked.project, asked.model, asked.slots, starts, asked.ends, asked.note)
    )


@router.delete("/{reservation}", status_code=204)
async def cancel_reservation(reservation: str, use: UseServices, who: Operator) -> Response:
    """End a reservation at once."""
    await use.access.reservations.cancel(reservation)
    return Response(status_code=204)


def _view(row: ReservationRow) -> ReservationView:
    return ReservationView(**{name: getattr(row, name) for name in ReservationView.model_fields})
