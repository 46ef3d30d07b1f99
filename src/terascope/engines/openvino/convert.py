"""Writes a GGUF file anew with its weights in F16, or in Q8_0: `python -m terascope.engines.openvino.convert IN OUT`.

OpenVINO's reader makes other numbers of the finer kinds (Q4_1 and its like) than the file means.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import dequantize, quantize

_FILE_TYPES = {"F16": 1, "Q8_0": 7}
_NOT_COPIED = ("general.architecture", "general.file_type")


def convert(source: Path, target: Path, kind: str = "F16") -> None:
    """Write `source` to `target` with matrices as `kind`, F16 or Q8_0, and vectors in float32."""
    reader = gguf.GGUFReader(source)
    architecture = reader.get_field("general.architecture")
    writer = gguf.GGUFWriter(target, "" if architecture is None else str(architecture.contents()))
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name not in _NOT_COPIED:
            inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    writer.add_file_type(_FILE_TYPES[kind])
    for tensor in reader.tensors:
        _add(writer, tensor.name, dequantize(tensor.data, tensor.tensor_type), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(
    writer: gguf.GGUFWriter, name: str, values: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]", kind: str
) -> None:
    if values.ndim < 2:
        writer.add_tensor(name, values.astype(np.float32))
    elif kind == "F16":
        writer.add_tensor(name, values.astype(np.float16))
    else:
        q8 = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, quantize(values, q8), raw_dtype=q8)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and convert."""
    parser = argparse.ArgumentParser(prog="python -m terascope.engines.openvino.convert", description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--kind", choices=tuple(_FILE_TYPES), default="F16")
    given = parser.parse_args(arguments)
    convert(given.source, given.target, given.kind)


if __name__ == "__main__":
    main()
