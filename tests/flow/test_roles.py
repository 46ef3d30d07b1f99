"""Every route of projects, every role, every outcome, over HTTP."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from terascope.testing.gateway import Served, running_gateway

CHAT = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
ROLES = ("operator", "pi", "member", "auditor", "pi of another project", "no key")
FREE, DENIED, HIDDEN, STRANGER = "let in", "403 not_allowed", "404 not_found", "401 invalid_api_key"


@dataclass(frozen=True)
class Route:
    """A request, and its outcome for each of ROLES but the last, who always gets 401."""

    method: str
    path: str
    outcomes: tuple[str, str, str, str, str]
    body: dict[str, Any] | None = None
    headers: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


MODES = ["query", "embed", "tune"]
PAYS = (("X-Terascope-Project", "climate"),)
SEEN = (FREE, FREE, FREE, FREE, HIDDEN)
MANAGED = (FREE, FREE, DENIED, DENIED, HIDDEN)
OPERATED = (FREE, DENIED, DENIED, DENIED, DENIED)
ADDED = (FREE, FREE, FREE, DENIED, HIDDEN)
USED = (FREE, FREE, FREE, DENIED, DENIED)
ROUTES = [
    Route("POST", "/v1/chat/completions", USED, CHAT, PAYS),
    Route("POST", "/v1/embeddings", USED, {"model": "echo", "input": "x"}, PAYS),
    Route("GET", "/v1/files", USED, headers=PAYS),
    Route("POST", "/v1/files", USED, {}, PAYS),
    Route("GET", "/v1/files/none", (FREE,) * 5),
    Route("GET", "/v1/files/none/content", (FREE,) * 5),
    Route("DELETE", "/v1/files/none", (FREE,) * 5),
    Route("GET", "/v1/fine_tuning/jobs", SEEN, headers=PAYS),
    Route("POST", "/v1/fine_tuning/jobs", USED, {"model": "echo", "training_file": "none"}, PAYS),
    Route("GET", "/v1/fine_tuning/jobs/none", (FREE,) * 5),
    Route("POST", "/v1/fine_tuning/jobs/none/cancel", (FREE,) * 5),
    Route("GET", "/v1/fine_tuning/jobs/none/events", (FREE,) * 5),
    Route("GET", "/v1/fine_tuning/jobs/none/checkpoints", (FREE,) * 5),
    Route("GET", "/v1/vector_stores", USED, headers=PAYS),
    Route("POST", "/v1/vector_stores", USED, {"embedding_model": "echo"}, PAYS),
    Route("GET", "/v1/vector_stores/none", (FREE,) * 5),
    Route("POST", "/v1/vector_stores/none", (FREE,) * 5, {}),
    Route("DELETE", "/v1/vector_stores/none", (FREE,) * 5),
    Route("POST", "/v1/vector_stores/none/search", (FREE,) * 5, {"query": "x"}),
    Route("GET", "/v1/vector_stores/none/files", (FREE,) * 5),
    Route("POST", "/v1/vector_stores/none/files", (FREE,) * 5, {"file_id": "x"}),
    Route("GET", "/v1/vector_stores/none/files/none", (FREE,) * 5),
    Route("POST", "/v1/vector_stores/none/files/none", (FREE,) * 5, {"attributes": {}}),
    Route("DELETE", "/v1/vector_stores/none/files/none", (FREE,) * 5),
    Route("GET", "/v1/vector_stores/none/files/none/content", (FREE,) * 5),
    Route("POST", "/v1/vector_stores/none/file_batches", (FREE,) * 5, {"file_ids": ["x"]}),
    Route("GET", "/v1/vector_stores/none/file_batches/none", (FREE,) * 5),
    Route("POST", "/v1/vector_stores/none/file_batches/none/cancel", (FREE,) * 5),
    Route("GET", "/v1/vector_stores/none/file_batches/none/files", (FREE,) * 5),
    Route("GET", "/admin/v1/projects", (FREE,) * 5),
    Route("POST", "/admin/v1/projects", OPERATED, {"name": "climate"}),
    Route("GET", "/admin/v1/projects/climate", SEEN),
    Route("PATCH", "/admin/v1/projects/climate", OPERATED, {}),
    Route("PUT", "/admin/v1/projects/climate/policies/m", OPERATED, {}),
    Route("DELETE", "/admin/v1/projects/climate/policies/none", OPERATED),
    Route("GET", "/admin/v1/projects/climate/members", SEEN),
    Route("GET", "/admin/v1/projects/climate/allocations", SEEN),
    Route("POST", "/admin/v1/projects/climate/allocations", OPERATED, {"units": 1}),
    Route("PATCH", "/admin/v1/allocations/none", OPERATED, {"ends": None}),
    Route("POST", "/admin/v1/transfers", OPERATED, {"source": "a", "target": "b", "units": 1}),
    Route("POST", "/admin/v1/refunds", OPERATED, {"run": "none"}),
    Route("GET", "/admin/v1/usage", (FREE,) * 5),
    Route("GET", "/admin/v1/usage?project=climate", SEEN),
    Route("GET", "/admin/v1/audit", OPERATED),
    Route("GET", "/admin/v1/deployments", OPERATED),
    Route("POST", "/admin/v1/deployment-preview", OPERATED, {"name": "n", "model": "m", "engine": "echo"}),
    Route("GET", "/admin/v1/deployments/none", OPERATED),
    Route("GET", "/admin/v1/deployments/none/log", OPERATED),
    Route("GET", "/admin/v1/deployments/none/events", OPERATED),
    Route("GET", "/admin/v1/status", OPERATED),
    Route("PATCH", "/admin/v1/deployments/none", OPERATED, {"replicas": 1}),
    Route("DELETE", "/admin/v1/deployments/none", OPERATED),
    Route("GET", "/admin/v1/artefacts/softprompt", (FREE,) * 5),
    Route("GET", "/admin/v1/artefacts/softprompt?project=climate", SEEN),
    Route(
        "POST",
        "/admin/v1/artefacts/softprompt",
        ADDED,
        {"project": "climate", "name": "n", "model": "echo", "data": ""},
    ),
    Route("GET", "/admin/v1/artefacts/softprompt/climate/none", (FREE,) * 5),
    Route("PUT", "/admin/v1/artefacts/softprompt/climate/none/shared_with", MANAGED, {"projects": []}),
    Route("DELETE", "/admin/v1/artefacts/softprompt/climate/none", (FREE,) * 5),
    Route("GET", "/admin/v1/reservations", (FREE,) * 5),
    Route("GET", "/admin/v1/reservations?project=climate", SEEN),
    Route("POST", "/admin/v1/reservations", OPERATED, {"project": "climate", "model": "m", "slots": 1, "ends": 1e10}),
    Route("DELETE", "/admin/v1/reservations/none", OPERATED),
    Route("PUT", "/admin/v1/prices/none", OPERATED, {"prompt": 1, "output": 1}),
    Route("DELETE", "/admin/v1/prices/none", OPERATED),
    Route("GET", "/v1/me", (FREE,) * 5),
    Route("GET", "/admin/v1/keys", OPERATED),
    Route("GET", "/admin/v1/keys?project=climate", MANAGED),
    Route("POST", "/admin/v1/keys", MANAGED, {"name": "for grace", "user": "grace", "project": "climate"}),
    Route(
        "POST",
        "/admin/v1/keys",
        (*OPERATED[:4], HIDDEN),
        {"name": "root", "project": "climate", "scopes": ["operator"]},
    ),
    Route("DELETE", "/admin/v1/keys/key_of_nobody", OPERATED),
    Route("GET", "/admin/v1/service-accounts", (FREE,) * 5),
    Route("GET", "/admin/v1/service-accounts?project=climate", SEEN),
    Route("POST", "/admin/v1/service-accounts", MANAGED, {"project": "climate", "name": "nightly"}),
    Route("DELETE", "/admin/v1/service-accounts/climate/none", MANAGED),
    Route("PUT", "/admin/v1/projects/climate/members/grace", MANAGED, {"role": "auditor"}),
    Route("DELETE", "/admin/v1/projects/climate/members/nobody", MANAGED),
]


@pytest.fixture(scope="module")
def gateway() -> Iterator[Served]:
    with running_gateway() as served:
        yield served


@pytest.fixture(scope="module")
def clients(gateway: Served) -> Iterator[dict[str, httpx.Client]]:
    """A client for each role, in the project `climate`."""
    made = {role: httpx.Client(base_url=gateway.url, timeout=30) for role in ROLES}
    operator = made["operator"]
    operator.headers.update(gateway.headers)
    for name in ("climate", "ocean"):
        sent(operator, "POST", "/admin/v1/projects", {"name": name, "pi": f"pi of {name}"})
        sent(operator, "PUT", f"/admin/v1/projects/{name}/policies/*", {"modes": MODES})
        sent(operator, "POST", f"/admin/v1/projects/{name}/allocations", {"units": 1000})
    sent(operator, "PUT", "/admin/v1/projects/climate/members/auditor", {"role": "auditor"})
    users = {"pi": "pi of climate", "member": "member", "auditor": "auditor", "pi of another project": "pi of ocean"}
    for role, user in users.items():
        asked = {
            "scopes": MODES,
            "name": role,
            "user": user,
            "project": "ocean" if role == "pi of another project" else "climate",
        }
        made[role].headers["Authorization"] = f"Bearer {sent(operator, 'POST', '/admin/v1/keys', asked)['key']}"
    yield made
    for client in made.values():
        client.close()


def sent(client: httpx.Client, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.request(method, path, json=body)
    assert answer.is_success, answer.text
    return dict(answer.json())


def outcome(answer: httpx.Response) -> str:
    """How a request went; not finding something below the project, or a conflict, counts as let in."""
    if answer.status_code == 404 and "that you are a member of" in answer.text:
        return HIDDEN
    return f"{answer.status_code} {answer.json()['error']['code']}" if answer.status_code in (401, 403) else FREE


@pytest.mark.parametrize("route", ROUTES, ids=str)
@pytest.mark.parametrize("role", ROLES)
def test_every_role_on_every_route(clients: dict[str, httpx.Client], route: Route, role: str) -> None:
    answer = clients[role].request(route.method, route.path, json=route.body, headers=dict(route.headers))
    expected = STRANGER if role == "no key" else route.outcomes[ROLES.index(role)]
    assert outcome(answer) == expected, answer.text
    assert answer.status_code < 500


def test_a_pi_sees_her_own_project_only(clients: dict[str, httpx.Client]) -> None:
    names = {role: [one["name"] for one in seen(clients[role])] for role in ROLES[:-1]}
    assert names["operator"] == ["climate", "local", "ocean"]
    assert names["pi"] == names["member"] == names["auditor"] == ["climate"]
    assert names["pi of another project"] == ["ocean"]
    assert [one["role"] for one in seen(clients["pi"])] == ["pi"]


def seen(client: httpx.Client) -> list[dict[str, Any]]:
    return list(client.get("/admin/v1/projects").json()["data"])


def test_whether_a_hidden_project_exists_is_not_told(clients: dict[str, httpx.Client]) -> None:
    other = clients["pi of another project"]
    hidden, missing = (other.get(f"/admin/v1/projects/{name}").json()["error"] for name in ("climate", "missing"))
    assert hidden["message"].replace("climate", "missing") == missing["message"]


@pytest.mark.parametrize("qos", ["never", "", "Batch"])
def test_an_unknown_qos_is_refused(clients: dict[str, httpx.Client], qos: str) -> None:
    answer = clients["pi"].post("/v1/chat/completions", json=CHAT, headers={"X-Terascope-QOS": qos})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "X-Terascope-QOS")
    assert clients["pi"].post("/v1/chat/completions", json=CHAT, headers={"X-Terascope-QOS": "batch"}).is_success
    denied = clients["pi"].post("/v1/chat/completions", json=CHAT, headers={"X-Terascope-QOS": "urgent"})
    assert denied.status_code == 403
