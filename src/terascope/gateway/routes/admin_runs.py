"""`/admin/v1/runs`: what was run. An operator sees every record, anyone else their own."""

from typing import Annotated

from fastapi import APIRouter, Query

from terascope.core.runs import RunRecord
from terascope.gateway.depends import NO_NUL, Caller, UseServices
from terascope.protocol.admin import RunView, RunViews

router = APIRouter(prefix="/admin/v1/runs", tags=["admin: runs"])


@router.get("")
async def list_runs(
    use: UseServices,
    who: Caller,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    key: Annotated[str, Query(max_length=60, pattern=NO_NUL, description="Only runs of this key's id.")] = "",
    model: Annotated[str, Query(max_length=200, pattern=NO_NUL, description="Only runs of this `name@version`.")] = "",
    before: Annotated[
        str, Query(max_length=60, pattern=NO_NUL, description="Only runs older than this run's id.")
    ] = "",
) -> RunViews:
    """Run records, newest first."""
    key_id = key if who.operator else who.key_id
    found = await use.recorder.newest(limit + 1, key_id=key_id, model=model, before=before)
    return RunViews(data=[_view(record) for record in found[:limit]], has_more=len(found) > limit)


@router.get("/{run_id}")
async def show_run(run_id: str, use: UseServices, who: Caller) -> RunView:
    """One run record, by the request id of its answer."""
    return _view(await use.recorder.get(run_id, key_id="" if who.operator else who.key_id))


def _view(record: RunRecord) -> RunView:
    values = {name: getattr(record, name) for name in RunRecord.__slots__}
    return RunView(**values | {"parameters": dict(record.parameters)})
