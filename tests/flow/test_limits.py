"""429 over HTTP, as OpenAI's clients know it."""

from collections.abc import Iterator

import httpx
import pytest

from terascope.core.config import Config, DeploymentConfig, LimitConfig, LimitsConfig
from terascope.testing.gateway import Served, running_gateway

CHAT = {"model": "echo", "messages": [{"role": "user", "content": "one two"}]}
LIMITED = Config(
    deployments=[DeploymentConfig(model="echo", engine="echo", launcher="inprocess")],
    limits=LimitsConfig(key=LimitConfig(requests_per_minute=3, tokens_per_minute=10_000)),
)


@pytest.fixture(scope="module")
def gateway() -> Iterator[Served]:
    with running_gateway(LIMITED) as served:
        yield served


@pytest.mark.parametrize("stream", [True, False])
def test_the_fourth_request_of_a_minute_is_refused(gateway: Served, stream: bool) -> None:
    made = httpx.post(f"{gateway.url}/admin/v1/keys", json={"name": "ada"}, headers=gateway.headers).json()
    with httpx.Client(base_url=gateway.url, headers={"Authorization": f"Bearer {made['key']}"}, timeout=30) as client:
        answers = [client.post("/v1/chat/completions", json=CHAT | {"stream": stream}) for _ in range(4)]
        assert [one.status_code for one in answers] == [200, 200, 200, 429]
        assert [one.headers["x-ratelimit-remaining-requests"] for one in answers[:3]] == ["2", "1", "0"]
        assert answers[0].headers["x-ratelimit-limit-tokens"] == "10000"
        refused = answers[3]
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(refused.headers["retry-after"]) <= 20
        assert refused.headers["x-ratelimit-limit-requests"] == "3"
        assert client.get("/v1/models").status_code == 200  # what asks no model is not limited
        [record] = [run for run in client.get("/admin/v1/runs").json()["data"] if run["status"] == 429]
        assert (record["outcome"], record["service_units"], record["attempts"]) == ("refused", 0, 0)
