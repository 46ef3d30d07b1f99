"""What an adapter's directory holds, read without loading it; what is unfit or unsafe is refused."""

import array
import sys
from dataclasses import dataclass
from pathlib import Path

from terascope.catalog.files import unreadable
from terascope.catalog.inspect import readme_licence
from terascope.catalog.safetensors import Tensor, read_header
from terascope.core.errors import BadRequest
from terascope.core.models import ModelVersion, Task
from terascope.internals.lora import CONFIG, WEIGHTS, check_files, modules_of, read_spec

_LARGEST_CONFIG = 1 << 24
_AT_ONCE = 1 << 20  # numbers that are looked at together
_EXPONENTS = {"F32": ("I", 0x7F800000), "BF16": ("H", 0x7F80), "F16": ("H", 0x7C00)}
"""How a number is read, and the bits that are all set in those that are infinite or no numbers."""


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What an adapter says of itself."""

    parameters: int
    licence: str = ""


def describe_adapter(directory: Path, base: ModelVersion) -> AdapterFacts:
    """Read what `directory` holds: a LoRA adapter as PEFT saves it. All weights are looked at, in pure Python.

    Raises `BadRequest` for what is damaged or unsafe, for what this program cannot serve, for weights that are not
    finite, and for an adapter that says it was trained on other files than those of `base`.
    """
    try:
        check_files(entry.name for entry in directory.iterdir())
        spec = read_spec(_small(directory / CONFIG))
        if spec.base_digest and spec.base_digest != base.digest:
            raise BadRequest(
                f"the adapter was trained on files with the digest {spec.base_digest[:12]}; those of "
                f"{base.public_name} have {base.digest[:12]}",
                param="base",
            )
        tensors = read_header(directory / WEIGHTS)
        modules_of(spec, {name: tensor.shape for name, tensor in tensors.items()})
        _check_numbers(directory / WEIGHTS, tensors)
    except OSError as error:
        raise unreadable(error) from error
    return AdapterFacts(sum(tensor.elements for tensor in tensors.values()), readme_licence(directory))


def check_base(base: ModelVersion) -> None:
    """Raise `BadRequest` when `base` is nothing that adapters can add to."""
    if base.parent or base.task is not Task.GENERATE or not base.directory:
        raise BadRequest(f"{base.public_name} takes no adapters: they add to language models run here", param="base")


def _small(path: Path) -> bytes:
    if path.stat().st_size > _LARGEST_CONFIG:
        raise BadRequest(f"{path} is too large to be what its name says", param="source")
    return path.read_bytes()


def _check_numbers(path: Path, tensors: dict[str, Tensor]) -> None:
    with path.open("rb") as file:
        for name, tensor in tensors.items():
            if tensor.dtype not in _EXPONENTS:
                raise BadRequest(
                    f"{path} has {name[:200]} as {tensor.dtype[:20]}; adapters are F32, BF16 or F16", param="source"
                )
            code, bits = _EXPONENTS[tensor.dtype]
            file.seek(tensor.start)
            left = tensor.elements
            while left:
                numbers = array.array(code)
                numbers.frombytes(file.read(min(left, _AT_ONCE) * numbers.itemsize))
                if sys.byteorder == "big":
                    numbers.byteswap()
                if any(number & bits == bits for number in numbers):
                    raise BadRequest(
                        f"{path}: {name[:200]} has numbers that are infinite or no numbers", param="source"
                    )
                left -= min(left, _AT_ONCE)
