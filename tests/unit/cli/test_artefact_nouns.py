"""softprompts and projectors, asked of a real gateway."""

from pathlib import Path

import numpy as np
import safetensors.numpy

from .conftest import Cli


def test_a_soft_prompt_from_its_file_to_its_end(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "tone.safetensors"
    file.write_bytes(safetensors.numpy.save({"a": np.zeros((3, 4), dtype=np.float32)}))
    assert cli("softprompts", "list").err == "there is none\n"
    told = cli("softprompts", "add", "tone", str(file), "--model", "echo", "--version", "1", "--note", "kind")
    assert told.out.startswith("local/tone@1 is for echo@")
    cli("projects", "create", "choir")
    assert cli("softprompts", "share", "tone", "choir").out == "local/tone may be used by local, choir\n"
    [one] = cli("softprompts", "show", "tone", "--json").json
    assert (one["shape"], one["shared_with"], one["note"]) == ([3, 4], ["choir"], "kind")
    assert "local/tone  1        echo@" in cli("softprompts", "list").out
    assert cli("softprompts", "remove", "tone").out == "local/tone is removed\n"
    assert "there is no softprompt" in cli("softprompts", "show", "tone").err


def test_what_is_no_projector(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "p.safetensors"
    file.write_bytes(safetensors.numpy.save({"0.weight": np.zeros((3, 4), dtype=np.float32)}))
    assert cli("projectors", "add", "p", str(file), "--model", "echo", "--json").json["shape"] == [4, 3]
    assert "activation" in cli("projectors", "add", "q", str(file), "--model", "echo", "--activation", "step").err
    file.write_bytes(b"\x80\x04K\x01.")
    assert "safetensors" in cli("projectors", "add", "q", str(file), "--model", "echo").err
    assert "cannot read" in cli("projectors", "add", "q", str(tmp_path / "none"), "--model", "echo").err
