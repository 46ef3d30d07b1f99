"""Number formats: what a weight takes, and with which of a GPU's units it is computed."""

from dataclasses import dataclass

from terascope.core.errors import BadRequest

WIDTHS = {
    "bf16": 2.0,
    "fp8": 1 + 4 / (128 * 128),
    "int8": 1 + 2 / 4096,
    "nvfp4": 0.5 + 1 / 16,
    "mxfp4": 0.5 + 1 / 32,
    "int4": 0.5 + 2 / 32,
}
"""Bytes of a weight with its part of the scales: fp8 has a float32 for 128 x 128 of them, nvfp4 a byte for 16, mxfp4 a
byte for 32, int4 two bytes for 32 or more, int8 two for a row."""


@dataclass(frozen=True, slots=True)
class Format:
    """How a checkpoint's weights are kept, by part; embeddings, head, router and norms are bf16 in all of them."""

    name: str
    attention: str
    dense: str
    experts: str

    @property
    def parts(self) -> tuple[str, str, str]:
        """The formats of attention, dense layers and experts."""
        return self.attention, self.dense, self.experts


FORMATS = {
    one.name: one
    for one in (
        Format("bf16", "bf16", "bf16", "bf16"),
        Format("fp8", "fp8", "fp8", "fp8"),
        Format("int8", "int8", "int8", "int8"),
        Format("fp8-fp4", "fp8", "fp8", "mxfp4"),  # DeepSeek V4
        Format("nvfp4", "bf16", "nvfp4", "nvfp4"),  # what ModelOpt writes: attention stays as it was
        Format("mxfp4", "bf16", "bf16", "mxfp4"),  # gpt-oss, Kimi-K3
        Format("int4", "bf16", "bf16", "int4"),  # Kimi-K2.5: routed experts only
        Format("int4-all", "int4", "int4", "int4"),  # AWQ and GPTQ of dense models
    )
}

CACHE_WIDTHS = {"bf16": 2.0, "fp8": 1.0}
"""Bytes of a value in the KV cache."""
_UNITS = {"bf16": ("bf16",), "fp8": ("fp8", "bf16"), "int8": ("int8", "bf16"), "int4": ("bf16",)}
_UNITS |= {"nvfp4": ("fp4", "bf16"), "mxfp4": ("fp4", "bf16")}


def format_named(name: str) -> Format:
    """Return the format called `name`. Raises `BadRequest` that lists those there are."""
    if name not in FORMATS:
        raise BadRequest(
            f"there is no quantization {name!r}; choose auto or one of {', '.join(FORMATS)}", param="quantization"
        )
    return FORMATS[name]


def units(weight: str) -> tuple[str, ...]:
    """With what a weight of this format is multiplied, the best first; the last, bf16, is weight-only."""
    return _UNITS[weight]
