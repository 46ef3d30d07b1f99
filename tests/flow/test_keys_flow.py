"""Who may do what, over HTTP and from the command line: every route, every scope."""

import importlib
import json
import os
import pkgutil
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from terascope.access.scopes import OPERATOR, SCOPES
from terascope.gateway import routes
from terascope.protocol.request import ENDPOINTS
from terascope.testing.gateway import Served, running_gateway

CHAT = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
ANYONE = frozenset(SCOPES)  # with a valid key
OPERATORS = frozenset({OPERATOR})
PUBLIC = None

ROUTES: dict[tuple[str, str], frozenset[str] | None] = {
    ("POST", "/v1/chat/completions"): frozenset({"query", OPERATOR}),
    ("POST", "/v1/completions"): frozenset({"query", OPERATOR}),
    ("POST", "/v1/embeddings"): frozenset({"embed", OPERATOR}),
    ("POST", "/tokenize"): frozenset({"query", OPERATOR}),
    ("POST", "/detokenize"): frozenset({"query", OPERATOR}),
    ("POST", "/v1/traces"): frozenset({"internals", OPERATOR}),
    ("POST", "/v1/traces/sites"): frozenset({"internals", OPERATOR}),
    ("GET", "/v1/files"): ANYONE,  # of their projects
    ("POST", "/v1/files"): ANYONE,
    ("GET", "/v1/files/{file_id}"): ANYONE,
    ("GET", "/v1/files/{file_id}/content"): ANYONE,
    ("DELETE", "/v1/files/{file_id}"): ANYONE,
    ("GET", "/v1/fine_tuning/jobs"): ANYONE,  # of their projects
    ("POST", "/v1/fine_tuning/jobs"): frozenset({"tune", OPERATOR}),
    ("GET", "/v1/fine_tuning/jobs/{job}"): ANYONE,
    ("POST", "/v1/fine_tuning/jobs/{job}/cancel"): ANYONE,
    ("GET", "/v1/fine_tuning/jobs/{job}/events"): ANYONE,
    ("GET", "/v1/fine_tuning/jobs/{job}/checkpoints"): ANYONE,
    ("GET", "/v1/vector_stores"): ANYONE,  # of their projects
    ("POST", "/v1/vector_stores"): frozenset({"embed", OPERATOR}),
    ("GET", "/v1/vector_stores/{store}"): ANYONE,
    ("POST", "/v1/vector_stores/{store}"): ANYONE,
    ("DELETE", "/v1/vector_stores/{store}"): ANYONE,
    ("POST", "/v1/vector_stores/{store}/search"): ANYONE,  # whose vectors a model makes: `embed`
    ("GET", "/v1/vector_stores/{store}/files"): ANYONE,
    ("POST", "/v1/vector_stores/{store}/files"): ANYONE,  # likewise
    ("GET", "/v1/vector_stores/{store}/files/{file_id}"): ANYONE,
    ("POST", "/v1/vector_stores/{store}/files/{file_id}"): ANYONE,
    ("DELETE", "/v1/vector_stores/{store}/files/{file_id}"): ANYONE,
    ("GET", "/v1/vector_stores/{store}/files/{file_id}/content"): ANYONE,
    ("POST", "/v1/vector_stores/{store}/file_batches"): ANYONE,  # likewise
    ("GET", "/v1/vector_stores/{store}/file_batches/{batch_id}"): ANYONE,
    ("POST", "/v1/vector_stores/{store}/file_batches/{batch_id}/cancel"): ANYONE,
    ("GET", "/v1/vector_stores/{store}/file_batches/{batch_id}/files"): ANYONE,
    ("GET", "/v1/me"): ANYONE,
    ("GET", "/v1/models"): ANYONE,
    ("GET", "/v1/models/{model:path}"): ANYONE,
    ("GET", "/admin/v1/models"): OPERATORS,
    ("POST", "/admin/v1/models"): OPERATORS,
    ("GET", "/admin/v1/models/{model:path}"): OPERATORS,
    ("DELETE", "/admin/v1/models/{model:path}"): OPERATORS,
    ("PUT", "/admin/v1/models/aliases/{alias:path}"): OPERATORS,
    ("DELETE", "/admin/v1/models/aliases/{alias:path}"): OPERATORS,
    ("GET", "/admin/v1/deployments"): OPERATORS,
    ("POST", "/admin/v1/deployments"): OPERATORS,
    ("POST", "/admin/v1/deployment-preview"): OPERATORS,
    ("GET", "/admin/v1/deployments/{name:path}/log"): OPERATORS,
    ("GET", "/admin/v1/deployments/{name:path}/events"): OPERATORS,
    ("GET", "/admin/v1/status"): OPERATORS,
    ("GET", "/admin/v1/deployments/{name:path}/log/follow"): OPERATORS,
    ("GET", "/admin/v1/deployments/{name:path}"): OPERATORS,
    ("PUT", "/admin/v1/deployments/{name}"): OPERATORS,
    ("PATCH", "/admin/v1/deployments/{name}"): OPERATORS,
    ("DELETE", "/admin/v1/deployments/{name}"): OPERATORS,
    ("GET", "/admin/v1/keys"): OPERATORS,
    ("POST", "/admin/v1/keys"): ANYONE,  # in a project that they lead; test_roles.py has what each role may
    ("DELETE", "/admin/v1/keys/{key_id}"): OPERATORS,
    ("GET", "/admin/v1/service-accounts"): ANYONE,
    ("POST", "/admin/v1/service-accounts"): ANYONE,
    ("DELETE", "/admin/v1/service-accounts/{project}/{name}"): ANYONE,
    ("GET", "/admin/v1/projects"): ANYONE,  # their own
    ("POST", "/admin/v1/projects"): OPERATORS,
    ("GET", "/admin/v1/projects/{project}"): ANYONE,
    ("PATCH", "/admin/v1/projects/{project}"): OPERATORS,
    ("PUT", "/admin/v1/projects/{project}/policies/{model:path}"): OPERATORS,
    ("DELETE", "/admin/v1/projects/{project}/policies/{model:path}"): OPERATORS,
    ("GET", "/admin/v1/projects/{project}/members"): ANYONE,
    ("PUT", "/admin/v1/projects/{project}/members/{user:path}"): ANYONE,
    ("DELETE", "/admin/v1/projects/{project}/members/{user:path}"): ANYONE,
    ("GET", "/admin/v1/projects/{project}/allocations"): ANYONE,
    ("POST", "/admin/v1/projects/{project}/allocations"): OPERATORS,
    ("PATCH", "/admin/v1/allocations/{allocation}"): OPERATORS,
    ("POST", "/admin/v1/transfers"): OPERATORS,
    ("POST", "/admin/v1/refunds"): OPERATORS,
    ("GET", "/admin/v1/usage"): ANYONE,  # their own
    ("PUT", "/admin/v1/prices/{model:path}"): OPERATORS,
    ("DELETE", "/admin/v1/prices/{model:path}"): OPERATORS,
    ("GET", "/admin/v1/adapters"): OPERATORS,
    ("POST", "/admin/v1/adapters"): OPERATORS,
    ("GET", "/admin/v1/adapters/{adapter:path}"): OPERATORS,
    ("DELETE", "/admin/v1/adapters/{adapter:path}"): OPERATORS,
    ("GET", "/admin/v1/artefacts/{kind}"): ANYONE,  # of their projects
    ("POST", "/admin/v1/artefacts/{kind}"): ANYONE,
    ("GET", "/admin/v1/artefacts/{kind}/{project}/{name}"): ANYONE,
    ("PUT", "/admin/v1/artefacts/{kind}/{project}/{name}/shared_with"): ANYONE,
    ("DELETE", "/admin/v1/artefacts/{kind}/{project}/{name}"): ANYONE,
    ("GET", "/admin/v1/reservations"): ANYONE,  # of their projects
    ("POST", "/admin/v1/reservations"): OPERATORS,
    ("DELETE", "/admin/v1/reservations/{reservation}"): OPERATORS,
    ("GET", "/admin/v1/audit"): OPERATORS,
    ("GET", "/admin/v1/runs"): ANYONE,  # of their own
    ("GET", "/admin/v1/runs/{run_id}"): ANYONE,
    ("GET", "/.well-known/terascope"): PUBLIC,
    ("GET", "/health"): PUBLIC,
    ("GET", "/ready"): PUBLIC,
    ("GET", "/metrics"): PUBLIC,
    ("GET", "/metrics/engines"): PUBLIC,
    ("GET", "/openapi.json"): PUBLIC,
    ("GET", "/docs"): PUBLIC,
    ("GET", "/docs/{name}"): PUBLIC,
}
"""Who may use a route. A new one must be entered here, or a test fails."""


@pytest.fixture(scope="module")
def gateway() -> Iterator[Served]:
    with running_gateway() as served:
        yield served


@pytest.fixture
def operator(gateway: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, headers=gateway.headers, timeout=30) as client:
        yield client


def make(operator: httpx.Client, *scopes: str, **fields: Any) -> dict[str, Any]:
    answer = operator.post("/admin/v1/keys", json={"name": "made by a test", "scopes": [*scopes]} | fields)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def holder(gateway: Served, key: str) -> httpx.Client:
    return httpx.Client(base_url=gateway.url, headers={"Authorization": f"Bearer {key}"}, timeout=30)


def code(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["code"])


def test_a_key_from_its_making_to_its_end(gateway: Served, operator: httpx.Client) -> None:
    made = make(operator, "query", name="Ada")
    listed = {row["id"]: row for row in operator.get("/admin/v1/keys").json()["data"]}[made["id"]]
    assert listed == {name: value for name, value in made.items() if name != "key"}
    assert made["key"].startswith(listed["prefix"])
    assert (listed["name"], listed["scopes"], listed["expires"], listed["revoked"]) == ("Ada", ["query"], None, None)
    with holder(gateway, made["key"]) as client:
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 200
        revoked = operator.delete(f"/admin/v1/keys/{made['id']}").json()
        answer = client.post("/v1/chat/completions", json=CHAT)
        assert (answer.status_code, code(answer)) == (401, "invalid_api_key")
        assert "revoked" in answer.json()["error"]["message"]
    assert revoked["revoked"] is not None
    assert operator.delete(f"/admin/v1/keys/{made['id']}").json() == revoked  # once is enough
    assert operator.delete("/admin/v1/keys/key_none").status_code == 404


def test_a_key_expires(gateway: Served, operator: httpx.Client) -> None:
    expires = time.time() + 0.5
    made = make(operator, "query", expires=expires)
    with holder(gateway, made["key"]) as client:
        before = 0.0
        while before <= expires:
            before, answer, after = time.time(), client.get("/v1/models"), time.time()
            assert answer.status_code == 200 or after > expires
        assert answer.status_code == 401
        assert "expired" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "asked",
    [
        {"name": ""}, {"name": "x" * 201}, {"name": "a\nb"}, {"name": 5}, {},
        {"name": "x", "scopes": []}, {"name": "x", "scopes": ["root"]}, {"name": "x", "scopes": "query"},
        {"name": "x", "expires": 1.0}, {"name": "x", "expires": 1e300}, {"name": "x", "expires": "soon"},
        {"name": "x", "scope": ["query"]},
    ],
    ids=lambda asked: str(asked)[:40],
)  # fmt: skip
def test_impossible_keys_are_not_made(operator: httpx.Client, asked: dict[str, Any]) -> None:
    before = operator.get("/admin/v1/keys").json()
    answer = operator.post("/admin/v1/keys", json=asked)
    assert (answer.status_code, code(answer)) == (400, "invalid_request")
    assert operator.get("/admin/v1/keys").json() == before


def routes_of_the_application() -> set[tuple[str, str]]:
    found = {("POST", path) for path in ENDPOINTS}
    for module in pkgutil.iter_modules(routes.__path__, f"{routes.__name__}."):
        router = getattr(importlib.import_module(module.name), "router", None)
        for route in router.routes if router else ():
            found |= {(method, route.path) for method in route.methods}
    return found


def test_the_table_has_every_route() -> None:
    assert routes_of_the_application() == set(ROUTES)


@pytest.mark.parametrize("scope", [*SCOPES, "no key", "revoked"])
def test_every_scope_on_every_route(gateway: Served, operator: httpx.Client, scope: str) -> None:
    made = make(operator, scope if scope in SCOPES else OPERATOR)
    if scope == "revoked":
        operator.delete(f"/admin/v1/keys/{made['id']}")
    with holder(gateway, made["key"]) as client:
        if scope == "no key":
            del client.headers["Authorization"]
        for (method, template), allowed in ROUTES.items():
            answer = client.request(method, filled(template), json=body_for(method, template))
            if allowed is PUBLIC or scope in allowed:
                expected = "let in"
            else:
                expected = "403 not_allowed" if scope in SCOPES else "401 invalid_api_key"
            refused = answer.status_code in (401, 403)
            seen = f"{answer.status_code} {code(answer)}" if refused else "let in"
            assert (method, template, seen) == (method, template, expected)
            assert answer.status_code < 500


def filled(template: str) -> str:
    """A path of that route which names nothing that is there."""
    return re.sub(r"\{[^}]*\}", "nothing", template)


_WANTED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT, "/v1/embeddings": {"input": "x"}, "/detokenize": {"tokens": [1]},
}  # fmt: skip


def body_for(method: str, template: str) -> dict[str, Any] | None:
    """A body that changes nothing, whoever sends it."""
    if template in ENDPOINTS:
        return {"model": "echo"} | _WANTED.get(template, {"prompt": "x"})
    return {} if method in ("POST", "PUT", "PATCH") else None


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/admin/v1/keys", "/admin/v1/models", "/v1/files"])
def test_without_a_key_no_body_is_read(gateway: Served, path: str) -> None:
    """The answer is there before the body: nobody without a key fills our memory or makes us parse."""
    address = ("127.0.0.1", int(gateway.url.rpartition(":")[2]))
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 999999999\r\n\r\n"
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(head.encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")
    assert httpx.post(gateway.url + path, content=b"{ not JSON").status_code == 401


def test_large_bodies_are_refused_on_admin_routes_too(operator: httpx.Client) -> None:
    def parts() -> Iterator[bytes]:
        yield from (b"x" * 500_000 for _ in range(10))

    for content in (b"x" * 5_000_000, parts()):
        answer = operator.post("/admin/v1/keys", content=content)
        assert (answer.status_code, code(answer)) == (413, "body_too_large")


def test_run_records_are_their_owners_and_the_operators(gateway: Served, operator: httpx.Client) -> None:
    ada, bob = make(operator, "query", name="Ada"), make(operator, "query", name="Bob")
    with holder(gateway, ada["key"]) as hers, holder(gateway, bob["key"]) as his:
        run_id = hers.post("/v1/chat/completions", json=CHAT).headers["x-request-id"]
        record = hers.get(f"/admin/v1/runs/{run_id}").json()
        assert (record["key_id"], record["outcome"]) == (ada["id"], "completed")
        answer = his.get(f"/admin/v1/runs/{run_id}")
        assert (answer.status_code, code(answer)) == (404, "not_found")
        missing = his.get("/admin/v1/runs/req_00000000000000000000000000")
        same = [text.partition("run ")[0] for text in (answer.text, missing.text)]
        assert same[0] == same[1]  # whether there is such a run is not told
        assert his.get("/admin/v1/runs").json() == {"data": [], "has_more": False}
        assert his.get("/admin/v1/runs", params={"key": ada["id"]}).json()["data"] == []
        assert [run["id"] for run in hers.get("/admin/v1/runs").json()["data"]] == [run_id]
    assert operator.get(f"/admin/v1/runs/{run_id}").json() == record
    listed = operator.get("/admin/v1/runs", params={"key": ada["id"]}).json()
    assert listed == {"data": [record], "has_more": False}


def test_refused_callers_leave_no_record(gateway: Served, operator: httpx.Client) -> None:
    newest = operator.get("/admin/v1/runs", params={"limit": 1}).json()
    assert httpx.post(f"{gateway.url}/v1/chat/completions", json=CHAT).status_code == 401
    assert operator.get("/admin/v1/runs", params={"limit": 1}).json() == newest


@pytest.mark.slow
def test_keys_from_the_command_line(gateway: Served) -> None:
    made = json.loads(command(gateway, "keys", "create", "Grace", "--scope", "embed", "--expires", "1d", "--json"))
    assert made["scopes"] == ["embed"]
    assert abs(made["expires"] - time.time() - 86400) < 60
    with holder(gateway, made["key"]) as client:
        assert client.post("/v1/embeddings", json={"model": "echo", "input": "x"}).status_code == 200
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 403
        assert made["id"] in command(gateway, "keys", "list")
        assert "revoked" in command(gateway, "keys", "revoke", made["id"])
        assert client.post("/v1/embeddings", json={"model": "echo", "input": "x"}).status_code == 401


def command(gateway: Served, *arguments: str) -> str:
    """What a command prints on the gateway's own machine."""
    environment = os.environ | {"TERASCOPE_DATA_DIR": str(gateway.data_dir)}
    program = [sys.executable, "-m", "terascope", *arguments]
    return subprocess.run(program, capture_output=True, text=True, check=True, timeout=60, env=environment).stdout
