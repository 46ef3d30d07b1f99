"""Rows of deployments, on every kind of database."""

from dataclasses import replace

import pytest

from terascope.core.errors import Conflict, NotFound
from terascope.core.states import DeploymentTarget
from terascope.store.audit import AuditStore
from terascope.store.database import Database
from terascope.store.deployments import DeploymentRow, DeploymentStore

ROW = DeploymentRow("big", {"model": "m", "replicas": 2, "layout": {"tensor": 8}}, DeploymentTarget.RUNNING, 1.5, 2.5)


async def test_from_its_making_to_its_end(database: Database) -> None:
    store = DeploymentStore(database)
    await store.add(ROW)
    await store.add(replace(ROW, name="another"))
    assert await store.all() == [replace(ROW, name="another"), ROW]
    stopped = replace(ROW, target=DeploymentTarget.STOPPED, settings={"model": "m"}, changed=9.0)
    await store.update(stopped)
    assert await store.all() == [replace(ROW, name="another"), stopped]
    await store.remove("another")
    assert await store.all() == [stopped]
    told = await AuditStore(database).newest(10)
    assert [one.action for one in told] == [
        "deployment.remove", "deployment.change", "deployment.create", "deployment.create",
    ]  # fmt: skip
    assert told[-1].details == {"model": "m", "replicas": 2, "wanted": "running"}


async def test_the_audit_log_tells_between_which_numbers(database: Database) -> None:
    settings = {"model": "m", "replicas": 1, "min": 0, "max": 3, "hot": 0}
    await DeploymentStore(database).add(replace(ROW, settings=settings))
    [told] = await AuditStore(database).newest(10)
    assert told.details == {"model": "m", "replicas": 1, "min": 0, "max": 3, "wanted": "running"}


async def test_what_contradicts_what_is_there(database: Database) -> None:
    store = DeploymentStore(database)
    await store.add(ROW)
    with pytest.raises(Conflict, match="'big' already"):
        await store.add(ROW)
    for change in (store.remove("none"), store.update(replace(ROW, name="none"))):
        with pytest.raises(NotFound, match="no deployment 'none'"):
            await change
    assert await store.all() == [ROW]
    assert len(await AuditStore(database).newest(10)) == 1
