"""What a trace gives: a mapping of prompts, each a mapping of names to arrays."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from terascope.client.errors import error_of
from terascope.client.flow import About
from terascope.client.html import table
from terascope.client.values import TraceArray, stacked
from terascope.core.errors import BadRequest, ServiceError
from terascope.core.words import suggestion
from terascope.internals.arrays import Array
from terascope.internals.packing import Spec
from terascope.protocol.trace_results import TraceRow

_SHOWN = 20
_TOKEN_AXES = ("token", "key")


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class TracedPrompt(Mapping[str, TraceArray]):
    """What became of one prompt: its arrays by name.

    `tokens` are the prompt's, `pieces` the text of each of them; `text`, `output_tokens` and `finish_reason` are of its
    answer, if one was asked for. A prompt that failed has its `error`, which is raised when its arrays are touched.
    """

    name: str
    tokens: tuple[int, ...]
    pieces: tuple[str, ...]
    text: str = ""
    output_tokens: tuple[int, ...] = ()
    finish_reason: str | None = None
    error: ServiceError | None = None
    arrays: Mapping[str, TraceArray] = field(default_factory=dict)

    def __getitem__(self, name: str) -> TraceArray:
        found = self._whole()
        if name not in found:
            raise KeyError(f"prompt {self.name!r} has no array {name!r}{suggestion(name, found)}")
        return found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole())

    def __len__(self) -> int:
        return len(self._whole())

    def stack(self, pattern: str) -> TraceArray:
        """Return the arrays of all layers as one, its first axis `layer`; shape: [layers, ...].

        `pattern` is their name with `*` in place of the layer: `blocks.*.residual.post`. Raises `BadRequest` when there
        are none, or when they differ in shape; the prompt's `error` when it failed.
        """
        before, star, after = pattern.partition("*")
        if not star:
            raise BadRequest(f"{pattern!r} has no * for the layer, as in blocks.*.residual.post")
        form = re.compile(f"{re.escape(before)}(\\d+){re.escape(after)}")
        found = {int(match[1]): one for name, one in self.items() if (match := form.fullmatch(name))}
        if not found:
            raise BadRequest(
                f"prompt {self.name!r} has no arrays {pattern!r}; it has {', '.join(self) or 'none'}"[:500]
            )
        return stacked(pattern, dict(sorted(found.items())))

    def __repr__(self) -> str:
        became = f"failed: {self.error.message}" if self.error else f"{len(self.arrays)} arrays"
        return f"TracedPrompt({self.name!r}, {len(self.tokens)} tokens, {became})"

    def _repr_html_(self) -> str:
        return table(("name", "array"), self.described())

    def described(self) -> list[tuple[str, str]]:
        """Return names, types and shapes of its arrays, the first 20 of them, or why it has none."""
        if self.error:
            return [("failed", self.error.message)]
        shown = [(name, one.described) for name, one in list(self.arrays.items())[:_SHOWN]]
        more = len(self.arrays) - len(shown)
        return [*shown, ("...", f"{more} more")] if more else shown

    def _whole(self) -> Mapping[str, TraceArray]:
        if self.error:
            raise self.error
        return self.arrays


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Trace(Mapping[str, TracedPrompt]):
    """The result of a trace: its prompts by name, in the order of the request; a whole number counts them from 0.

    `about` has the id of the run, the model and what was used.
    """

    prompts: tuple[TracedPrompt, ...]
    about: About

    def __getitem__(self, key: str | int) -> TracedPrompt:
        if isinstance(key, int):
            return self.prompts[key]
        for one in self.prompts:
            if one.name == key:
                return one
        names = [one.name for one in self.prompts]
        raise KeyError(f"there is no prompt {key!r}{suggestion(key, names)}")

    def __iter__(self) -> Iterator[str]:
        return (one.name for one in self.prompts)

    def __len__(self) -> int:
        return len(self.prompts)

    def __repr__(self) -> str:
        return f"Trace({self.about.model!r}, {len(self.prompts)} prompts: {', '.join(self)})"[:200]

    def _repr_html_(self) -> str:
        rows = [
            (one.name, str(len(one.tokens)), one.text, *described)
            for one in self.prompts[:_SHOWN]
            for described in one.described()
        ]
        if len(self.prompts) > _SHOWN:
            rows.append((f"{len(self.prompts) - _SHOWN} more", "", "", "", ""))
        return table(("prompt", "tokens", "answer", "name", "array"), rows)


def traced(row: TraceRow, arrays: Sequence[tuple[Spec, Array]], error: ServiceError | None = None) -> TracedPrompt:
    """A row of the wire with its arrays; `error` is one that the row itself does not tell."""
    told = error_of(row.error) if row.error is not None else error
    labels = row.pieces if not row.output_tokens else []  # with an answer, an axis of that length may be its tokens
    named = {spec.name: TraceArray(spec.name, one, spec.axes, _labels(spec, labels)) for spec, one in arrays}
    return TracedPrompt(
        row.name, tuple(row.tokens), tuple(row.pieces), row.text, tuple(row.output_tokens), row.finish_reason, told,
        {} if told else named,
    )  # fmt: skip


def _labels(spec: Spec, pieces: Sequence[str]) -> dict[str, Sequence[str | int]]:
    """The texts of tokens along the axes that have all tokens of the prompt."""
    sides = zip(spec.axes, spec.shape, strict=False)
    return {axis: list(pieces) for axis, side in sides if axis in _TOKEN_AXES and side == len(pieces)}
