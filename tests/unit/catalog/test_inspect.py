"""What a model directory says of itself."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from terascope.catalog.files import hash_files
from terascope.catalog.inspect import describe, tokenizer_sha256
from terascope.catalog.threads import Work
from terascope.core.errors import BadRequest
from terascope.core.models import Task
from terascope.testing.checkpoints import checkpoint, safetensors, write_files


def _json(**values: object) -> bytes:
    return json.dumps(values).encode()


def test_a_causal_language_model(tmp_path: Path) -> None:
    facts = describe(write_files(tmp_path, checkpoint()))
    assert (facts.task, facts.context_length, facts.architecture) == (Task.GENERATE, 64, "LlamaForCausalLM")
    assert (facts.parameters, facts.licence) == (132, "apache-2.0")
    assert facts.chat_template_sha256 == hashlib.sha256(b"{{ messages }}").hexdigest()


@pytest.mark.parametrize(
    ("config", "task"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, Task.GENERATE),
        ({"architectures": ["T5ForConditionalGeneration"]}, Task.GENERATE),
        ({"architectures": ["ChatGLMModel"], "auto_map": {"AutoModelForCausalLM": "x.Y"}}, Task.GENERATE),
        ({"architectures": ["BertModel"], "model_type": "bert"}, Task.EMBED),
        ({"architectures": ["BertForMaskedLM"]}, Task.EMBED),
        ({"architectures": ["Qwen2Model"]}, Task.EMBED),
        ({"architectures": None}, Task.EMBED),
    ],
)
def test_the_task_follows_from_the_architecture(tmp_path: Path, config: dict[str, object], task: Task) -> None:
    assert describe(write_files(tmp_path, checkpoint(**config))).task is task


def test_without_an_architecture_a_generation_config_tells(tmp_path: Path) -> None:
    files = checkpoint(architectures=None) | {"generation_config.json": b"{}"}
    facts = describe(write_files(tmp_path, files))
    assert (facts.task, facts.architecture) == (Task.GENERATE, "llama")


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"max_position_embeddings": 8192}, 8192),
        ({"max_position_embeddings": None, "n_positions": 1024}, 1024),
        ({"max_position_embeddings": None, "text_config": {"max_position_embeddings": 262144}}, 262144),
        ({"max_position_embeddings": 514, "model_type": "roberta", "pad_token_id": 1}, 512),
        ({"max_position_embeddings": 514, "model_type": "xlm-roberta"}, 512),
        ({"max_position_embeddings": "many"}, 0),
        ({"max_position_embeddings": 1e30}, 0),
        ({"max_position_embeddings": 10**30}, 0),
        ({"max_position_embeddings": -1}, 0),
        ({"max_position_embeddings": True}, 0),
    ],
)
def test_the_context_length(tmp_path: Path, config: dict[str, object], length: int) -> None:
    assert describe(write_files(tmp_path, checkpoint(**config))).context_length == length


def test_a_sentence_transformer(tmp_path: Path) -> None:
    files = checkpoint(architectures=["BertModel"], max_position_embeddings=512) | {
        "modules.json": json.dumps([{"path": ""}, {"path": "1_Pooling"}]).encode(),
        "1_Pooling/config.json": b"{}",
        "sentence_bert_config.json": _json(max_seq_length=256),
    }
    facts = describe(write_files(tmp_path, files))
    assert (facts.task, facts.context_length) == (Task.EMBED, 256)


def test_a_sentence_transformer_with_the_transformer_in_a_folder_of_its_own(tmp_path: Path) -> None:
    files = {f"0_Transformer/{name}": content for name, content in checkpoint(architectures=["BertModel"]).items()}
    files["modules.json"] = json.dumps([{"path": "0_Transformer"}]).encode()
    facts = describe(write_files(tmp_path, files))
    assert (facts.task, facts.parameters, facts.architecture) == (Task.EMBED, 132, "BertModel")


@pytest.mark.parametrize("modules", [b"{}", b"[]", b'["x"]', b'[{"path": "../.."}]', b'[{"path": 7}]'])
def test_an_odd_modules_file_is_survived(tmp_path: Path, modules: bytes) -> None:
    assert describe(write_files(tmp_path, checkpoint() | {"modules.json": modules})).task is Task.EMBED


def test_shards_are_counted_together_and_once(tmp_path: Path) -> None:
    files = checkpoint()
    del files["model.safetensors"]
    files |= {
        "model-1.safetensors": safetensors({"a": (10,)}),
        "model-2.safetensors": safetensors({"b": (5,)}),
        "consolidated.safetensors": safetensors({"a": (10,), "b": (5,)}),
        "model.safetensors.index.json": _json(weight_map={"a": "model-1.safetensors", "b": "model-2.safetensors"}),
    }
    assert describe(write_files(tmp_path, files)).parameters == 15
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(BadRequest, match=r"incomplete.*model-2.safetensors"):
        describe(tmp_path)


def test_pickled_weights_are_not_opened(tmp_path: Path) -> None:
    files = checkpoint() | {"pytorch_model.bin": b"not even a pickle"}
    del files["model.safetensors"]
    assert describe(write_files(tmp_path, files)).parameters == 0


@pytest.mark.parametrize(
    ("files", "template"),
    [
        ({"chat_template.jinja": b"file"}, "file"),
        ({"chat_template.json": _json(chat_template="json")}, "json"),
        ({"tokenizer_config.json": _json(chat_template=[{"name": "default"}])}, '[{"name": "default"}]'),
        ({"tokenizer_config.json": b"{}"}, ""),
    ],
)
def test_the_chat_template_is_the_one_transformers_uses(tmp_path: Path, files: dict[str, bytes], template: str) -> None:
    expected = hashlib.sha256(template.encode()).hexdigest() if template else ""
    assert describe(write_files(tmp_path, checkpoint() | files)).chat_template_sha256 == expected


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        (b"---\nlicense: mit\n---\n", "mit"),
        (b"---\nlicense:\n- mit\n- other\n---\n", "mit"),
        (b"---\nlicense: other\nlicense_name: open-model-1\n---\n", "open-model-1"),
        (b"---\nlicense: [unclosed\n---\n", ""),
        (b"---\n- a list\n---\n", ""),
        (b"# No front matter\nlicense: mit\n", ""),
        (b"---\nlicense: " + b"x" * 500 + b"\n---\n", "x" * 100),
        (b"\xff\xfe", ""),
    ],
)
def test_the_licence_of_the_model_card(tmp_path: Path, card: bytes, licence: str) -> None:
    assert describe(write_files(tmp_path, checkpoint() | {"README.md": card})).licence == licence


async def test_the_tokenizer_has_a_hash_of_its_own(tmp_path: Path, work: Work) -> None:
    def hashed(folder: str, files: dict[str, bytes]) -> str:
        return tokenizer_sha256(hash_files(write_files(tmp_path / folder, files), work))

    files = checkpoint()
    one = hashed("1", files)
    assert one == hashed("2", files | {"model.safetensors": b"other", "README.md": b"other"})
    assert one != hashed("3", files | {"tokenizer.json": b"other"})
    assert hashed("4", {"config.json": b"{}"}) == ""


class TestGguf:
    """Directories with GGUF files."""

    def test_one_file(self, tmp_path: Path, write_gguf: Callable[..., Path]) -> None:
        write_gguf(tmp_path / "x.gguf", general__license="mit", tokenizer__chat_template="t")
        facts = describe(tmp_path)
        assert (facts.task, facts.context_length, facts.parameters) == (Task.GENERATE, 128, 512)
        assert (facts.architecture, facts.licence) == ("llama", "mit")
        assert facts.chat_template_sha256 == hashlib.sha256(b"t").hexdigest()
        assert len(facts.tokenizer_sha256) == 64

    @pytest.mark.parametrize(
        ("architecture", "metadata", "task"),
        [
            ("bert", {}, Task.EMBED),
            ("nomic-bert", {}, Task.EMBED),
            ("qwen3", {"qwen3__pooling_type": 3}, Task.EMBED),
            ("qwen3", {"qwen3__pooling_type": 0}, Task.GENERATE),
            ("llama", {"llama__attention__causal": False}, Task.EMBED),
            ("llama", {"llama__attention__causal": True}, Task.GENERATE),
        ],
    )
    def test_the_task(
        self,
        tmp_path: Path,
        write_gguf: Callable[..., Path],
        architecture: str,
        metadata: dict[str, int | bool],
        task: Task,
    ) -> None:
        write_gguf(tmp_path / "x.gguf", architecture, **metadata)
        assert describe(tmp_path).task is task

    def test_a_config_beside_it_does_not_hide_it(self, tmp_path: Path, write_gguf: Callable[..., Path]) -> None:
        write_files(tmp_path, {"config.json": b"{}", "mmproj-x.gguf": b"a projector"})
        write_gguf(tmp_path / "x.gguf")
        assert describe(tmp_path).architecture == "llama"

    def test_all_parts_of_a_split_model_are_counted(self, tmp_path: Path, write_gguf: Callable[..., Path]) -> None:
        first = write_gguf(tmp_path / "x-00001-of-00002.gguf")
        with pytest.raises(BadRequest, match="incomplete: 1 of 2"):
            describe(tmp_path)
        first.with_name("x-00002-of-00002.gguf").write_bytes(first.read_bytes())
        assert describe(tmp_path).parameters == 1024

    def test_several_models_are_refused(self, tmp_path: Path, write_gguf: Callable[..., Path]) -> None:
        write_gguf(tmp_path / "x.Q4.gguf")
        write_gguf(tmp_path / "x.Q8.gguf")
        with pytest.raises(BadRequest, match=r"several models \(x.Q4.gguf, x.Q8.gguf\)"):
            describe(tmp_path)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "looked for config.json, modules.json or .*found nothing"),
        ({"notes.txt": b"", "model.safetensors": safetensors()}, "found model.safetensors, notes.txt"),
        ({"config.json": b"{}"}, "no weights"),
        ({"config.json": b"{", "model.safetensors": safetensors()}, "config.json is not JSON"),
        ({"config.json": b"[]", "model.safetensors": safetensors()}, "config.json is not a JSON object"),
        ({"config.json": b"[" * 100_000, "model.safetensors": safetensors()}, "is not JSON"),
        ({"config.json": b"\xff\xfe", "model.safetensors": safetensors()}, "is not JSON"),
        ({"config.json": b"{}", "model.safetensors": safetensors()[:-1]}, "truncated"),
        ({"x.gguf": b"GGUF"}, "truncated"),
        ({"config.json/x": b"", "model.safetensors": safetensors()}, "cannot be read"),
    ],
)
def test_what_is_no_model_is_refused_with_a_reason(tmp_path: Path, files: dict[str, bytes], said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        describe(write_files(tmp_path, files))


def test_a_json_file_beyond_reason_is_not_read(tmp_path: Path) -> None:
    write_files(tmp_path, checkpoint())
    with (tmp_path / "config.json").open("ab") as file:
        file.truncate(100_000_000)
    with pytest.raises(BadRequest, match="too large"):
        describe(tmp_path)


def test_a_missing_directory_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="cannot be read"):
        describe(tmp_path / "none")
