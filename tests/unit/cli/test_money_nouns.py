"""allocations and usage, asked of a real gateway."""

import re
import time
from datetime import UTC, datetime

import httpx
import pytest

from terascope.client import Client
from terascope.testing.gateway import Served

from .conftest import Cli


def test_an_allocation_from_its_grant_to_its_end(cli: Cli) -> None:
    cli("projects", "create", "tides")
    assert cli("allocations", "list", "tides").err == "tides has no allocation\n"
    told = cli("allocations", "grant", "tides", "12.5", "--starts", "0h", "--ends", "30d", "--note", "pilot")
    assert re.fullmatch(r"alloc_\w+ gives tides 12.5 service units\n", told.out)
    other = cli("allocations", "grant", "tides", "1", "--json").json
    [first, _] = cli("allocations", "list", "tides", "--json").json
    assert (first["balance"], first["held"], first["note"], first["unlimited"]) == (12.5, 0, "pilot", False)
    assert first["ends"] == pytest.approx(time.time() + 30 * 86400, abs=60)
    moved = cli("allocations", "transfer", first["id"], other["id"], "2.5", "--note", "why not", "--json").json
    assert [one["balance"] for one in moved] == [10, 3.5]
    too_much = cli("allocations", "transfer", first["id"], other["id"], "11")
    assert (too_much.status, "has less than that to spare" in too_much.err) == (1, True)
    assert re.search(
        r"^alloc_\w+ +tides +10.0 +0.0 +20.* pilot$", cli("allocations", "list", "tides").out, re.MULTILINE
    )
    assert cli("allocations", "end", first["id"]).out.startswith(f"{first['id']} ends 20")
    assert cli("allocations", "end", first["id"], "--at", "never").out == f"{first['id']} ends never\n"


@pytest.mark.parametrize("units", ["0", "-1", "1e10", "0.0000001"])
def test_amounts_that_mean_nothing(cli: Cli, units: str) -> None:
    told = cli("allocations", "grant", "local", "--", units)
    assert (told.status, "`units` must be a number of service units above 0" in told.err) == (1, True)
    for no_number in ("many", "nan", "inf"):
        assert cli("allocations", "grant", "local", no_number).status == 2


@pytest.mark.parametrize("asked", [{}, {"units": None}, {"units": 1, "unlimited": True}, {"unlimited": False}])
def test_a_grant_without_a_limit_is_never_an_accident(gateway: Served, asked: dict[str, object]) -> None:
    path = f"{gateway.url}/admin/v1/projects/local/allocations"
    answer = httpx.post(path, json=asked, headers=gateway.headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "units")


def test_times_that_mean_nothing(cli: Cli) -> None:
    assert "`ends` must be after `starts`" in cli("allocations", "grant", "local", "1", "--ends", "2001-01-01").err
    assert "there is no allocation 'alloc_none'" in cli("allocations", "end", "alloc_none").err


def test_usage_and_refunds(cli: Cli, gateway: Served) -> None:
    with Client(gateway.url, gateway.key) as client:
        key = client.keys.create("=ada", ["query"]).key
    with Client(gateway.url, key) as client, client.chat("echo", [{"role": "user", "content": "one two"}]) as stream:
        list(stream)
    today = datetime.now(UTC).date().isoformat()
    [used] = cli("usage", "--json", "--key", key).json
    assert (used["project"], used["user"], used["requests"], used["output_tokens"]) == ("local", "=ada", 1, 2)
    assert (used["day"] <= today, used["service_units"] > 0) == (True, True)
    assert cli("usage", "--user", "=ada", "--json").json == [used]
    assert cli("usage", "--user", "=ada", "--last", "2001-01-01", "--first", "2001-01-01").err == "nothing was used\n"
    assert re.search(
        rf"^local +=ada +echo@\w+ +{used['day']} +1 ", cli("usage", "--project", "local").out, re.MULTILINE
    )
    header, line = cli("usage", "--csv", "--key", key).out.splitlines()
    assert header == "project,user,model,day,requests,prompt_tokens,output_tokens,service_units"
    assert line.startswith("local,'=ada,echo@")
    assert "write a day like 2027-01-31" in cli("usage", "--first", "yesterday").err
    assert cli("allocations", "refund", "req_none").err.startswith(
        "terascope: the request 'req_none' was charged nothing"
    )
    given = cli("allocations", "refund", stream.request_id, "--note", "sorry")
    assert given.out == f"{used['service_units']:,} service units of {stream.request_id} are given back\n"
    again = cli("allocations", "refund", stream.request_id)
    assert (again.status, "was given back before" in again.err) == (1, True)
    [after] = cli("usage", "--json", "--key", key).json
    assert (after["service_units"], after["output_tokens"], after["requests"]) == (0, 0, 1)


def test_csv_for_spreadsheets_has_no_formula(gateway: Served) -> None:
    text = httpx.get(f"{gateway.url}/admin/v1/usage?format=csv", headers=gateway.headers)
    assert text.headers["content-type"] == "text/csv; charset=utf-8"
    assert ",=ada," not in text.text


def test_what_a_model_costs(cli: Cli) -> None:
    shown = cli("models", "show", "echo", "--json").json
    assert (shown["price_prompt"], shown["price_output"]) == (250, 1000)
    told = cli("allocations", "price", "echo", "--prompt", "30", "--output", "120")
    assert re.fullmatch(r"echo@\w+ costs 30 service units for a million tokens of prompts, 120 of answers\n", told.out)
    assert cli("allocations", "price", "echo", "--prompt", "30").status == 2
    assert cli("allocations", "price", "echo", "--json").json["output"] == 1000


def test_who_changed_what(cli: Cli, gateway: Served) -> None:
    cli("projects", "create", "audited")
    cli("members", "add", "audited", "grace", "--role", "pi")
    rows = cli("audit", "--target", "audited", "--json").json
    assert [row["action"] for row in rows] == ["member.put", "project.create"]
    assert (rows[0]["user"], rows[0]["key_id"], rows[0]["address"]) == ("local operator", "key_local", "127.0.0.1")
    told = cli("audit", "--target", "audited").out
    assert re.search(
        r"^20\S+ \S+ +local operator +127.0.0.1 +member.put +audited +user=grace role=pi$", told, re.MULTILINE
    )
    lines = cli("audit", "--csv", "--limit", "0").out.splitlines()
    assert lines[0] == "id,time,action,target,details,user,key_id,address"
    assert len(lines) > len(cli("audit", "--limit", "3", "--json").json) == 3
    with Client(gateway.url, gateway.key) as client:
        made = client.keys.create("ada", ["query"])
    assert made.key not in "".join(cli("audit", "--csv", "--limit", "0").out)
    assert cli("audit", "--user", "nobody").err == "nothing was changed\n"
