"""What traces may take, by plan and by day, and what is held for them: through the whole gateway."""

import asyncio
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from terascope.cli import settings
from terascope.core.config import (
    DEFAULT_MODELS,
    Config,
    DeploymentConfig,
    InternalsConfig,
    LimitConfig,
    LimitsConfig,
    ServerConfig,
)
from terascope.core.prices import formula, units
from terascope.testing.gateway import Served, running_gateway

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
MODEL = "smollm2-135m-instruct"
PROMPT = "The Eiffel Tower is in"  # 6 tokens
ROW = 6 * 576 * 4  # bytes of a residual stream
CONFIG = Config(
    models={MODEL: DEFAULT_MODELS[MODEL]},
    deployments=[DeploymentConfig(model=MODEL, max_batch=2, options={"extra_rows": "0"})],
    internals=InternalsConfig(gradient_tokens=60, prompts=8),
    limits=LimitsConfig(projects={"daily": LimitConfig(captured_bytes_per_day=10 * ROW, gradient_tokens_per_day=20)}),
)
PLAN: dict[str, Any] = {
    "model": MODEL,
    "prompts": [PROMPT],
    "operations": [{"capture": "blocks.3.residual.post", "name": "x"}],
}
PRICE = formula(134_515_008)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="module")
def gateway(data: Path) -> Iterator[Served]:
    with running_gateway(CONFIG, data_dir=data, cache_dir=settings.cache_dir()) as served:
        yield served


def member(served: Served, project: str, units: float = 0) -> httpx.Client:
    """A client with a key of `project`, which is made with so many service units."""
    with httpx.Client(base_url=served.url, headers=served.headers, timeout=60) as operator:
        made = operator.post("/admin/v1/projects", json={"name": project, "pi": "ada"})
        if made.status_code == 200 or made.status_code == 201:
            policy = {"modes": ["query", "internals"], "qos": ["interactive"]}
            assert operator.put(f"/admin/v1/projects/{project}/policies/*", json=policy).is_success
        if units:
            given = operator.post(f"/admin/v1/projects/{project}/allocations", json={"units": units})
            assert given.is_success, given.text
        asked = {"name": "ada", "scopes": ["query", "internals"], "project": project}
        key = operator.post("/admin/v1/keys", json=asked).json()["key"]
    return httpx.Client(base_url=served.url, headers={"Authorization": f"Bearer {key}"}, timeout=60)


def left(served: Served, project: str) -> tuple[float, float]:
    """Service units that the project has, and of them those that are held."""
    rows = httpx.get(f"{served.url}/admin/v1/projects/{project}/allocations", headers=served.headers).json()["data"]
    return rows[0]["balance"], rows[0]["held"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompts": ["a"] * 9}, "8"),
        ({"gradient": {"of": {"logit": 5}, "with_respect_to": ["norm"], "method": "integrated_gradients",
                       "steps": 11}}, "66 gradient tokens, and 60 are allowed"),
        ({"prompts": [{"tokens": [5] * 8192}] * 8, "operations": [{"capture": "logits"}]}, "memory bytes, and"),
    ],
)  # fmt: skip
def test_a_plan_over_a_limit_is_refused_before_it_runs(gateway: Served, changes: dict[str, Any], words: str) -> None:
    answer = httpx.post(f"{gateway.url}/v1/traces", json=PLAN | changes, headers=gateway.headers, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert words in answer.json()["error"]["message"]


def test_a_dry_run_says_what_it_costs_and_costs_nothing(gateway: Served) -> None:
    with member(gateway, "poor") as client:
        dry = client.post("/v1/traces", json=PLAN | {"dry_run": True, "stream": True})
        assert dry.status_code == 200, dry.text
        estimate = dry.json()["estimate"]
        assert (estimate["captured_bytes"], estimate["prompt_tokens"]) == (ROW, 6)
        cost = units(PRICE.cost(6, 0) + math.ceil(ROW / 4096))
        assert estimate["service_units"] == pytest.approx(cost)
        refused = client.post("/v1/traces", json=PLAN)
        assert (refused.status_code, refused.json()["error"]["code"]) == (402, "allocation_exhausted")
        [run, free] = client.get("/admin/v1/runs?limit=2").json()["data"]
        assert (free["service_units"], free["outcome"]) == (0, "completed")
        assert (run["attempts"], run["outcome"]) == (0, "refused")


def test_just_enough_is_enough_however_large_the_arrays_are(gateway: Served) -> None:
    """What is held is what the engine says that it takes: arrays count as nothing, and afterwards nothing is left."""
    cost = units(PRICE.cost(6, 0) + math.ceil(ROW / 4096))
    with member(gateway, "exact", cost) as client:
        arrays = {"v": [[0.0] * 576] * 500}
        answer = client.post("/v1/traces", json=PLAN | {"arrays": arrays})
        assert answer.status_code == 200, answer.text
        assert left(gateway, "exact") == (0.0, 0.0)
        assert client.post("/v1/traces", json=PLAN).status_code == 402
        bad = client.post("/v1/traces", json=PLAN | {"operations": [{"capture": "blocks.3.residual.pots"}]})
        assert (bad.status_code, "did you mean" in bad.json()["error"]["message"]) == (400, True)


async def test_what_runs_at_once_keeps_the_day_together(gateway: Served) -> None:
    with member(gateway, "daily", 10) as client:
        async with httpx.AsyncClient(base_url=gateway.url, headers=client.headers, timeout=60) as many:
            plan = PLAN | {"prompts": [PROMPT] * 3}
            answers = await asyncio.gather(*(many.post("/v1/traces", json=plan) for _ in range(8)))
        assert sorted(one.status_code for one in answers) == [200] * 3 + [429] * 5
        refused = next(one for one in answers if one.status_code == 429)
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert f"the project daily may have {10 * ROW:,} a day, of which" in refused.json()["error"]["message"]
        assert 0 < int(refused.headers["retry-after"]) <= 86_400
        assert int(refused.headers["x-ratelimit-remaining-captured-bytes"]) < 3 * ROW
        record = next(one for one in client.get("/admin/v1/runs").json()["data"] if one["status"] == 200)
        assert record["parameters"]["used"] == {"captured_bytes": 3 * ROW}
        more = client.post("/v1/traces", json=PLAN | {"prompts": [PROMPT] * 8, "operations": []})
        assert more.status_code == 200  # captures nothing
        gradient = {"of": {"logit": 5}, "with_respect_to": ["embeddings"], "method": "integrated_gradients", "steps": 4}
        back = client.post("/v1/traces", json=PLAN | {"operations": [], "gradient": gradient})
        assert (back.status_code, "24 gradient tokens" in back.json()["error"]["message"]) == (400, True)


def test_a_restart_forgets_nothing_of_the_day(tmp_path: Path) -> None:
    """Less of the day may be left afterwards than one trace takes."""
    limits = LimitsConfig(project=LimitConfig(captured_bytes_per_day=ROW + 1))
    config = Config(
        models=CONFIG.models, deployments=CONFIG.deployments, limits=limits, server=ServerConfig(drain_s=1.0)
    )
    found = []
    for _ in range(2):
        with running_gateway(config, data_dir=tmp_path, cache_dir=settings.cache_dir()) as served:
            found.append(httpx.post(f"{served.url}/v1/traces", json=PLAN, headers=served.headers, timeout=60))
    assert [one.status_code for one in found] == [200, 429]
    assert f"{ROW + 1:,} a day, of which 1 are left" in found[1].json()["error"]["message"]


def test_a_client_that_leaves_a_stream_has_used_what_it_got(gateway: Served) -> None:
    """It leaves at the first row of three; as two are computed at once, the last is far from its end by then."""
    plan = PLAN | {"prompts": [PROMPT] * 2 + [{"tokens": [5] * 6}], "max_tokens": 60, "ignore_eos": True}
    with member(gateway, "leaver", 10) as client:
        with client.stream("POST", "/v1/traces", json=plan | {"stream": True, "operations": []}) as answer:
            next(line for line in answer.iter_lines() if line.startswith("data:"))
        # nothing is read any more; the record is written when the gateway has noticed
        end = time.monotonic() + 60
        while not (runs := client.get("/admin/v1/runs").json()["data"]):
            assert time.monotonic() < end
            time.sleep(0.01)
        assert (runs[0]["outcome"], runs[0]["prompt_tokens"]) == ("cancelled", 18)
