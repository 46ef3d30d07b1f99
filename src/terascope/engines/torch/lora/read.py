"""From an adapter's files to its weights: only JSON and safetensors are read; what does not fit is refused."""

import hashlib
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_safetensors
from torch import Tensor

from terascope.core.errors import BadRequest, ModelUnavailable
from terascope.engines.adapter_files import AdapterFiles
from terascope.engines.torch.anatomy import is_linear
from terascope.engines.torch.lora.weights import Adapter, Pair
from terascope.engines.torch.packed import PackedModel
from terascope.internals.lora import CONFIG, WEIGHTS, LoraSpec, modules_of, names_of, read_spec

_log = logging.getLogger(__name__)
_NAMED = 3  # modules named in an error


@dataclass(frozen=True, slots=True)
class Base:
    """What an adapter must fit: `modules` are the paths and widths (in, out) of linear layers that may have a term."""

    modules: Mapping[str, tuple[int, int]]
    dtype: torch.dtype
    device: torch.device
    most_rank: int


def base_of(packed: PackedModel, most_rank: int) -> Base | None:
    """Return what adapters of a model must fit; None, with a word in the log, where its layers cannot be found.

    Not to be called in the middle of a step.
    """
    try:
        seen = packed.sites.shape.modules
    except Exception as error:  # noqa: BLE001 - whatever the model does not take, it can still be served
        _log.warning("the model's layers cannot be found; it takes no adapters", extra={"reason": repr(error)[:300]})
        return None
    head = packed.module.get_output_embeddings()
    layers = {path: packed.module.get_submodule(path) for path in seen}
    able = {path: seen[path] for path, layer in layers.items() if is_linear(layer) and layer is not head}
    return Base(able, packed.module.dtype, packed.device, most_rank)


def measure_adapter(files: AdapterFiles, base: Base) -> int:
    """Return how many bytes an adapter takes in memory, from the header of its file. Raises as `read_adapter` does."""
    try:
        with safe_open(files.directory / WEIGHTS, "pt") as opened:
            shapes = [opened.get_slice(name).get_shape() for name in opened.keys()]  # noqa: SIM118 - no dict
    except FileNotFoundError as error:
        raise _gone(files, f"{WEIGHTS} cannot be read", error) from None
    except (SafetensorError, OSError) as error:
        raise _unfit(files, f"{WEIGHTS} cannot be read: {str(error)[:200]}") from None
    return sum(map(math.prod, shapes)) * base.dtype.itemsize


def read_adapter(files: AdapterFiles, base: Base) -> Adapter:
    """Read an adapter for `base`. Only JSON and safetensors are read, and no byte that was not there when it was added.

    Raises `BadRequest` for one that does not fit or is damaged, `ModelUnavailable` when its files are gone or changed.
    """
    spec = read_spec(_bytes(files, CONFIG))
    try:
        tensors = load_safetensors(_bytes(files, WEIGHTS))
    except (SafetensorError, ValueError) as error:
        raise _unfit(files, f"{WEIGHTS} cannot be read: {str(error)[:200]}") from None
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    widths = modules_of(spec, shapes)
    _check(files, spec, widths, base)
    pairs = {module: _pair(files, module, spec, tensors, base) for module in widths}
    return Adapter(files.name, files.digest, pairs)


def _pair(files: AdapterFiles, module: str, spec: LoraSpec, tensors: Mapping[str, Tensor], base: Base) -> Pair:
    down, up = (tensors[name].to(base.device, torch.float32) for name in names_of(module))
    scaled = (up.T * spec.scale_of(module)).to(base.dtype).contiguous()
    down = down.to(base.dtype).contiguous()
    if not (down.isfinite().all() and scaled.isfinite().all()):
        raise _unfit(files, f"its weights of {module} have numbers that are infinite or no numbers")
    return Pair(down, scaled)


def _check(files: AdapterFiles, spec: LoraSpec, widths: Mapping[str, tuple[int, int]], base: Base) -> None:
    if unknown := sorted(module for module in widths if module not in base.modules):
        raise _unfit(
            files,
            f"the model has no linear layer {', '.join(unknown[:_NAMED])} that an adapter can add to"
            + (f", nor {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else "")
            + "; it is an adapter of another model, or of layers that are not served (output head, experts)",
        )
    for module, found in widths.items():
        if found != base.modules[module]:
            raise _unfit(files, f"{module} is {list(base.modules[module])} wide (in, out), its term {list(found)}")
    if (rank := max(map(spec.rank_of, widths))) > base.most_rank:
        raise _unfit(files, f"its rank is {rank}, over the {base.most_rank} that this deployment takes (adapter_rank)")


def _bytes(files: AdapterFiles, name: str) -> bytes:
    try:
        found = (files.directory / name).read_bytes()
    except OSError as error:
        raise _gone(files, f"{name} cannot be read", error) from None
    if hashlib.sha256(found).hexdigest() != files.sha256.get(name):
        raise _gone(files, f"{name} was changed")
    return found


def _gone(files: AdapterFiles, what: str, error: OSError | None = None) -> ModelUnavailable:
    return ModelUnavailable(
        f"the adapter {files.name} cannot be loaded: {what} since it was added; ask an operator to add it again",
        detail=repr(error) if error else "",
    )


def _unfit(files: AdapterFiles, why: str) -> BadRequest:
    return BadRequest(f"the adapter {files.name} does not fit this model: {why}", param="model")
