"""The part of `terascope.yaml` that serves a plan."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from terascope.planner.emit.commands import PORT, context, copies_on_a_node
from terascope.planner.emit.environment import KEY
from terascope.planner.search import Plan, Plans


def deploy(plans: Plans, plan: Plan) -> Mapping[str, str]:
    """Models and deployments: servers that are already there, or the torch worker, which the gateway starts."""
    written = _torch(plans, plan) if plans.wish.engine == "torch" else _remote(plans, plan)
    head = f"# {plans.shapes.name}, {plan.layout.name}, {plan.layout.weights.name}, on {plans.cluster.name}.\n"
    if plans.wish.engine != "torch":
        head += "# Write the address of each copy's first node in place of HOST-n.\n"
    return {"terascope.yaml": head + yaml.safe_dump(written, sort_keys=False, width=110)}


def deploy_router(plans: Plans, what: str, at_once: int, port: int) -> Mapping[str, str]:
    """A deployment that is the router before copies for prompts and copies for answers."""
    one = {
        "name": _name(plans),
        "model": _name(plans),
        "engine": "remote",
        "url": f"http://HOST:{port}",
        "served_name": plans.shapes.name,
        "max_in_flight": max(1, at_once),
    }
    head = f"# {plans.shapes.name}, prompts | answers: {what}, on {plans.cluster.name}.\n"
    head += "# Write the address of the job's first node in place of HOST.\n"
    return {"terascope.yaml": head + yaml.safe_dump({"deployments": [one]}, sort_keys=False, width=110)}


def _remote(plans: Plans, plan: Plan) -> dict[str, Any]:
    shared = copies_on_a_node(plans, plan)
    return {
        "deployments": [
            {
                "name": f"{_name(plans)}-{copy}",
                "model": _name(plans),
                "engine": "remote",
                "url": f"http://HOST-{copy // shared}:{PORT + copy % shared}",
                "served_name": plans.shapes.name,
                **({"api_key_env": KEY} if plans.wish.engine == "vllm" else {}),
                "max_in_flight": max(1, plan.speed.sequences),
            }
            for copy in range(plan.copies)
        ]
    }


def _torch(plans: Plans, plan: Plan) -> dict[str, Any]:
    name = _name(plans)
    return {
        "models": {name: {"source": f"hf:{plans.shapes.name}@main"}},
        "deployments": [
            {
                "model": name,
                "engine": "torch",
                "replicas": plan.copies,
                "dtype": "bfloat16",
                "device": "cuda",
                "max_batch": max(1, min(plan.speed.sequences, plan.concurrency // plan.copies)),
                "context_length": context(plans, plan),
            }
        ],
    }


def _name(plans: Plans) -> str:
    return re.sub(r"[^a-z0-9.-]+", "-", plans.shapes.name.rpartition("/")[2].lower()).strip("-.") or "model"
