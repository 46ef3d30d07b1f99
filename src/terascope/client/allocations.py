"""What can be asked about service units (allocations, usage, prices), and about who changed what."""

from urllib.parse import quote

from terascope.client.ask import Ask, Noun, Sender, call
from terascope.client.projects import project_path
from terascope.protocol.allocations import (
    AllocationView,
    AllocationViews,
    AuditViews,
    ChangeAllocation,
    GrantAllocation,
    PriceView,
    Refunded,
    RefundRun,
    SetPrice,
    TransferUnits,
    UsageViews,
)


class Allocations(Noun[Sender]):
    """The allocations of projects, in service units; changes need an operator's key."""

    @call
    def list(self, project: str) -> Ask[AllocationViews]:
        """Return a project's allocations and what is left of each, oldest first."""
        return Ask("GET", project_path(project, "allocations"), AllocationViews)

    @call
    def grant(
        self,
        project: str,
        units: float | None,
        *,
        starts: float | None = None,
        ends: float | None = None,
        note: str = "",
    ) -> Ask[AllocationView]:
        """Give a project `units`, or no limit (None), from `starts` (now) to `ends` (never), seconds since 1970."""
        body = GrantAllocation(units=units, unlimited=units is None, starts=starts, ends=ends, note=note)
        return Ask("POST", project_path(project, "allocations"), AllocationView, body)

    @call
    def set_end(self, allocation: str, ends: float | None) -> Ask[AllocationView]:
        """Let an allocation end at another time (seconds since the epoch), or never."""
        return Ask("PATCH", f"{_ALLOCATIONS}/{quote(allocation, safe='')}", AllocationView, ChangeAllocation(ends=ends))

    @call
    def transfer(self, source: str, target: str, units: float, *, note: str = "") -> Ask[AllocationViews]:
        """Move units from one allocation to another; return both."""
        body = TransferUnits(source=source, target=target, units=units, note=note)
        return Ask("POST", "/admin/v1/transfers", AllocationViews, body)

    @call
    def refund(self, run: str, *, note: str = "") -> Ask[Refunded]:
        """Give back what a request was charged, once."""
        return Ask("POST", "/admin/v1/refunds", Refunded, RefundRun(run=run, note=note))

    @call
    def price(self, model: str, prompt: int, output: int) -> Ask[PriceView]:
        """Set what a million tokens of a model version cost, in service units."""
        return Ask("PUT", f"{_PRICES}/{quote(model, safe='/@')}", PriceView, SetPrice(prompt=prompt, output=output))

    @call
    def price_by_formula(self, model: str) -> Ask[PriceView]:
        """Let the formula say what a model version costs."""
        return Ask("DELETE", f"{_PRICES}/{quote(model, safe='/@')}", PriceView)


class UsageReports(Noun[Sender]):
    """What was used: everybody's for an operator, a PI's and an auditor's of their project, else one's own."""

    @call
    def list(
        self, *, project: str = "", user: str = "", model: str = "", first: str = "", last: str = ""
    ) -> Ask[UsageViews]:
        """Return usage by project, user, model and day, from day `first` to `last` (YYYY-MM-DD): the last 30 days."""
        asked: dict[str, str | int] = {"project": project, "user": user, "model": model, "first": first, "last": last}
        return Ask("GET", "/admin/v1/usage", UsageViews, query={name: value for name, value in asked.items() if value})


class Audit(Noun[Sender]):
    """The audit log: every change of access or money; needs an operator's key."""

    @call
    def list(self, *, limit: int = 50, target: str = "", user: str = "", before: str = "") -> Ask[AuditViews]:
        """Return up to `limit` changes, newest first: of one target, by one user, older than one change."""
        asked: dict[str, str | int] = {"limit": limit, "target": target, "user": user, "before": before}
        return Ask("GET", "/admin/v1/audit", AuditViews, query={name: value for name, value in asked.items() if value})


_ALLOCATIONS = "/admin/v1/allocations"
_PRICES = "/admin/v1/prices"
