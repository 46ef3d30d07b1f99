"""Files for Kubernetes and for Docker Compose."""

import re
import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from terascope.core.errors import BadRequest
from terascope.planner.disaggregated import Split
from terascope.planner.emit.commands import (
    ANSWER,
    BOOTSTRAP,
    PORT,
    PROMPT,
    ROUTER_PORT,
    Node,
    command,
    copies_on_a_node,
    nodes_of,
    router,
)
from terascope.planner.emit.environment import IMAGES, KEY, RESOURCES, ROUTERS, VISIBLE, fabric
from terascope.planner.search import Plan, Plans

_SHARED_MEMORY = "64Gi"
_MODELS = "/models"
_PYTHON = "python:3.11-slim"


def kubernetes(plans: Plans, plan: Plan) -> Mapping[str, str]:
    """A StatefulSet for each copy whose pods are its nodes, with the services that lead to them, in one file."""
    documents: list[Any] = []
    for copy in range(plan.copies):
        name = f"{_name(plans)}-{copy}"
        documents += [_inner_service(name), _service(name), _stateful_set(plans, plan, name)]
    head = (
        f"# {plans.shapes.name}, {plan.layout.name}, {plan.layout.weights.name}, "
        f"{plan.copies} x {plan.layout.gpus} GPUs.\n"
        f"# Make the secret first: kubectl create secret generic {_name(plans)} --from-literal=key=...\n"
        f"# and a volume claim `models` with the weights below {_MODELS}.\n"
    )
    return {"serve.yaml": head + yaml.safe_dump_all(documents, sort_keys=False, width=110)}


def kubernetes_apart(plans: Plans, split: Split) -> Mapping[str, str]:
    """The same for copies for prompts and copies for answers, and a router before them with a service of its own."""
    documents: list[Any] = []
    names: dict[str, list[str]] = {PROMPT: [], ANSWER: []}
    for part, plan in ((PROMPT, split.prompt), (ANSWER, split.answer)):
        for copy in range(plan.copies):
            name = f"{_name(plans)}-{part}-{copy}"
            names[part].append(f"http://{name}:{PORT}")
            documents += [_inner_service(name), _service(name), _stateful_set(plans, plan, name, part)]
    prompts = [(one, str(BOOTSTRAP)) for one in names[PROMPT]]
    documents += _router(plans, router(plans, prompts, names[ANSWER]))
    head = (
        f"# {plans.shapes.name}, prompts | answers: {split.name}.\n"
        f"# Make the secret first: kubectl create secret generic {_name(plans)} --from-literal=key=...\n"
        f"# and a volume claim `models` with the weights below {_MODELS}.\n"
        "# The router is installed when its pod starts; where there is no network, take an image that has it.\n"
        "# It asks nobody for a secret: let only the gateway reach its service.\n"
    )
    return {"serve.yaml": head + yaml.safe_dump_all(documents, sort_keys=False, width=110)}


def compose(plans: Plans, plan: Plan) -> Mapping[str, str]:
    """A service for each copy, on one machine. Raises `BadRequest` for copies that need several."""
    if nodes_of(plans, plan) > 1 or plan.copies > copies_on_a_node(plans, plan):
        raise BadRequest(
            f"{plan.copies} x {plan.layout.gpus} GPUs are more than one machine, and Compose starts containers on one; "
            "emit slurm, pbs or kubernetes, or plan for one node",
            param="emit",
        )
    services = {f"copy-{copy}": _compose_service(plans, plan, copy) for copy in range(plan.copies)}
    head = f"# {plans.shapes.name}, {plan.layout.name}. Run: {KEY}=... MODELS=/where/weights/are docker compose up\n"
    return {"compose.yaml": head + yaml.safe_dump({"services": services}, sort_keys=False, width=110)}


def _router(plans: Plans, words: list[str]) -> list[dict[str, Any]]:
    """The router's deployment and its service."""
    name = f"{_name(plans)}-router"
    secret = {"secretKeyRef": {"name": _name(plans), "key": "key"}}
    container = {
        "name": "router",
        "image": _PYTHON,
        "command": ["bash", "-c", f"pip install {ROUTERS[plans.wish.engine]} && exec {shlex.join(words)}"],
        "env": [{"name": "OPENAI_API_KEY", "valueFrom": secret}],  # what vLLM's router shows to the copies
        "ports": [{"containerPort": ROUTER_PORT}],
    }
    pod = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}}
    ports = [{"port": ROUTER_PORT, "targetPort": ROUTER_PORT}]
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": pod},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": ports},
        },
    ]


def _compose_service(plans: Plans, plan: Plan, copy: int) -> dict[str, Any]:
    gpus = plan.layout.gpus
    chosen = [str(copy * gpus + n) for n in range(gpus)]
    service: dict[str, Any] = {
        "image": _image(plans),
        "entrypoint": [],
        "command": command(plans, plan, Node(0, "localhost", model=_path(plans))),
        "environment": {KEY: f"${{{KEY}:?set it to a secret}}", "HF_HUB_OFFLINE": "1", **fabric(plans.cluster)},
        "ipc": "host",
        "ports": [f"127.0.0.1:{PORT + copy}:{PORT}"],
        "volumes": [f"${{MODELS:?directory with the weights}}:{_MODELS}:ro"],
        "restart": "unless-stopped",
    }
    if plans.cluster.gpu.vendor == "nvidia":
        devices = [{"driver": "nvidia", "device_ids": chosen, "capabilities": ["gpu"]}]
        return service | {"deploy": {"resources": {"reservations": {"devices": devices}}}}
    service["environment"] |= {VISIBLE[plans.cluster.gpu.vendor]: ",".join(chosen)}
    return service | {"devices": ["/dev/kfd", "/dev/dri"] if plans.cluster.gpu.vendor == "amd" else ["/dev/dri"]}


def _inner_service(name: str) -> dict[str, Any]:
    """Gives each pod a name by which the others find it, before it is ready."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"{name}-nodes"},
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {"app": name},
            "ports": [{"port": PORT}],
        },
    }


def _service(name: str) -> dict[str, Any]:
    """Leads to the pod that answers."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {
            "selector": {"app": name, "apps.kubernetes.io/pod-index": "0"},
            "ports": [{"port": PORT, "targetPort": PORT}],
        },
    }


def _stateful_set(plans: Plans, plan: Plan, name: str, part: str = "") -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name},
        "spec": {
            "replicas": nodes_of(plans, plan),
            "podManagementPolicy": "Parallel",
            "serviceName": f"{name}-nodes",
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "containers": [_container(plans, plan, name, part)],
                    "volumes": [
                        {"name": "models", "persistentVolumeClaim": {"claimName": "models", "readOnly": True}},
                        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": _SHARED_MEMORY}},
                    ],
                    **({"nodeSelector": {"kubernetes.io/arch": "arm64"}} if plans.cluster.gpu.arm else {}),
                },
            },
        },
    }


def _container(plans: Plans, plan: Plan, name: str, part: str) -> dict[str, Any]:
    gpus = min(plan.layout.gpus, plans.cluster.gpu.node)
    rank = {"fieldRef": {"fieldPath": "metadata.labels['apps.kubernetes.io/pod-index']"}}
    address = {"fieldRef": {"fieldPath": "status.podIP"}}
    secret = {"secretKeyRef": {"name": _name(plans), "key": "key"}}
    answers = {"httpGet": {"path": "/health", "port": PORT}, "periodSeconds": 10, "failureThreshold": 360}
    container = {
        "name": "engine",
        "image": _image(plans),
        "command": ["bash", "-c", _by_rank(plans, plan, name, part)],
        "env": [
            {"name": "RANK", "valueFrom": rank},
            {"name": KEY, "valueFrom": secret},
            {"name": "HF_HUB_OFFLINE", "value": "1"},
            *(
                [{"name": "VLLM_NIXL_SIDE_CHANNEL_HOST", "valueFrom": address}]
                if part and plans.wish.engine == "vllm"
                else []
            ),
            *({"name": key, "value": value} for key, value in fabric(plans.cluster).items()),
        ],
        "ports": [{"containerPort": PORT}],
        "resources": {"limits": {RESOURCES[plans.cluster.gpu.vendor]: gpus}},
        "volumeMounts": [
            {"name": "models", "mountPath": _MODELS, "readOnly": True},
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - in a container, where NCCL looks for it
        ],
    }
    # Only the first pod answers HTTP, and all pods of a set have the same probes.
    return container | ({"startupProbe": answers} if nodes_of(plans, plan) == 1 else {})


def _by_rank(plans: Plans, plan: Plan, name: str, part: str) -> str:
    head = f"{name}-0.{name}-nodes"
    lines = [
        f"{rank}) exec {shlex.join(command(plans, plan, Node(rank, head, model=_path(plans), part=part)))} ;;"
        for rank in range(nodes_of(plans, plan))
    ]
    return "\n".join(["case $RANK in", *lines, "esac", ""])


def _path(plans: Plans) -> str:
    return f"{_MODELS}/{plans.shapes.name}"


def _image(plans: Plans) -> str:
    engine, vendor = plans.wish.engine, plans.cluster.gpu.vendor
    if (engine, vendor) not in IMAGES:
        raise BadRequest(f"no container image of {engine} for {vendor} GPUs is known; emit slurm or pbs", param="emit")
    return IMAGES[engine, vendor]


def _name(plans: Plans) -> str:
    """A name that Kubernetes takes."""
    return re.sub(r"[^a-z0-9-]+", "-", plans.shapes.name.rpartition("/")[2].lower()).strip("-")[:40] or "model"
