"""SGLang and the routers, as wheels that are read and not installed. Run as a program it fetches them."""

import sys
from pathlib import Path

if __package__:
    from . import install
else:  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from harness import install

ENGINE = "sglang==0.5.10"
ROUTERS = ("sglang_router==0.3.2", "vllm_router==0.1.17")


def wheels() -> list[Path]:
    """Return the paths of the wheels, fetched where they are not there. Raises Failed when pip does."""
    return [install.wheel(one) for one in (ENGINE, *ROUTERS)]


if __name__ == "__main__":
    print(*wheels(), sep="\n")
