"""Allocations and usage: what projects were granted, and what became of it."""

import re
from datetime import date
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BeforeValidator

from terascope.access.projects import Right
from terascope.core.errors import BadRequest
from terascope.core.ledger import Usage
from terascope.core.prices import Price, units
from terascope.gateway.depends import NO_NUL, Caller, Operator, UseServices
from terascope.gateway.services import Services
from terascope.protocol.admin import Name
from terascope.protocol.allocations import (
    AllocationView,
    AllocationViews,
    ChangeAllocation,
    GrantAllocation,
    PriceView,
    Refunded,
    RefundRun,
    SetPrice,
    TransferUnits,
    UsageView,
    UsageViews,
)
from terascope.protocol.projects import ProjectName
from terascope.protocol.spreadsheet import csv_text
from terascope.store.allocations import AllocationRow

router = APIRouter(prefix="/admin/v1", tags=["admin: allocations"])


@router.get("/projects/{project}/allocations")
async def list_allocations(project: ProjectName, use: UseServices, who: Caller) -> AllocationViews:
    """A project's allocations and what is left of each."""
    await use.access.projects.require(who, project, Right.SEE)
    return AllocationViews(data=[_view(row) for row in await use.access.allocations.of(project)])


@router.post("/projects/{project}/allocations", status_code=201)
async def grant_allocation(
    project: ProjectName, asked: GrantAllocation, use: UseServices, who: Operator
) -> AllocationView:
    """Give a project service units for a time."""
    if asked.unlimited == (asked.units is not None):
        raise BadRequest("say either `units` or `unlimited`", param="units")
    granted = await use.access.allocations.grant(
        who, project, asked.units, starts=asked.starts, ends=asked.ends, note=asked.note
    )
    return _view(granted)


@router.post("/transfers")
async def transfer_units(asked: TransferUnits, use: UseServices, who: Operator) -> AllocationViews:
    """Move service units from one allocation to another."""
    moved = await use.access.allocations.transfer(who, asked.source, asked.target, asked.units, note=asked.note)
    return AllocationViews(data=[_view(row) for row in moved])


@router.post("/refunds")
async def refund_run(asked: RefundRun, use: UseServices, who: Operator) -> Refunded:
    """Give back what a request was charged, once."""
    amount = await use.access.allocations.refund(who, asked.run, note=asked.note)
    return Refunded(run=asked.run, service_units=units(amount))


@router.patch("/allocations/{allocation}")
async def change_allocation(
    allocation: str, asked: ChangeAllocation, use: UseServices, who: Operator
) -> AllocationView:
    """Let an allocation end at another time."""
    return _view(await use.access.allocations.set_end(allocation, asked.ends))


_Filter = Annotated[str, Query(max_length=200, pattern=NO_NUL)]


def _iso(text: object) -> object:
    """Pydantic would take a number for seconds."""
    if isinstance(text, str) and not re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        raise ValueError("write a day like 2027-01-31")
    return text


_Day = Annotated[date | None, BeforeValidator(_iso), Query(description="YYYY-MM-DD, UTC.")]


@router.get(
    "/usage",
    response_model=UsageViews,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
)
async def show_usage(
    use: UseServices,
    who: Caller,
    project: _Filter = "",
    user: _Filter = "",
    model: _Filter = "",
    first: _Day = None,
    last: _Day = None,
    format: Literal["json", "csv"] = "json",
) -> UsageViews | Response:
    """What was used, by project, user, model and day; of the last 30 days unless it says otherwise.

    An operator sees everybody's, a PI and an auditor their project's, everybody else their own.
    """
    found = await use.access.allocations.usage(who, project=project, user=user, model=model, first=first, last=last)
    rows = [_usage(one) for one in found]
    if format == "json":
        return UsageViews(data=rows)
    text = csv_text(UsageView.model_fields, (row.model_dump().values() for row in rows))
    return Response(text, media_type="text/csv; charset=utf-8")


@router.put("/prices/{model:path}")
async def set_price(model: Name, asked: SetPrice, use: UseServices, who: Operator) -> PriceView:
    """Set what a model version costs."""
    return await _priced(use, model, Price(asked.prompt, asked.output))


@router.delete("/prices/{model:path}")
async def price_by_formula(model: Name, use: UseServices, who: Operator) -> PriceView:
    """Let the formula say what a model version costs."""
    return await _priced(use, model, None)


async def _priced(use: Services, model: str, price: Price | None) -> PriceView:
    version = use.catalog.resolve(model)
    version = await use.catalog.set_price(version.name, version.version, price)
    return PriceView(model=version.public_name, prompt=version.price.prompt, output=version.price.output)


def _view(row: AllocationRow) -> AllocationView:
    plain = {name: getattr(row, name) for name in ("id", "project", "unlimited", "starts", "ends", "note", "created")}
    return AllocationView(**plain, balance=units(row.balance), held=units(row.held))


def _usage(one: Usage) -> UsageView:
    return UsageView(
        project=one.project, user=one.user_id, model=one.model, day=one.day, requests=one.requests,
        prompt_tokens=one.prompt_tokens, output_tokens=one.output_tokens, service_units=units(one.amount),
    )  # fmt: skip
