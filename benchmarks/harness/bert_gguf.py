"""Writes a sentence-transformers checkpoint of BERT's kind as a GGUF file for llama.cpp; prints its path.

python benchmarks/harness/bert_gguf.py CHECKPOINT INTO.gguf
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

_SPECIAL = {
    "[PAD]": "padding", "[UNK]": "unknown", "[CLS]": "bos", "[SEP]": "seperator", "[MASK]": "mask",
}  # fmt: skip
"""What GGUF calls them, in its own spelling."""


def write(checkpoint: Path, into: Path) -> Path:
    """Write `checkpoint` in float16 with mean pooling; return `into`."""
    config = json.loads((checkpoint / "config.json").read_text())
    writer = gguf.GGUFWriter(into, "bert")
    _settings(writer, config)
    _vocabulary(writer, (checkpoint / "vocab.txt").read_text(encoding="utf-8").rstrip("\n").split("\n"))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, config["num_hidden_layers"])
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        known = names.get_name(name.removeprefix("bert."), try_suffixes=(".weight", ".bias"))
        if known:  # the pooler and the numbers of positions are not among them
            writer.add_tensor(
                known, tensor.astype(np.float16 if known.startswith("blk") and tensor.ndim > 1 else np.float32)
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return into


def _settings(writer: gguf.GGUFWriter, config: dict[str, int]) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)


def _vocabulary(writer: gguf.GGUFWriter, words: list[str]) -> None:
    """llama.cpp marks where words begin, and BERT where they go on."""
    normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    special = [one.startswith("[") and one.endswith("]") for one in words]
    writer.add_tokenizer_model("bert")
    writer.add_token_type_count(2)
    writer.add_token_list(
        [
            one if own else one.removeprefix("##") if one.startswith("##") else f"\u2581{one}"
            for one, own in zip(words, special, strict=True)
        ]
    )
    writer.add_token_types([control if own else normal for own in special])
    for word, name in _SPECIAL.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", words.index(word))


if __name__ == "__main__":
    print(write(Path(sys.argv[1]), Path(sys.argv[2])))
