"""Small checkpoints, wheels and Hugging Face caches, written byte by byte; their weights are zeros."""

import base64
import hashlib
import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SHAPES: Mapping[str, tuple[int, ...]] = {"embed": (32, 4), "norm": (4,)}
"""The tensors of a checkpoint that does not say otherwise: 132 parameters."""


def safetensors(shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> bytes:
    """Return a safetensors file of float32 zeros in these shapes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(end)


def checkpoint(**config: object) -> dict[str, bytes]:
    """Return the files of a small causal language model, by path; `config` goes into its config.json."""
    values = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 64, **config}
    tokenizer = {"chat_template": "{{ messages }}", "tokenizer_class": "PreTrainedTokenizerFast"}
    return {
        "config.json": json.dumps(values).encode(),
        "model.safetensors": safetensors(),
        "tokenizer.json": b"{}",
        "tokenizer_config.json": json.dumps(tokenizer).encode(),
        "README.md": b"---\nlicense: apache-2.0\n---\n# Tiny\n",
    }


def write_files(directory: Path, files: Mapping[str, bytes]) -> Path:
    """Write `files` below `directory`, which is made; return it."""
    for path, content in files.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return directory


def write_wheel(
    directory: Path, package: str, version: str, files: Mapping[str, bytes], *, licence: str = "MIT"
) -> Path:
    """Write the wheel of `package` with these files into `directory`, which is made; return its path."""
    stem = f"{package.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\nLicense: {licence}\n\nA model.\n"
    together = {
        **files,
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: terascope\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},sha256={_record_hash(body)},{len(body)}\n" for path, body in together.items())
    directory.mkdir(parents=True, exist_ok=True)
    wheel = directory / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, body in {**together, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(path, body)
    return wheel


def write_hub_cache(cache: Path, repository: str, commit: str, files: Mapping[str, bytes]) -> Path:
    """Lay `files` out as the Hugging Face cache does, with `main` at `commit`; return the snapshot."""
    home = cache / f"models--{repository.replace('/', '--')}"
    snapshot = home / "snapshots" / commit
    for path, content in files.items():
        blob = home / "blobs" / hashlib.sha256(content).hexdigest()
        write_files(home / "blobs", {blob.name: content})
        link = snapshot / path
        link.parent.mkdir(parents=True, exist_ok=True)
        up = "../" * (len(link.relative_to(home).parts) - 1)
        link.symlink_to(f"{up}blobs/{blob.name}")
    write_files(home / "refs", {"main": commit.encode()})
    return snapshot


def _record_hash(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
