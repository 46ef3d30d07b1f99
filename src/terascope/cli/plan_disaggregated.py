"""Prompts and answers on GPUs of their own: the table, and the launch files."""

from collections.abc import Mapping
from typing import Any

import typer

from terascope.cli.show import table
from terascope.core.errors import BadRequest
from terascope.planner import Plans, Splits, splits
from terascope.planner.emit import emit_split
from terascope.planner.report import split_report

_COLUMNS = (
    "", "prompts", "GPUs", "answers", "GPUs", "ratio", "weights", "KV", "at once", "first token", "between tokens",
    "tokens/s", "per GPU",
)  # fmt: skip


def shown(found: Plans, top: int) -> None:
    """Print the best `top` divisions, and why others are none. Raises `BadRequest` where nothing works."""
    divided = _divided(found)
    table(_COLUMNS, (_row(number, split_report(one)) for number, one in enumerate(divided.plans[:top], 1)), empty="")
    for number, one in enumerate(divided.plans[:top], 1):
        if not one.meets:
            typer.echo(f"{number} !: {one.why_not}")
    typer.echo(f"\n{len(divided.plans)} divisions work; refused:")
    for why in _reasons(divided)[:top]:
        typer.echo(f"- {why}")
    typer.echo("caution: times of divided copies were checked against few public measurements")


def files(found: Plans, target: str, rank: int) -> Mapping[str, str]:
    """The launch files of the division of that rank. Raises `BadRequest` where there is none."""
    divided = _divided(found)
    if rank > len(divided.plans):
        raise BadRequest(f"there are {len(divided.plans)} divisions, not {rank}", param="rank")
    return emit_split(found, divided.plans[rank - 1], target)


def _divided(found: Plans) -> Splits:
    if not found.plans:
        raise BadRequest(found.failure(), param="on")
    divided = splits(found)
    if not divided.plans:
        reasons = "; ".join(_reasons(divided)[:3])
        raise BadRequest(f"{found.cluster.name} is not divided into prompts and answers: {reasons}", param="on")
    return divided


def _reasons(divided: Splits) -> list[str]:
    """One for each kind."""
    kinds: dict[str, str] = {}
    for one in divided.rejected:
        kinds.setdefault("".join(c for c in one.reason if not c.isdigit()), f"{one.what}: {one.reason}")
    return list(kinds.values())


def _row(number: int, one: dict[str, Any]) -> tuple[str, ...]:
    prompt, answer = one["prompt"], one["answer"]
    return (
        f"{number}{'' if one['meets'] else ' !'}",
        f"{prompt['copies']} x {prompt['layout']}",
        str(prompt["gpus"]),
        f"{answer['copies']} x {answer['layout']}",
        str(answer["gpus"]),
        f"{one['prompt_gpus_per_answer_gpu']:.2f}",
        answer["weights"],
        answer["kv"],
        f"{one['at_once']:,.0f}",
        f"{one['ttft_s']:.2f} s",
        f"{one['itl_s'] * 1e3:.0f} ms",
        f"{one['output_tokens_per_s']:,.0f}",
        f"{one['output_tokens_per_s_per_gpu']:,.0f}",
    )
