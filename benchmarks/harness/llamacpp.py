"""llama.cpp's own server, as the package xllamacpp has it, in an environment of its own, `.venvs/llamacpp`.

Run as a program it makes that, and prints its Python.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if __package__:
    from . import install, processes
else:  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from harness import install, processes

PACKAGE = "xllamacpp==2026.10.11549"  # llama.cpp b11549
_PROGRAM = Path(__file__).with_name("llamacpp_serve.py")


def python() -> Path:
    """Return its Python, made where it is not there. Raises Failed as `install.venv` does."""
    return install.venv("llamacpp", [PACKAGE]) / "python"


def there() -> Path | None:
    """Return its Python where it has been made; None elsewhere."""
    path = install.ROOT / ".venvs" / "llamacpp" / "bin" / "python"
    return path if (path.parents[1] / "requirements.txt").exists() and path.exists() else None


@contextmanager
def starting(gguf: Path, name: str, log: Path, **settings: object) -> Iterator[tuple[str, processes.Process]]:
    """Run the server on one thread; give its URL and its process at once, while the model is still being loaded.

    `settings` are fields of xllamacpp's CommonParams.
    """
    port = processes.free_port()
    command: list[str | Path] = [python(), _PROGRAM, gguf, name, str(port), json.dumps(settings)]
    with processes.Process(command, log=log) as process:
        yield f"http://127.0.0.1:{port}", process


@contextmanager
def serving(gguf: Path, name: str, log: Path, **settings: object) -> Iterator[str]:
    """As `starting`; give the URL once it answers."""
    with starting(gguf, name, log, **settings) as (url, process):
        process.wait_until(processes.answers(f"{url}/health"), timeout=120, every=0.02)
        yield url


if __name__ == "__main__":
    print(python())
