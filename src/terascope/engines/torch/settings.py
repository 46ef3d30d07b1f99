"""What the worker is started with."""

from dataclasses import dataclass
from pathlib import Path

from terascope.core.models import Task
from terascope.engines.worker.arguments import count, parser_of


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """The worker's command line; 0 and empty mean that the worker chooses."""

    model_dir: Path
    served_name: str
    socket: str = ""
    host: str = "127.0.0.1"
    port: int = 0
    task: Task | None = None
    dtype: str = ""
    device: str = ""
    threads: int = 0
    max_batch: int = 32
    context_length: int = 0
    converted_dir: Path | None = None
    cache_tokens: int = 0
    step_tokens: int = 0
    extra_rows: int = 4
    adapter_mib: int = 512
    adapter_rank: int = 256


def parse_arguments(arguments: list[str] | None = None) -> WorkerSettings:
    """Read the command line. Exits with a message when it is wrong."""
    parser = parser_of("terascope worker")
    add = parser.add_argument
    add("--task", type=Task, choices=list(Task), help="default: what the checkpoint is")
    add("--dtype", default="", choices=("", "float32", "bfloat16", "float16"), help="default: float32 on a CPU")
    add("--device", default="", help="cpu, cuda, cuda:1, ...; default: a GPU if there is one")
    add("--converted-dir", type=Path, help="where a GGUF checkpoint, unpacked, is kept for the next start")
    add("--cache-tokens", type=count, default=0, help="size of the KV cache, in tokens; default: what fits")
    add("--step-tokens", type=count, default=0, help="most tokens computed in one step; default: 512, on a GPU 2048")
    add("--extra-rows", type=count, default=4, help="requests of priority 0 and 1 that may run beyond --max-batch")
    add("--adapter-mib", type=count, default=512, help="memory that LoRA adapters may take, in MiB; 0: none are taken")
    add("--adapter-rank", type=count, default=256, help="largest rank of an adapter")
    return WorkerSettings(**vars(parser.parse_args(arguments)))
