"""`terascope plan` as it is typed."""

import json
from pathlib import Path

import pytest

from .conftest import Cli

SMALL = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 256, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 8, "intermediate_size": 512, "vocab_size": 1024,
    "max_position_embeddings": 4096, "torch_dtype": "bfloat16", "tie_word_embeddings": False,
}  # fmt: skip
K2 = ("plan", "kimi-k2", "--on", "4x8xH200", "--users", "400", "--input", "4000", "--output", "800")


def test_a_table_with_bands_reasons_and_prices(bare: Cli) -> None:
    shown = bare(*K2, "--itl", "50ms", "--ttft", "2s")
    assert shown.status == 0
    assert "moonshotai/Kimi-K2-Instruct: 1,026.4 billion parameters, 32.9 active, fp8; 4x8xH200: 32 x H200" in shown.out
    assert "TP2 DP16 EP32" in shown.out or "TP1 DP32 EP32" in shown.out
    assert "layouts work" in shown.out
    assert "runtime 1.0" in shown.out
    assert "the longest sequence: 131,072 tokens" in shown.out
    assert "service units of prompts" in shown.out


def test_json_has_all_plans_and_refusals(bare: Cli) -> None:
    report = bare(*K2, "--json").json
    assert report["cluster"] == {"name": "4x8xH200", "gpu": "H200", "gpus": 32}
    assert len(report["plans"]) > 20
    assert len(report["rejected"]) > 20


def test_prompts_and_answers_on_gpus_of_their_own(bare: Cli) -> None:
    asked = (*K2, "--ttft", "2s", "--itl", "50ms", "--disaggregated")
    shown = bare(*asked)
    assert shown.out.splitlines()[1].split()[:2] == ["1", "1"]
    assert "400" in shown.out.splitlines()[1]
    assert "one copy of each takes more than the 32 GPUs there are" in shown.out
    divided = bare(*K2, "--json").json["disaggregated"]
    assert divided["plans"][0]["prompt"]["gpus"] + divided["plans"][0]["answer"]["gpus"] == 32
    assert "vllm-router --vllm-pd-disaggregation" in bare(*asked, "--emit", "slurm").out
    assert "are emitted for slurm, pbs, kubernetes, deploy" in bare(*asked, "--emit", "helm").err
    for other in ("--fit", "--compare", "--plot=frontier.png"):
        assert "goes with none of --fit, --compare and --plot" in bare(*asked, other).err
    assert "divisions, not 999" in bare(*asked, "--emit", "slurm", "--rank", "999").err


def test_what_is_not_divided_says_why(bare: Cli) -> None:
    asked = ("plan", "kimi-k2", "--on", "2x8xH200", "--disaggregated")
    assert "2x8xH200 is not divided into prompts and answers" in bare(*asked).err
    assert "does not fit on 8xH200" in bare("plan", "kimi-k2", "--on", "8xH200", "--disaggregated").err
    torch = ("plan", "qwen3-8b", "--on", "4xH100", "--engine", "torch", "--disaggregated")
    assert "the engine does not divide prompts from answers" in bare(*torch).err


def test_several_are_compared(bare: Cli) -> None:
    shown = bare("plan", "kimi-k2", "deepseek-v3", "--on", "8xH200", "--on", "2x8xH200", "--compare")
    assert shown.status == 0
    assert shown.out.count("deepseek-ai/DeepSeek-V3") == 2
    assert "does not fit on 8xH200" in shown.out
    rows = bare("plan", "kimi-k2", "--on", "2x8xH200", "--compare", "--json").json
    assert [one["cluster"]["name"] for one in rows] == ["2x8xH200"]


def test_what_to_buy(bare: Cli) -> None:
    shown = bare("plan", "llama-3.1-70b", "--fit", "--users", "64", "--itl", "50ms", "--on", "H100", "--on", "A100")
    assert shown.status == 0
    assert shown.out.splitlines()[1].split()[0] in ("H100", "A100")
    (one,) = bare("plan", "llama-3.1-70b", "--fit", "--users", "64", "--on", "H100", "--json").json
    assert (one["gpu"], one["why_not"]) == ("H100", "")


def test_lists(bare: Cli) -> None:
    assert "moonshotai/Kimi-K3" in bare("plan", "--list", "models").out
    assert "jupiter" in bare("plan", "--list", "systems").out
    assert len(bare("plan", "--list", "models", "--json").json) >= 27
    assert {"name", "source"} <= set(bare("plan", "--list", "systems", "--json").json[0])


def test_launch_files_are_shown_or_written(bare: Cli, tmp_path: Path) -> None:
    assert "#SBATCH --nodes=4" in bare(*K2, "--emit", "slurm").out
    assert bare(*K2, "--emit", "pbs", "--into", str(tmp_path / "files")).status == 0
    assert (tmp_path / "files" / "serve.pbs").read_text().startswith("#!/bin/bash")
    other = bare(*K2, "--emit", "slurm", "--rank", "9")
    assert other.status == 0


@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_plots(bare: Cli, tmp_path: Path, ending: str, start: bytes) -> None:
    pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")
    path = tmp_path / f"frontier.{ending}"
    assert bare(*K2, "--plot", str(path)).status == 0
    assert path.read_bytes().startswith(start)


def test_a_model_of_one_s_own(bare: Cli, tmp_path: Path) -> None:
    config = {
        "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "intermediate_size": 11008, "vocab_size": 32000, "max_position_embeddings": 4096,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "6.7 billion parameters" in bare("plan", str(tmp_path), "--on", "H100").out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("plan",), "say which model"),
        (("plan", "--list", "engines"), "--list shows models or systems, not 'engines'"),
        (("plan", "kimi-k2"), "say on what: --on NODESxGPUSxGPU"),
        (("plan", "kimi-k2", "--on", "8xH200"), "0.8 GiB are missing on each GPU"),
        ((*K2, "--kv-dtype", "int2"), "there is no KV cache in 'int2'; choose one of"),
        (("plan", "kimi-k2", "--on", "8xH900"), "no GPU or system 'H900'"),
        (("plan", "kimi-k9", "--on", "8xH200"), "knows no model 'kimi-k9'"),
        ((*K2, "--itl", "50"), "--itl is '50'; write a time with its unit"),
        ((*K2, "--on", "8x8xH200"), "add --compare"),
        ((*K2, "--plot", "x.jpg"), "x.jpg must end in .png or .svg"),
        ((*K2, "--emit", "slurm", "--rank", "999"), "plans, not 999"),
        (("plan", "kimi-k2", "deepseek-v3", "--fit", "--users", "3"), "--fit takes one model"),
    ],
)
def test_mistakes_are_one_line_that_says_what_to_do(bare: Cli, words: tuple[str, ...], message: str) -> None:
    shown = bare(*words)
    assert shown.status == 1
    assert message in shown.err
    assert len(shown.err.strip().splitlines()) == 1


def test_a_model_of_the_catalogue_is_planned_by_its_name(cli: Cli, tmp_path: Path) -> None:
    directory = tmp_path / "small"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(SMALL))
    (directory / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    added = cli("models", "add", "small-mixture", f"path:{directory}", "--version", "1")
    assert added.status == 0, added.err
    for name in ("small-mixture", "small-mixture@1"):
        report = cli("plan", name, "--on", "8xH100", "--input", "100", "--output", "100", "--json").json
        assert report["model"]["name"] == "small-mixture@1"
        assert report["model"]["parameters"] == 2 * 1024 * 256 + 4 * 3 * 256 * 512 + 4 * 4 * 256 * 256
    fit = cli(
        "plan", "small-mixture", "--fit", "--users", "4", "--input", "100", "--output", "100", "--on", "H100", "--json"
    )
    assert fit.json[0]["nodes"] == 1
    (directory / "config.json").unlink()
    gone = cli("plan", "small-mixture", "--on", "8xH100")
    assert gone.status == 1
    assert "the files of small-mixture@1 are in" in gone.err
    assert "copy it and give its path" in gone.err


def test_what_neither_library_nor_catalogue_has_is_not_found(cli: Cli) -> None:
    told = cli("plan", "no-such-model", "--on", "8xH100")
    assert told.status == 1
    assert "the planner knows no model 'no-such-model'" in told.err
