"""What the worker is started with."""

from dataclasses import dataclass
from pathlib import Path

from terascope.engines.worker.arguments import at_least_one, parser_of

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
    parser = parser_of("openvino worker")
    add = parser.add_argument
    add("--dtype", default="float32", choices=DTYPES, help="what is computed in")
    add("--cache-gib", type=at_least_one, default=1, help="memory for keys and values, in GiB")
    return WorkerSettings(**vars(parser.parse_args(arguments)))
