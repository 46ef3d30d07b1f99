"""Runs batch scripts in a real shell, with programs beside it that write down how they were called."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

PROGRAM = f"""#!{sys.executable}
import json, os, sys
seen = [os.environ.get("RANK_SEEN", "0"), os.environ.get("CUDA_VISIBLE_DEVICES", ""), os.path.basename(sys.argv[0])]
with open(os.environ["RECORD"], "a") as record:
    record.write(json.dumps(seen + sys.argv[1:]) + "\\n")
"""
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
for ((rank = 0; rank < NODES; rank++)); do SLURM_NODEID=$rank RANK_SEEN=$rank "$@"; done
"""
MPIEXEC = """#!/bin/bash
while [[ $1 != bash ]]; do shift; done
for ((rank = 0; rank < NODES; rank++)); do PALS_RANKID=$rank RANK_SEEN=$rank "$@"; done
"""


def pairs(words: list[str]) -> list[tuple[str, str]]:
    """Options, each with the word after it."""
    return [(a, b) for a, b in pairwise(words) if a.startswith("--")]


def run_script(script: str, tmp_path: Path, node: int) -> list[list[str]]:
    """Run a batch script in bash; the programs it starts write down how they were called."""
    bin_, record = tmp_path / "bin", tmp_path / "record"
    bin_.mkdir()
    programs = {
        **dict.fromkeys(("vllm", "python3", "vllm-router"), PROGRAM),
        "srun": SRUN,
        "mpiexec": MPIEXEC,
        "scontrol": "#!/bin/bash\necho node-a\necho node-b\necho node-c\necho node-d\n",
    }
    for name, text in programs.items():
        (bin_ / name).write_text(text)
        (bin_ / name).chmod(0o755)
    (tmp_path / "nodes").write_text("".join(f"node-{one}\n" * node for one in "abcd"))
    (tmp_path / "script").write_text(script)
    environment = {
        "PATH": f"{bin_}:{os.environ['PATH']}", "RECORD": str(record), "VLLM_API_KEY": "secret",
        "SLURM_JOB_NODELIST": "node-[a-b]", "PBS_NODEFILE": str(tmp_path / "nodes"),
    }  # fmt: skip
    done = subprocess.run(
        ["bash", str(tmp_path / "script")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in record.read_text().splitlines()]
