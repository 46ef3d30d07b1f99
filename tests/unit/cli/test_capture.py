"""`terascope capture` at a gateway that has no inside to show; `tests/flow/test_capture.py` has one that does."""

from pathlib import Path
from typing import Any

import pytest

from terascope.cli.capture import _value
from terascope.core.errors import BadRequest

from .conftest import Cli


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("all", "all"), ("2:5", "2:5"), (":-1", ":-1"), ("-2", -2), ("7", 7), ("[0, -1]", [0, -1]),
        ('{"text": "Paris"}', {"text": "Paris"}), ("", ""),
    ],
)  # fmt: skip
def test_values_as_plans_have_them(text: str, value: Any) -> None:
    assert _value(text) == value


def test_a_value_that_is_no_json() -> None:
    with pytest.raises(BadRequest, match="is not JSON"):
        _value("{text: Paris}")


def test_what_cannot_be(cli: Cli, tmp_path: Path) -> None:
    prompts = tmp_path / "p.txt"
    prompts.write_text("one\n")
    asked = ["capture", str(prompts), "-m", "echo", "-o", str(tmp_path / "a.zarr")]
    assert "name at least one site with --site" in cli(*asked).err
    assert "names its layer already" in cli(*asked, "--site", "blocks.1.mlp.output", "--layer", "2").err
    refused = cli(*asked, "--site", "residual.post", "--layer", "2")
    assert (refused.status, "echo" in refused.err) == (1, True)
    assert "must end with .zarr, .parquet, .safetensors" in cli(*asked[:-1], "a.csv", "--site", "norm").err
    none = cli("capture", str(tmp_path / "none"), "-m", "echo", "-o", str(tmp_path / "b.zarr"), "--site", "norm")
    assert "cannot read the prompts" in none.err
    assert cli(*asked, "--site", "norm", "--dtype", "F8").status == 2
