"""The manifests of the page on Kubernetes: Kubernetes' schemas take them, and their parts fit each other."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate import validate

from terascope.cli.app import run
from terascope.cli.settings import parse

_FILE = Path(__file__).parents[2] / "docs" / "how-to" / "files" / "terascope-kubernetes.yaml"
_PLAN = ("plan", "qwen3-8b", "--on", "1x8xH100", "--users", "200", "--into")


def manifests(path: Path = _FILE) -> dict[str, dict[str, Any]]:
    """The manifests of a file by kind and name."""
    return {f"{one['kind']}/{one['metadata']['name']}": one for one in yaml.safe_load_all(path.read_text())}


@pytest.mark.parametrize("name", manifests())
def test_kubernetes_takes_it(name: str) -> None:
    validate(manifests()[name], "1.31", strict=True)


def test_the_gateway_s_parts_fit_each_other() -> None:
    found = manifests()
    spec = found["Deployment/terascope"]["spec"]
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    for volume in pod["volumes"]:
        claim, settings = volume.get("persistentVolumeClaim"), volume.get("configMap")
        assert (
            f"PersistentVolumeClaim/{claim['claimName']}" in found
            if claim
            else f"ConfigMap/{settings['name']}" in found
        )
    assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
    assert found["Service/terascope"]["spec"]["selector"].items() <= spec["template"]["metadata"]["labels"].items()
    assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
    assert spec["strategy"] == {"type": "Recreate"}


def test_the_engines_of_the_page_are_those_that_the_gateway_asks(tmp_path: Path) -> None:
    """The steps of the page, up to the cluster: what the planner wrote is what the configuration names."""
    for target in ("kubernetes", "deploy"):
        assert run([*_PLAN, str(tmp_path), "--emit", target]) == 0
    engines = manifests(tmp_path / "serve.yaml")
    for one in engines.values():
        validate(one, "1.31", strict=True)
    [deployment, *_] = parse(yaml.safe_load(manifests()["ConfigMap/terascope"]["data"]["terascope.yaml"])).deployments
    wanted = parse(yaml.safe_load((tmp_path / "terascope.yaml").read_text())).deployments[0]
    assert (deployment.name, deployment.served_name) == (wanted.name, wanted.served_name)
    assert f"Service/{deployment.url.removeprefix('http://').removesuffix(':8000')}" in engines
    variables = manifests()["Deployment/terascope"]["spec"]["template"]["spec"]["containers"][0]["env"]
    [ours] = [one["valueFrom"] for one in variables if one["name"] == deployment.api_key_env]
    engine = engines[f"StatefulSet/{deployment.name}"]["spec"]["template"]["spec"]["containers"][0]
    assert ours in [one.get("valueFrom") for one in engine["env"]]
