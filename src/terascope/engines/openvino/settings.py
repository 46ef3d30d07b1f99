"""What the worker is started with."""

import argparse
from dataclasses import dataclass
from pathlib import Path

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """The worker's command line; 0 means that it chooses."""

    model_dir: Path
    served_name: str
    socket: str = ""
    host: str = "127.0.0.1"
    port: int = 0
    dtype: str = "float32"
    threads: int = 0
    max_batch: int = 32
    context_length: int = 0
    cache_gib: int = 1


def parse_arguments(arguments: list[str] | None = None) -> WorkerSettings:
    """Read the command line. Exits with a message when it is wrong."""
    parser = argparse.ArgumentParser("openvino worker", description="Serve one model over OpenAI's HTTP API.")
    add = parser.add_argument
    add("--model-dir", type=Path, required=True, help="directory of the checkpoint")
    add("--served-name", required=True, help="the model's name in requests and answers")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--socket", default="", help="Unix socket to serve at; made with mode 0600")
    place.add_argument("--port", type=int, default=0, help="port to serve at; needs TERASCOPE_REPLICA_SECRET")
    add("--host", default="127.0.0.1", help="address of the port")
    add("--dtype", default="float32", choices=DTYPES, help="what is computed in")
    add("--threads", type=int, default=0, help="CPU threads; default: all cores")
    add("--max-batch", type=int, default=32, help="most requests in the running batch")
    add("--context-length", type=int, default=0, help="longest prompt and answer together, in tokens")
    add("--cache-gib", type=int, default=1, help="memory for keys and values, in GiB")
    return WorkerSettings(**vars(parser.parse_args(arguments)))
