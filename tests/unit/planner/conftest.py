"""The real engine's parser, where vLLM is installed for the benchmarks."""

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

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
ParseVllm = Callable[[Sequence[Sequence[str]]], list[dict[str, Any]]]


def _home() -> Path:
    """The checkout that has the environments: this one, or the one that this is a worktree of."""
    command = ["git", "rev-parse", "--path-format=absolute", "--git-common-dir"]
    shared = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    return ROOT if (ROOT / ".venvs" / "vllm").exists() else Path(shared).parent


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    """The Python that has vLLM; skipped where it is not installed."""
    python = _home() / ".venvs" / "vllm" / "bin" / "python"
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
