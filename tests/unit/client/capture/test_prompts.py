"""Prompts from files, right and wrong."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from terascope.client.capture.prompts import PromptFile, digest
from terascope.client.capture.settings import Settings, sites_of
from terascope.core.errors import BadRequest, Conflict

texts = some.text(some.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(lambda text: text.strip())


def write(directory: Path, *lines: str, name: str = "p.jsonl") -> Path:
    path = directory / name
    path.write_text("\n".join(lines))
    return path


def test_what_a_line_may_be(tmp_path: Path) -> None:
    path = write(
        tmp_path, '"one"', "", '{"text": "two", "id": 7, "city": "Rome", "n": [1]}', '{"tokens": [1, 2]}',
        '{"messages": [{"role": "user", "content": "hi"}], "text": null}',
    )  # fmt: skip
    one, two, three, four = PromptFile(path).read()
    assert (one.number, one.line, one.id, one.asked, one.labels) == (0, 1, "0", {"text": "one"}, {})
    assert (two.number, two.line, two.id, two.labels) == (1, 3, "7", {"city": "Rome", "n": [1]})
    assert (three.asked, three.most_tokens) == ({"tokens": [1, 2]}, 2)
    assert four.asked == {"messages": [{"role": "user", "content": "hi"}]}


def test_plain_texts(tmp_path: Path) -> None:
    path = write(tmp_path, "one {", '  "two"  ', "", "dr\u00e4i", name="p.txt")
    assert [one.asked["text"] for one in PromptFile(path).read()] == ["one {", '"two"', "dr\u00e4i"]


@given(given_texts=some.lists(texts, min_size=1, max_size=8), at=some.integers(0, 7))
def test_reading_on_from_any_prompt(tmp_path_factory: pytest.TempPathFactory, given_texts: list[str], at: int) -> None:
    path = write(tmp_path_factory.mktemp("p"), *(json.dumps(text) for text in given_texts))
    whole = list(PromptFile(path).read())
    assert [one.asked["text"] for one in whole] == given_texts
    last = whole[min(at, len(whole) - 1)]
    assert list(PromptFile(path).read(last.end, number=last.number + 1, line=last.line)) == whole[last.number + 1 :]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not JSON"),
        ("5", "a text, or an object"),
        ("[1]", "a text, or an object"),
        ("{}", "exactly one of"),
        ('{"text": "a", "tokens": [1]}', "exactly one of"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    reading = PromptFile(write(tmp_path, '"one"', line)).read()
    assert next(reading).id == "0"
    with pytest.raises(BadRequest, match=rf"p.jsonl, line 2: .*{words}"):
        next(reading)


def test_no_text(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(BadRequest, match="line 1: it is not UTF-8"):
        list(PromptFile(tmp_path / "p.txt").read())
    with pytest.raises(BadRequest, match="cannot read the prompts"):
        PromptFile(tmp_path / "none")
    with pytest.raises(BadRequest, match="cannot read the prompts"):
        PromptFile(tmp_path / "none" / "none")


def test_a_file_that_has_changed(tmp_path: Path) -> None:
    path = write(tmp_path, '"one"', '"two"')
    seen = digest(path, 0, 6).hexdigest()
    PromptFile(path).check_beginning(6, seen)
    write(tmp_path, '"one"', '"other"', '"three"')
    PromptFile(path).check_beginning(6, seen)
    write(tmp_path, '"own"', '"two"')
    with pytest.raises(Conflict, match="have changed"):
        PromptFile(path).check_beginning(6, seen)
    write(tmp_path, '"on')
    with pytest.raises(Conflict, match="have changed"):
        PromptFile(path).check_beginning(6, seen)


@given(data=some.binary(max_size=100), cut=some.integers(0, 100))
def test_a_sum_goes_on(tmp_path_factory: pytest.TempPathFactory, data: bytes, cut: int) -> None:
    path = tmp_path_factory.mktemp("p") / "p"
    path.write_bytes(data)
    parts = digest(path, min(cut, len(data)), len(data), digest(path, 0, min(cut, len(data))))
    assert parts.hexdigest() == digest(path, 0, len(data)).hexdigest()


def test_sites_and_layers() -> None:
    assert sites_of(["norm", "logits"], []) == ("norm", "logits")
    assert sites_of(["residual.post", "mlp.output"], ["3", "all"]) == (
        "blocks.3.residual.post", "blocks.3.mlp.output", "blocks.*.residual.post", "blocks.*.mlp.output",
    )  # fmt: skip
    with pytest.raises(BadRequest, match="at least one site"):
        sites_of([], ["3"])
    with pytest.raises(BadRequest, match="names its layer already"):
        sites_of(["blocks.3.residual.post"], ["3"])


def test_the_plan_of_settings() -> None:
    plain = Settings("m", ("norm",)).plan([{"text": "a"}])
    assert plain == {
        "model": "m", "prompts": [{"text": "a"}], "operations": [{"capture": ["norm"], "tokens": "all"}],
    }  # fmt: skip
    full = Settings("m", ("norm",), "last", {"mean": "units"}, "F16").plan([], dry_run=True)
    assert (full["dtype"], full["dry_run"]) == ("F16", True)
    assert full["operations"] == [{"capture": ["norm"], "tokens": "last", "reduce": {"mean": "units"}}]
