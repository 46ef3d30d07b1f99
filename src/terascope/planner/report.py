"""A search's result as plain values: what `--json` prints, and what tables are made of."""

from typing import Any

from terascope.planner.constants import band
from terascope.planner.cost import Cost, cost
from terascope.planner.disaggregated import Split, Splits, splits
from terascope.planner.fit import Need
from terascope.planner.memory import Memory
from terascope.planner.search import Plan, Plans

_CAUTIONS = {
    "A100-40": "no public measurement of a trillion-parameter model on A100 of 40 GB: times are extrapolated",
    "A100-64": "no public measurement on this GPU: times are extrapolated",
    "GH200": "no public measurement of a trillion-parameter model on GH200: times are extrapolated",
    "MI250X": "no public measurement of a trillion-parameter model on MI250X: times are extrapolated",
    "PVC-TILE": "no public measurement on PVC; whether int4 experts run on it was not verified",
}


def plans_report(plans: Plans, *, price: float = 0.0, pue: float = 1.2, most: int = 0) -> dict[str, Any]:
    """Everything about a search; `most`: list so many plans and refusals at most, 0 for all."""
    limit = most or None
    return {
        "model": {
            "name": plans.shapes.name,
            "parameters": plans.shapes.parameters,
            "active_parameters": plans.shapes.active,
            "native_format": plans.shapes.native,
            "context": plans.shapes.context,
            "kv_bytes_per_token": plans.shapes.cache_bytes(),
            "kv_bytes_per_sequence": plans.shapes.fixed_bytes(),
        },
        "cluster": {"name": plans.cluster.name, "gpu": plans.cluster.gpu.name, "gpus": plans.cluster.gpus},
        "load": {
            "users": plans.load.users,
            "input": plans.load.input,
            "output": plans.load.output,
            "ttft_s": plans.load.ttft,
            "itl_s": plans.load.itl,
        },
        "engine": plans.wish.engine,
        "constants": plans.calibration.about if plans.calibration else "shipped",
        "cautions": cautions(plans),
        "plans": [
            plan_report(one, cost(plans.shapes, plans.cluster.gpu, one, price=price, pue=pue))
            for one in plans.plans[:limit]
        ],
        "disaggregated": splits_report(splits(plans), most),
        "rejected": [
            {
                "layout": one.layout.name,
                "weights": one.layout.weights.name,
                "kv": one.layout.cache,
                "reason": one.reason,
            }
            for one in plans.rejected[:limit]
        ],
    }


def plan_report(plan: Plan, its: Cost) -> dict[str, Any]:
    """One plan: sizes in bytes, times in seconds, rates in tokens a second."""
    layout, speed = plan.layout, plan.speed
    low, high = band("throughput").around(plan.output)
    return {
        "layout": layout.name,
        "tensor": layout.tp,
        "pipeline": layout.pp,
        "data": layout.dp,
        "expert": layout.ep,
        "decode_context": layout.cp,
        "weights": layout.weights.name,
        "kv": layout.cache,
        "copies": plan.copies,
        "gpus": plan.gpus,
        "memory_per_gpu": memory_report(plan.memory),
        "concurrency": plan.concurrency,
        "longest_context": plan.context,
        "at_once": speed.sequences * plan.copies,
        "ttft_s": _banded("ttft", speed.ttft),
        "itl_s": _banded("itl", speed.itl),
        "output_tokens_per_s": {"predicted": plan.output, "low": low, "high": high},
        "output_tokens_per_s_per_gpu": plan.output_per_gpu,
        "total_tokens_per_s": speed.total * plan.copies,
        "usd_per_million_output": its.money,
        "kwh_per_million_output": its.energy,
        "service_units_per_million": {"prompt": its.units.prompt, "output": its.units.output},
        "service_units_per_gpu_hour": its.units_per_gpu_hour,
        "meets": plan.meets,
        "why_not": plan.why_not,
    }


def memory_report(held: Memory) -> dict[str, float]:
    """The parts of a GPU's memory, in bytes."""
    return {
        "weights": held.weights,
        "activations": held.activations,
        "communication_buffers": held.buffers,
        "runtime": held.runtime,
        "kv_cache": held.cache,
    }


def splits_report(found: Splits, most: int = 0) -> dict[str, Any]:
    """Divisions into GPUs for prompts and for answers, and what was refused; `most`: so many at most, 0 for all."""
    limit = most or None
    return {
        "plans": [split_report(one) for one in found.plans[:limit]],
        "rejected": [{"what": one.what, "reason": one.reason} for one in found.rejected[:limit]],
    }


def split_report(one: Split) -> dict[str, Any]:
    """Prompts and answers on GPUs of their own."""
    return {
        "name": one.name,
        "prompt": _part_report(one.prompt),
        "answer": _part_report(one.answer),
        "prompt_gpus_per_answer_gpu": one.ratio,
        "gpus": one.gpus,
        "at_once": one.at_once,
        "ttft_s": one.ttft,
        "itl_s": one.itl,
        "output_tokens_per_s": one.output,
        "output_tokens_per_s_per_gpu": one.output / one.gpus,
        "meets": one.meets,
        "why_not": one.why_not,
    }


def _part_report(part: Plan) -> dict[str, Any]:
    layout = part.layout
    its = {"layout": layout.name, "weights": layout.weights.name, "kv": layout.cache}
    return its | {"copies": part.copies, "gpus": part.gpus, "memory_per_gpu": memory_report(part.memory)}


def need_report(one: Need) -> dict[str, Any]:
    """What must be bought of one GPU."""
    plan = one.plan
    return {
        "gpu": one.gpu.name,
        "nodes": one.nodes,
        "gpus": one.nodes * one.gpu.node,
        "layout": f"{plan.copies} x {plan.layout.name}" if plan else "",
        "weights": plan.layout.weights.name if plan else "",
        "output_tokens_per_s": plan.output if plan else 0.0,
        "ttft_s": plan.speed.ttft if plan else 0.0,
        "itl_s": plan.speed.itl if plan else 0.0,
        "why_not": one.why_not,
    }


def cautions(plans: Plans) -> list[str]:
    """Where the model of time is known to be weak, as far as it concerns this search."""
    found = [_CAUTIONS[plans.cluster.gpu.name]] if plans.cluster.gpu.name in _CAUTIONS else []
    if plans.calibration:
        found.append(f"constants: {plans.calibration.about}; ranges were found with those that ship")
    if any(one.chosen for one, _ in plans.shapes.attention):
        found.append("sparse attention: engines' kernels are young; prompts were measured at up to 3 times the time")
    if any(one.kind in ("linear", "mamba", "compressed") for one, _ in plans.shapes.attention):
        found.append("linear or compressed attention: few public measurements")
    if plans.plans and any(one.layout.pp > 1 for one in plans.plans[:3]):
        found.append("pipelines: no clean public measurement to check against")
    if plans.cluster.notes:
        found.append(f"{plans.cluster.name}: {plans.cluster.notes}")
    return found


def _banded(name: str, value: float) -> dict[str, float]:
    low, high = band(name).around(value)
    return {"predicted": value, "low": low, "high": high}
