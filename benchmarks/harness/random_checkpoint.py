"""Writes a model with random weights and a published architecture as a plain checkpoint in bfloat16.

    python benchmarks/harness/random_checkpoint.py qwen3-0.6b TOKENIZER_FROM INTO --device cpu

The sizes are those of the published models, their vocabulary included; the tokenizer is the one in TOKENIZER_FROM,
whose tokens are the first of that vocabulary. Random weights take as long to multiply by as trained ones.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, Qwen3Config


@dataclass(frozen=True)
class Sizes:
    """What tells the models of one architecture apart."""

    hidden: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    head: int = 128
    vocabulary: int = 151936
    tied: bool = False

    def config(self) -> PreTrainedConfig:
        """As transformers takes it."""
        return Qwen3Config(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_heads,
            head_dim=self.head,
            tie_word_embeddings=self.tied,
            max_position_embeddings=40960,
            rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
            rms_norm_eps=1e-6,
        )


PRESETS = {
    "qwen3-8b": Sizes(4096, 12288, 36, 32, 8),
    "qwen3-0.6b": Sizes(1024, 3072, 28, 16, 8, tied=True),
    "tiny": Sizes(64, 128, 2, 4, 2, head=16, vocabulary=49152, tied=True),
}


def write(name: str, tokenizer_from: Path, into: Path, device: str) -> None:
    """Make the preset `name` on `device`, and write it to `into`."""
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(PRESETS[name].config(), dtype=torch.bfloat16)
    model.save_pretrained(into)
    AutoTokenizer.from_pretrained(tokenizer_from, local_files_only=True).save_pretrained(into)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("model", choices=PRESETS)
    ask.add_argument("tokenizer_from", type=Path)
    ask.add_argument("into", type=Path)
    ask.add_argument("--device", default="cpu", help="where the weights are drawn; a GPU is much faster")
    a = ask.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    write(a.model, a.tokenizer_from, a.into, a.device)
    print(a.into)


if __name__ == "__main__":
    main()
