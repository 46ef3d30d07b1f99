"""What the parts of a request are read with: the model's shape, the arrays, the prompts' names."""

from dataclasses import dataclass

from terascope.core.errors import BadRequest
from terascope.core.words import suggestion
from terascope.internals.outputs import selected
from terascope.internals.places import at
from terascope.internals.plan import Where
from terascope.internals.shape import ModelShape
from terascope.internals.sites import Place, Site, SitePattern, axes, has_heads
from terascope.internals.supplied import Arrays
from terascope.internals.tokens import (
    ALL_STEPS,
    PROMPT,
    Positions,
    Slice,
    Steps,
    Tokens,
    parse_steps,
    parse_tokens,
)
from terascope.protocol.traces import Placed, StepsValue, TokensValue, TokenTextValue

Listed = int | list[int] | None
"""How a request writes heads and units."""


@dataclass(frozen=True, slots=True)
class Context:
    """All methods raise `BadRequest` whose `param` is the field below the part that is read."""

    shape: ModelShape
    arrays: Arrays
    names: tuple[str, ...]
    max_tokens: int = 0

    def rows(self, value: str | list[str] | None, but: str = "") -> tuple[str, ...]:
        """The prompts that a part is for: those it names, or all `but` the one it takes from."""
        if value is None:
            return tuple(name for name in self.names if name != but)
        with at("in"):
            return tuple(dict.fromkeys(map(self.row, [value] if isinstance(value, str) else value)))

    def row(self, name: str) -> str:
        """The prompt of that name."""
        if name not in self.names:
            raise BadRequest(f"there is no prompt `{name}`{suggestion(name, self.names)}")
        return name

    def source(self, name: str) -> str:
        """The prompt that something is taken from."""
        with at("from"):
            return self.row(name)

    def sites(self, field: str, value: str | list[str]) -> tuple[Site, ...]:
        """The sites that `value` stands for, each once, in its order."""
        found: dict[Site, None] = {}
        for number, text in enumerate([value] if isinstance(value, str) else value):
            with at(field, *([] if isinstance(value, str) else [number])):
                found |= dict.fromkeys(SitePattern.parse(text).expand(self.shape))
        return tuple(found)

    def placed(self, site: Site, fields: Placed) -> Where:
        """What an operation is about at `site`."""
        tokens = read_tokens("tokens", fields.tokens)
        return self.where(site, tokens, self.steps(fields.steps, tokens), fields.heads, fields.units)

    def where(
        self,
        site: Site,
        tokens: Tokens,
        steps: Steps = PROMPT,
        heads: Listed = None,
        units: Listed = None,
        prefix: str = "",
    ) -> Where:
        """A part of `site`; `prefix` is before the names of the fields of heads and units."""
        *first, last = axes(site, self.shape)
        with at(f"{prefix}heads"):
            if heads is not None and not has_heads(site):
                raise BadRequest(f"`{site}` has no heads")
            chosen = _indices(heads, first[0].size if first else 0)
        with at(f"{prefix}units"):
            if units is not None and site.place in (Place.ATTENTION_PROBABILITIES, Place.ROUTER_EXPERTS):
                raise BadRequest(f"units of `{site}` cannot be chosen; leave `units` out")
            return Where(site, tokens, steps, chosen, _indices(units, last.size))

    def steps(self, value: StepsValue | None, tokens: Tokens) -> Steps:
        """The steps that `value` names, which go with `tokens` and exist."""
        of_prompt = isinstance(tokens, Positions | Slice)
        if value is None:
            return PROMPT if of_prompt else ALL_STEPS
        with at("steps"):
            steps = parse_steps(value)
            if of_prompt and steps.generated != ():
                raise BadRequest('positions and slices are of the prompt; for the answer say "all" or "last" there')
            if _last(steps) > (last := max(0, self.max_tokens - 1)):
                raise BadRequest(
                    f"with `max_tokens` {self.max_tokens} the last step is {last}; an answer's last token is not "
                    "computed, as nothing follows it"
                )
            return steps

    def width(self, where: Where) -> int:
        """How many units are chosen there; 0: not known."""
        return selected(where, self.shape, 0)[-1].size


def read_tokens(field: str, value: TokensValue) -> Tokens:
    """The choice of tokens that a request writes as `value`."""
    with at(field):
        return parse_tokens({"text": value.text} if isinstance(value, TokenTextValue) else value)


def _last(steps: Steps) -> int:
    """The last step that must exist for `steps` to mean something."""
    if steps.generated is None:
        return 0 if steps.prompt else 1
    return max(steps.generated, default=0)


def _indices(value: Listed, size: int) -> tuple[int, ...] | None:
    """Numbers from 0, each below `size` (0: not known) and there once."""
    if value is None:
        return None
    numbers = [value] if isinstance(value, int) else value
    found = tuple(_index(number, size) for number in numbers)
    if len(set(found)) < len(found):
        raise BadRequest("a number is there twice")
    return found


def _index(number: int, size: int) -> int:
    if size and not -size <= number < size:
        raise BadRequest(f"there is no {number}; there are 0 to {size - 1} (or -{size} to -1)")
    if not size and number < 0:
        raise BadRequest(f"{number} cannot be counted from the end here, since the width is not known")
    return number + size if number < 0 else number
