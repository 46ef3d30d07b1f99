"""In which number format a checkpoint's weights are, from its `config.json`."""

from collections.abc import Mapping
from typing import Any

_METHODS = {"fp8": "fp8", "fbgemm_fp8": "fp8", "mxfp4": "mxfp4", "gptq": "int4-all", "awq": "int4-all"}
_EXPERTS_ONLY = ("self_attn", "shared_experts")


def native_format(outer: Mapping[str, Any], text: Mapping[str, Any]) -> str:
    """Return the name of the format, bf16 where nothing is said; of one that the planner does not know, the method."""
    given = text.get("quantization_config") or outer.get("quantization_config") or {}
    if not isinstance(given, dict) or not given:
        return "bf16"
    method = str(given.get("quant_method") or given.get("quant_algo") or "").lower()
    if method == "fp8" and str(text.get("expert_dtype", "")).lower() == "fp4":
        return "fp8-fp4"
    if method in ("gptq", "awq") and given.get("bits", given.get("w_bit", 4)) == 8:
        return "int8"
    if method in _METHODS:
        return _METHODS[method]
    if method in ("modelopt", "modelopt_fp4", "nvfp4"):
        return "nvfp4" if "FP4" in str(given.get("quant_algo", "")).upper() or method != "modelopt" else "fp8"
    if method in ("compressed-tensors", "compressed_tensors"):
        return _compressed_tensors(given)
    return method or "quantization_config without a method"


def _compressed_tensors(given: Mapping[str, Any]) -> str:
    groups = given.get("config_groups")
    first: Any = next(iter(groups.values()), {}) if isinstance(groups, dict) else {}
    weights = first.get("weights") if isinstance(first, dict) else None
    weights = weights if isinstance(weights, dict) else {}
    bits, kind = weights.get("num_bits"), weights.get("type")
    if bits == 8:
        return "fp8" if kind == "float" else "int8"
    if bits == 4 and kind == "float":
        return "mxfp4" if "mxfp4" in str(first.get("format", "")) or weights.get("group_size") == 32 else "nvfp4"
    if bits == 4:
        ignored = " ".join(map(str, given.get("ignore") or ()))
        return "int4" if all(part in ignored for part in _EXPERTS_ONLY) else "int4-all"
    return f"compressed-tensors of {bits} bits"
