"""schemathesis reads our OpenAPI and sends thousands of requests made from it, right and wrong, to every route."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from terascope.core.config import DEFAULT_MODELS
from terascope.core.models import Mode
from terascope.protocol.request import ENDPOINTS
from terascope.testing.gateway import Served, running_gateway

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_route_withstands_generated_requests(tmp_path: Path, set_environment: Callable[[str, str], None]) -> None:
    """No answer is a 5xx, every error is in shape, and what the description promises holds.

    The gateway is its own, since models and keys come and go. The key is the one of this machine's operator, which
    no request can revoke. Nothing can be fetched, should a generated source ever name a registry.
    """
    set_environment("PIP_NO_INDEX", "1")
    set_environment("HF_HUB_OFFLINE", "1")
    with running_gateway() as served:
        for example in DEFAULT_MODELS:  # the description's examples name these
            alias = f"{served.url}/admin/v1/models/aliases/{example}"
            assert httpx.put(alias, json={"target": "echo"}, headers=served.headers).status_code == 200
        done = schemathesis(served, tmp_path)
        assert done.returncode == 0, done.stdout[-20_000:]
        counts = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
        assert counts, done.stdout[-2000:]
        assert counts[1] == counts[2]
        assert int(counts[1]) > 1000
        offered = {endpoint for endpoint, mode in ENDPOINTS.values() if mode is not Mode.INTERNALS}
        assert completed(served) == offered  # the echo engine has no inside


def schemathesis(served: Served, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run it as its users do, from its command line."""
    command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(HERE / "schemathesis.toml")]
    command += ["run", f"{served.url}/openapi.json", "--no-color"]
    command += ["--header", f"Authorization: Bearer {served.services.access.local_token}"]
    environment = os.environ | {"SCHEMATHESIS_HOOKS": str(HERE / "schemathesis_checks.py")}
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False, timeout=280
    )


def completed(served: Served) -> set[str]:
    """The endpoints that answered some of the requests with 200: what was sent did reach the engine."""
    families = text_string_to_metric_families(httpx.get(f"{served.url}/metrics").text)
    samples = [sample for family in families for sample in family.samples if sample.name == "terascope_requests_total"]
    return {sample.labels["endpoint"] for sample in samples if sample.labels["outcome"] == "completed"}
