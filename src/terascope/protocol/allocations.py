"""The wire of allocations, usage, prices and the audit log. Amounts are service units."""

from typing import Any

from pydantic import BaseModel, Field, StrictBool

from terascope.protocol.admin import Strict

_WHEN = "Seconds since the epoch"


class AllocationView(BaseModel):
    """An allocation and what is left of it."""

    id: str
    project: str
    unlimited: bool
    balance: float = Field(description="What is left, holds not taken off; of an unlimited one, what was used.")
    held: float = Field(description="Set aside for requests that run.")
    starts: float
    ends: float | None
    note: str
    created: float


class AllocationViews(BaseModel):
    """Allocations, oldest first."""

    data: list[AllocationView]


class GrantAllocation(Strict):
    """`POST /admin/v1/projects/{project}/allocations`."""

    units: float | None = Field(default=None, description="Service units.")
    unlimited: StrictBool = Field(default=False, description="In place of `units`: without a limit.")
    starts: float | None = Field(default=None, description=f"{_WHEN}; null: now.")
    ends: float | None = Field(default=None, description=f"{_WHEN}; null: never.")
    note: str = ""


class ChangeAllocation(Strict):
    """`PATCH /admin/v1/allocations/{allocation}`."""

    ends: float | None = Field(description=f"{_WHEN}; null: never.")


class TransferUnits(Strict):
    """`POST /admin/v1/transfers`."""

    source: str
    target: str
    units: float
    note: str = ""


class RefundRun(Strict):
    """`POST /admin/v1/refunds`."""

    run: str = Field(description="The request's id.")
    note: str = ""


class Refunded(BaseModel):
    """What was given back."""

    run: str
    service_units: float


class UsageView(BaseModel):
    """What one user used of one model in one project on one day (UTC)."""

    project: str
    user: str
    model: str
    day: str
    requests: int
    prompt_tokens: int
    output_tokens: int
    service_units: float


class UsageViews(BaseModel):
    """`GET /admin/v1/usage`."""

    data: list[UsageView]


class AuditView(BaseModel):
    """One change of access or money."""

    id: str
    time: float
    action: str = Field(description="What was done, such as `member.put`.")
    target: str = Field(description="To what: a project, a key's or an allocation's id, a model version, a request.")
    details: dict[str, Any]
    user: str = Field(description="By whom; `the gateway itself` for what it does by itself.")
    key_id: str
    address: str = Field(description="From where: who was connected; a proxy's address where one stands before.")


class AuditViews(BaseModel):
    """`GET /admin/v1/audit`, newest first; pass the last `id` as `before` for the next page."""

    data: list[AuditView]
    has_more: bool


class PriceView(BaseModel):
    """What a model version costs: service units for a million tokens."""

    model: str
    prompt: int
    output: int


class SetPrice(Strict):
    """`PUT /admin/v1/prices/{model}`: service units for a million tokens."""

    prompt: int = Field(ge=0, le=10**12)
    output: int = Field(ge=0, le=10**12)
