"""What can be asked about reservations."""

from urllib.parse import quote

from terascope.client.ask import Ask, Noun, Sender, call
from terascope.protocol.reservations import CreateReservation, ReservationView, ReservationViews


class Reservations(Noun[Sender]):
    """Slots of models that projects hold between two times; changes need an operator's key."""

    @call
    def list(self, project: str = "") -> Ask[ReservationViews]:
        """Return the reservations that are not over, of one project or of all that one may see."""
        return Ask("GET", _RESERVATIONS, ReservationViews, query={"project": project} if project else {})

    @call
    def create(
        self, project: str, model: str, slots: int, *, ends: float, starts: float | None = None, note: str = ""
    ) -> Ask[ReservationView]:
        """Keep `slots` of `model` for a project from `starts` (now) to `ends`, seconds since the epoch."""
        body = CreateReservation(project=project, model=model, slots=slots, starts=starts, ends=ends, note=note)
        return Ask("POST", _RESERVATIONS, ReservationView, body)

    @call
    def cancel(self, reservation: str) -> Ask[None]:
        """End a reservation at once."""
        return Ask("DELETE", f"{_RESERVATIONS}/{quote(reservation, safe='')}", type(None))


_RESERVATIONS = "/admin/v1/reservations"
