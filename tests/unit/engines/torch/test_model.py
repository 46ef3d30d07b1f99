import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from terascope.core.errors import ConfigError
from terascope.core.models import Task
from terascope.engines.torch import memory, unpack
from terascope.engines.torch.cache import BLOCK
from terascope.engines.torch.model import CausalModel, load_causal, task_of
from terascope.engines.torch.settings import WorkerSettings
from terascope.engines.torch.vocabulary import Vocabulary

from .conftest import make_tokenizer


def _load(directory: Path, **settings: Any) -> CausalModel:
    return load_causal(
        WorkerSettings(directory, "tiny", **{"max_batch": 2, "extra_rows": 0, **settings}), lambda _: None
    )


def _changed(source: Path, target: Path, **config: Any) -> Path:
    directory = shutil.copytree(source, target / "changed")
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return directory


def test_stages_are_told(tiny_dir: Path) -> None:
    stages: list[str] = []
    load_causal(WorkerSettings(tiny_dir, "tiny"), stages.append)
    assert stages == ["reading weights", "warming up"]


def test_types(tiny_dir: Path) -> None:
    assert _load(tiny_dir).dtype == "float32"
    half = _load(tiny_dir, dtype="bfloat16")
    assert (half.dtype, half.packed.module.dtype) == ("bfloat16", torch.bfloat16)


def test_the_cache_holds_what_may_run(tiny_dir: Path) -> None:
    assert _load(tiny_dir).packed.cache_tokens == 2 * (512 + BLOCK)
    assert _load(tiny_dir, context_length=100).packed.cache_tokens == 240
    assert _load(tiny_dir, extra_rows=1).packed.cache_tokens == 3 * (512 + BLOCK)
    assert _load(tiny_dir, cache_tokens=4096).packed.cache_tokens == 4096


@pytest.mark.parametrize("context_length", [1, 10, 100])
def test_a_small_cache_has_small_steps_of_fixed_shape(tiny_dir: Path, context_length: int) -> None:
    packed = _load(tiny_dir, context_length=context_length, max_batch=1).packed
    assert 1 <= packed.fixed_rows <= min(8, packed.pool.blocks)
    assert packed.pool.free == packed.pool.blocks
    packed.pool.check()


def test_a_cache_too_small_for_one_request_is_refused_with_the_arithmetic(tiny_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"512 tokens needs 528 tokens .* at 512 bytes each; there is room for 500"):
        _load(tiny_dir, cache_tokens=500)


def test_context(tiny_dir: Path, tmp_path: Path) -> None:
    assert _load(tiny_dir, context_length=77).context_length == 77
    with pytest.raises(ConfigError, match="513"):
        _load(tiny_dir, context_length=513)
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 128}
    stretched = _changed(tiny_dir, tmp_path, rope_parameters=rope)
    assert _load(stretched).context_length == 128  # beyond it a row would change with its neighbours


def test_ends_are_gathered(tiny_dir: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(tiny_dir, tmp_path / "model")
    file = directory / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": [0, 2, 100_000]}))
    assert _load(directory).vocabulary.ends == (0, 2)


def test_tasks(tiny_dir: Path, encoder_dir: Path, tmp_path: Path) -> None:
    assert task_of(WorkerSettings(tiny_dir, "x")) is Task.GENERATE
    assert task_of(WorkerSettings(encoder_dir, "x")) is Task.EMBED
    assert task_of(WorkerSettings(tiny_dir, "x", task=Task.EMBED)) is Task.EMBED
    (tmp_path / "model.gguf").touch()
    assert task_of(WorkerSettings(tmp_path, "x")) is Task.GENERATE
    (tmp_path / "other.gguf").touch()
    with pytest.raises(ConfigError, match="2 GGUF files"):
        task_of(WorkerSettings(tmp_path, "x"))


def test_a_device_that_is_not_there(tiny_dir: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("it is there")
    with pytest.raises(ConfigError, match="cuda:3"):
        _load(tiny_dir, device="cuda:3")


def test_an_unpacked_model_is_kept_whole_or_not_at_all(tiny_dir: Path, tmp_path: Path) -> None:
    model, words = AutoModelForCausalLM.from_pretrained(tiny_dir), make_tokenizer()
    target = tmp_path / "kept" / "float32"
    unpack.save(model, words, target)
    before = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
    assert _load(target).context_length == 512
    unpack.save(model, words, target)  # another worker was first
    assert {path.name: path.stat().st_mtime_ns for path in target.iterdir()} == before
    assert [path.name for path in target.parent.iterdir()] == ["float32"]


def test_vocabulary(tiny: CausalModel) -> None:
    words = tiny.vocabulary
    text = "Hello\n 日本 😀 x"
    tokens = words.encode(text, special=True)
    assert tokens == make_tokenizer()(text).input_ids
    assert words.decode(tokens) == text
    assert b"".join(words.table.text_bytes(token) for token in tokens).decode() == text
    assert {"messages", "tools", "add_generation_prompt"} <= words.template_names
    pieces = [words.table.name_bytes(token) for token in range(words.size)]
    assert {bytes([value]) for value in range(256)} <= set(pieces)
    assert words.longest == max(map(len, pieces))
    assert words.table.text_bytes(2) == b""
    assert words.table.name(2) == "<|im_end|>"


def test_vocabularies_with_spaces_as_characters() -> None:
    """SentencePiece's kind, with bytes for what it does not know."""
    words = ["<unk>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "H", "i", "▁H", "▁Hi", "a"]
    merges = [("▁", "H"), ("▁H", "i")]
    vocab = {word: i for i, word in enumerate(words)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    found = Vocabulary(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>"), len(words), [1])
    assert found.grammars is not None
    tokens = found.encode("Hi 日a", special=False)
    assert [found.table.text_bytes(token) for token in tokens] == [b" Hi", b" ", b"\xe6", b"\x97", b"\xa5", b"a"]
    assert found.table.name_bytes(vocab["<0xFF>"]) == b"\xff"


def test_vocabularies_that_the_grammar_library_does_not_know() -> None:
    backend = Tokenizer(
        models.Unigram([("<unk>", 0.0), ("▁", -1.0), ("▁the", -2.0), ("a", -3.0), ("日", -4.0)], unk_id=0)
    )
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    found = Vocabulary(tokenizer, 5, [])
    assert found.grammars is None
    pieces = [found.table.text_bytes(token) for token in range(5)]
    assert pieces == [b"", b" ", b" the", b"a", "日".encode()]


def test_memory() -> None:
    assert memory.available() > 1 << 20
    assert 0 < memory.for_cache(torch.device("cpu")) < memory.available()
    assert memory.was_too_little(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert memory.was_too_little(torch.OutOfMemoryError("x"))
    assert memory.was_too_little(MemoryError())
    assert not memory.was_too_little(RuntimeError("shapes do not match"))
    assert not memory.was_too_little(ValueError("out of memory"))
