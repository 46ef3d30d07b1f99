"""From what a caller says to the plan that is sent: prompts in any form, arrays as one attached file."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from terascope.client.values import foreign
from terascope.core.errors import BadRequest
from terascope.internals.arrays import Array
from terascope.internals.packing import pack
from terascope.protocol.parse import validate
from terascope.protocol.traces import TraceRequest

Prompts = str | Sequence[str | Mapping[str, Any]] | Mapping[str, str]
"""A text; texts and objects as in docs/reference/plans.md; or names with their texts."""


class PlanFields(TypedDict, total=False):
    """What a plan may say besides its model, prompts and operations.

    `gradient`: see `operations.gradient`. `arrays`: arrays by name, for use in operations. `max_tokens`: of each
    answer; 0, the default, makes none. `temperature`, `top_p`, `seed`, `ignore_eos`: as for an answer, but the
    temperature is 0 by default. `dtype`: "F32", "F16" or "BF16", of captures that are not reduced; by default the
    model's own.
    """

    gradient: Mapping[str, Any]
    arrays: Mapping[str, Any]
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    ignore_eos: bool
    dtype: Literal["F32", "F16", "BF16"]


def plan_of(
    model: str,
    prompts: Prompts,
    operations: Sequence[Mapping[str, Any]],
    fields: Mapping[str, Any],
) -> TraceRequest:
    """The plan as it is sent. Raises `BadRequest` for what is no plan."""
    attached = Attached(fields.get("arrays") or {})
    plan = {"model": model, "prompts": _prompts(prompts), "operations": [*operations], **fields}
    placed = {name: attached.placed(one) for name, one in plan.items() if name != "arrays"}
    return validate(TraceRequest, {**placed, **attached.fields()})


def checked(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `fields`. Raises `BadRequest` for one of the wire that the SDK sets itself."""
    for name, instead in _INSTEAD.items():
        if name in fields:
            raise BadRequest(f"`{name}` is set by the SDK; {instead}", param=name)
    return fields


class Attached:
    """Arrays that go with a plan as one safetensors file; each array once, however often a plan uses it."""

    def __init__(self, named: Mapping[str, Any]) -> None:
        """`named` have names already; what is no array among them stays in the plan as it is."""
        self._arrays: dict[str, Array] = {}
        self._names: dict[int, str] = {}
        self._kept: list[object] = []  # an id is of one object only while that lives
        self._plain: dict[str, Any] = {}
        for name, value in named.items():
            one = foreign(value)
            if one is None:
                self._plain[name] = value
            else:
                self._arrays[name] = one

    def placed(self, value: object) -> object:
        """`value` with each array in it replaced: by its name, or by numbers where it holds whole ones or only one."""
        if isinstance(value, str | int | float | None):
            return value
        if isinstance(value, Mapping) and not hasattr(value, "__array__"):
            return {name: self.placed(one) for name, one in value.items()}
        if isinstance(value, list | tuple):
            return [self.placed(one) for one in value]
        one = foreign(value)
        if one is None:
            return value
        if not one.shape:
            return one.numbers()[0]
        if not one.dtype.is_float and len(one.shape) == 1:
            return one.numbers()
        return self._name(value, one)

    def fields(self) -> dict[str, object]:
        """The plan's fields `arrays` and `safetensors`."""
        file = {"safetensors": base64.b64encode(pack(self._arrays)).decode()} if self._arrays else {}
        return {"arrays": self._plain, **file}

    def _name(self, value: object, one: Array) -> str:
        if id(value) not in self._names:
            number = len(self._names)
            while (name := f"attached-{number}") in self._arrays or name in self._plain:
                number += 1
            self._names[id(value)] = name
            self._arrays[name] = one
            self._kept.append(value)
        return self._names[id(value)]


_INSTEAD = {
    "format": "results come as arrays",
    "stream": "ask `client.trace(..., stream=True)`",
    "dry_run": "ask `client.traces.estimate(...)`",
    "safetensors": "give arrays as `arrays`, or in the operations themselves",
}


def _prompts(prompts: Prompts) -> list[object]:
    if isinstance(prompts, str):
        return [prompts]
    if isinstance(prompts, Mapping):
        return [{"name": name, "text": text} for name, text in prompts.items()]
    return [*prompts]
