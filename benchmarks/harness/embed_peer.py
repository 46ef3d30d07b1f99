"""Embeds texts in this process, as a program would that has the model to itself; started by `embeddings.py`.

    python embed_peer.py transformers|sentence-transformers DIRECTORY THREADS

Reads one JSON line with `texts` at a time, and answers with `seconds` and the first vectors.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

BATCH = 32  # sentence-transformers' own default
SHOWN = 32
Embed = Callable[[Sequence[str]], Tensor]


def transformers(directory: str) -> Embed:
    """Batches of texts of like length, filled up, pooled by mean: what one writes by hand."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(directory), AutoModel.from_pretrained(directory).eval()

    @torch.inference_mode()
    def embed(texts: Sequence[str]) -> Tensor:
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        found = torch.empty(len(texts), model.config.hidden_size)
        for first in range(0, len(order), BATCH):
            some = order[first : first + BATCH]
            given = tokenizer([texts[index] for index in some], padding=True, truncation=True, return_tensors="pt")
            mask = given["attention_mask"][..., None]
            states = model(**given).last_hidden_state * mask
            found[some] = torch.nn.functional.normalize(states.sum(1) / mask.sum(1), dim=-1)
        return found

    return embed


def sentence_transformers(directory: str) -> Embed:
    """Its `encode`, which sorts by length too."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(directory, device="cpu")

    def embed(texts: Sequence[str]) -> Tensor:
        found: Tensor = model.encode(list(texts), batch_size=BATCH, convert_to_tensor=True, show_progress_bar=False)
        return found

    return embed


def main() -> None:
    kind, directory, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    embed = {"transformers": transformers, "sentence-transformers": sentence_transformers}[kind](directory)
    embed(["ready"])
    print("ready", flush=True)
    for line in sys.stdin:
        texts = json.loads(line)["texts"]
        start = time.perf_counter()
        found = embed(texts)
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "vectors": found[:SHOWN].tolist()}), flush=True)


if __name__ == "__main__":
    main()
