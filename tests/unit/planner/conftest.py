"""The real engines' parsers, where `make tools` has fetched them."""

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from harness import sglang

from .sglang_parser import Parser, read_parser

ROOT = Path(__file__).parents[3]
_PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = make_arg_parser(FlexibleArgumentParser())
plain = (bool, int, float, str)
for line in sys.stdin:
    arguments = parser.parse_args(json.loads(line)[2:])
    validate_parsed_serve_args(arguments)
    found = {key: value for key, value in vars(arguments).items() if isinstance(value, plain)}
    print("parsed " + json.dumps(found), flush=True)
"""
_SOURCES = {
    "sglang.launch_server": (sglang.ENGINE, "sglang/srt/server_args.py"),
    "sglang_router.launch_router": (sglang.ROUTERS[0], "sglang_router/router_args.py"),
    "vllm-router": (sglang.ROUTERS[1], "vllm_router/router_args.py"),
}
ParseVllm = Callable[[Sequence[Sequence[str]]], list[dict[str, Any]]]


def _home(name: str) -> Path:
    """The checkout that has `name` in `.venvs`: this one, or the one that this is a worktree of."""
    command = ["git", "rev-parse", "--path-format=absolute", "--git-common-dir"]
    shared = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    return ROOT if (ROOT / ".venvs" / name).exists() else Path(shared).parent


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    """The Python that has vLLM; skipped where it is not installed."""
    python = _home("vllm") / ".venvs" / "vllm" / "bin" / "python"
    if not python.exists():
        pytest.skip("vLLM is not installed; `make tools` installs it")
    return python


@pytest.fixture(scope="session")
def parse_vllm(vllm_python: Path) -> ParseVllm:
    """Parses command lines with vLLM's own parser."""

    def parse(commands: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
        lines = "\n".join(json.dumps(list(one)) for one in commands)
        done = subprocess.run(
            [str(vllm_python), "-c", _PARSE], input=lines, capture_output=True, text=True, check=False, timeout=110
        )
        assert done.returncode == 0, done.stderr[-2000:]
        parsed = [line.removeprefix("parsed ") for line in done.stdout.splitlines() if line.startswith("parsed ")]
        assert len(parsed) == len(commands)
        return [json.loads(line) for line in parsed]

    return parse


@pytest.fixture(scope="session")
def parse_sglang() -> Mapping[str, Parser]:
    """Parsers of SGLang and of the routers, by what a command line starts; skipped where their wheels are not."""
    found = {}
    for program, (package, module) in _SOURCES.items():
        wheel = next((_home("wheels") / ".venvs" / "wheels").glob(f"{package.replace('==', '-')}-*.whl"), None)
        if wheel is None:
            pytest.skip(f"the wheel of {package} is not there; `make tools` fetches it")
        found[program] = read_parser(wheel, module)
    return found
