"""A server around transformers' `generate`: static batches, nothing else. `POST /` {"prompts": tokens, "tokens": n}.

    python benchmarks/harness/generate.py CHECKPOINT --port 8123 --threads 2 --dtype bfloat16 --device cpu

The answer, {"seconds": s, "first": s, "made": n}, is timed around `generate` alone, so that neither HTTP nor text
counts; `first` is when the first token of every row was chosen. One request at a time.
"""

import argparse
import json
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList


class Clock(LogitsProcessor):  # type: ignore[misc]
    """Notes when the first logits came."""

    first = 0.0

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if not self.first:
            _wait(scores.device)
            self.first = time.perf_counter()
        return scores


def _wait(device: torch.device) -> None:
    """Until everything that was asked of a GPU is done; a CPU has done it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def generate(model: Any, prompts: list[list[int]], tokens: int) -> dict[str, float]:
    """Answer `prompts`, all of one length, with `tokens` tokens each."""
    clock, start = Clock(), time.perf_counter()
    rows = torch.tensor(prompts, device=model.device)
    found = model.generate(
        rows,
        attention_mask=torch.ones_like(rows),
        do_sample=False,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        logits_processor=LogitsProcessorList([clock]),
    )
    _wait(model.device)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "first": clock.first - start, "made": found.numel() - rows.numel()}


def handler(model: Any) -> type[BaseHTTPRequestHandler]:
    """What answers the requests to `model`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({})

        def do_POST(self) -> None:
            self._answer(generate(model, **json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

        def _answer(self, value: object) -> None:
            body = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("checkpoint", type=Path)
    ask.add_argument("--port", type=int, required=True)
    ask.add_argument("--threads", type=int, default=0, help="default: all cores")
    ask.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    ask.add_argument("--device", default="cpu")
    a = ask.parse_args()
    if a.threads:
        torch.set_num_threads(a.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(a.checkpoint, dtype=getattr(torch, a.dtype), local_files_only=True)
    HTTPServer(("127.0.0.1", a.port), handler(model.eval().to(a.device))).serve_forever()


if __name__ == "__main__":
    main()
