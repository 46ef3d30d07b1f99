"""What is captured, of which model."""

from dataclasses import asdict, dataclass
from typing import Any

from terascope.core.errors import BadRequest


@dataclass(frozen=True, slots=True)
class Settings:
    """What a dataset is made of; one that is continued must have the same.

    `sites` as plans name them, with `*` for all layers. `tokens` as in plans: `"all"`, `"last"`, a position, `"2:5"` or
    `{"text": ...}`. `reduce` as in plans, None: whole. `dtype` is `F32`, `F16` or `BF16`, empty: the model's own.
    """

    model: str
    sites: tuple[str, ...]
    tokens: Any = "all"
    reduce: Any = None
    dtype: str = ""

    def plan(self, prompts: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """The plan of one request: `prompts` have the names `0`, `1` and so on."""
        capture: dict[str, Any] = {"capture": list(self.sites), "tokens": self.tokens}
        if self.reduce is not None:
            capture["reduce"] = self.reduce
        fields: dict[str, Any] = {"model": self.model, "prompts": prompts, "operations": [capture]}
        return fields | ({"dtype": self.dtype} if self.dtype else {}) | more

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "sites": list(self.sites)}


def sites_of(sites: list[str], layers: list[str]) -> tuple[str, ...]:
    """The sites that options name: `--site residual.post --layer 6` is `blocks.6.residual.post`.

    Raises `BadRequest` when there is none, or a layer for a site that has its own.
    """
    if not sites:
        raise BadRequest("name at least one site with --site; `terascope sites MODEL` lists them", param="site")
    if not layers:
        return tuple(sites)
    if whole := [site for site in sites if site.startswith(("blocks.", "module:"))]:
        raise BadRequest(f"{whole[0]} names its layer already; leave --layer out, or the `blocks.N.`", param="layer")
    return tuple(f"blocks.{'*' if layer == 'all' else layer}.{site}" for layer in layers for site in sites)
