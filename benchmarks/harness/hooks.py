"""A server around plain transformers, or nnsight: captures in one process. `POST /` {"way": w, "prompts": tokens}.

    python benchmarks/harness/hooks.py CHECKPOINT --port 8123 --threads 2 --dtype bfloat16 --batch 4 --device cpu

Ways: `hooks`, a forward hook on the last block, `--batch` prompts at once; `nnsight`, one trace for each prompt;
`nnsight_batched`, one trace for `--batch` prompts, each in its own invoke. All compute the logits of last tokens only.
The answer, {"seconds": s, "bytes": n, "norm": x}, is timed around the work alone: from token ids to tensors in main
memory.
One request at a time.
"""

import argparse
import json
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

Prompts = list[list[int]]
Way = Callable[[Prompts], list[torch.Tensor]]


def parts(prompts: Prompts, size: int) -> list[Prompts]:
    """`prompts`, so many at once."""
    return [prompts[at : at + size] for at in range(0, len(prompts), size)]


def hooks(model: Any, batch: int) -> Way:
    """A forward hook on the last block."""

    @torch.inference_mode()
    def run(prompts: Prompts) -> list[torch.Tensor]:
        kept: list[torch.Tensor] = []
        keep = model.model.layers[-1].register_forward_hook(lambda _, __, x: kept.append(x.to("cpu", copy=True)))
        try:
            for rows in parts(prompts, batch):
                model(torch.tensor(rows, device=model.device), use_cache=False, logits_to_keep=1)
        finally:
            keep.remove()
        return kept

    return run


def nnsight(model: Any, batch: int) -> Way:
    """One trace for each prompt."""

    def run(prompts: Prompts) -> list[torch.Tensor]:
        kept = []
        for row in prompts:
            with torch.no_grad(), model.trace(torch.tensor([row]), use_cache=False, logits_to_keep=1):
                found = model.model.layers[-1].output.save()
            kept.append(found.cpu())
        return kept

    return run


def nnsight_batched(model: Any, batch: int) -> Way:
    """An invoke for each prompt."""

    def run(prompts: Prompts) -> list[torch.Tensor]:
        kept = []
        for rows in parts(prompts, batch):
            with torch.no_grad(), model.trace(use_cache=False, logits_to_keep=1) as tracer:
                found: Any = [].save()  # type: ignore[attr-defined]  # nnsight gives it to every object
                for row in rows:
                    with tracer.invoke(torch.tensor([row])):
                        found.append(model.model.layers[-1].output)
            kept += [one.cpu() for one in found]
        return kept

    return run


def timed(way: Way, prompts: Prompts) -> dict[str, float]:
    """What came of a way, and how long it took."""
    start = time.perf_counter()
    found = way(prompts)
    seconds = time.perf_counter() - start
    whole = torch.cat([one.reshape(-1, one.shape[-1]) for one in found])
    return {"seconds": seconds, "bytes": whole.nbytes, "norm": float(whole.float().norm())}


def handler(ways: dict[str, Way]) -> type[BaseHTTPRequestHandler]:
    """What answers the requests."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(timed(ways[asked["way"]], asked["prompts"]))

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
    ask.add_argument("--batch", type=int, default=4)
    ask.add_argument("--device", default="cpu")
    ask.add_argument("--nnsight", action="store_true", help="the ways of nnsight, in place of hooks")
    a = ask.parse_args()
    if a.threads:
        torch.set_num_threads(a.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    dtype = getattr(torch, a.dtype)
    if a.nnsight:
        from nnsight import TransformersModel  # type: ignore[import-not-found]  # only in its own environment

        seen = TransformersModel(
            str(a.checkpoint), task="text-generation", dtype=dtype, device_map=a.device, dispatch=True
        )
        ways = {"nnsight": nnsight(seen, a.batch), "nnsight_batched": nnsight_batched(seen, a.batch)}
    else:
        model = AutoModelForCausalLM.from_pretrained(a.checkpoint, dtype=dtype, local_files_only=True)
        model = model.eval().to(a.device)
        ways = {"hooks": hooks(model, a.batch)}
    HTTPServer(("127.0.0.1", a.port), handler(ways)).serve_forever()


if __name__ == "__main__":
    main()
