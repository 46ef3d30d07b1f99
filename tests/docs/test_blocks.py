"""The documentation is run: every code block of every page, in order, against a real gateway.

`python` and `bash` blocks must succeed; `console` blocks must also print what they show (`...` stands for anything);
`yaml` blocks must be configurations that `terascope` takes; `json` blocks must be JSON. In `nginx` and `ini` blocks
stands a file of `docs/how-to/files`. A block after `<!-- no-run: reason -->` is not run; one of `yaml` after
`<!-- not-config: what -->` is not a configuration of ours.
"""

import doctest
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

from terascope.cli.settings import parse

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])
RUN = ("python", "bash", "console")
SHOWN = ("yaml", "json", "nginx", "ini", "text")
DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_KEY = "tera-..."
PROVIDER = "https://api.example.com"
"""A commercial service; while pages run, one of `terascope.testing` stands for it."""
LLAMA = "http://127.0.0.1:8081"
"""A server of llama.cpp; while pages run, another one."""
MARK = re.compile(r"<!-- (no-run|not-config): (.+?) -->")


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, text and line, and the mark before it."""

    page: Path
    line: int
    language: str
    text: str
    mark: str = ""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT) if self.page.is_relative_to(ROOT) else self.page}:{self.line}"

    @property
    def runs(self) -> bool:
        return self.language in RUN and self.mark != "no-run"


@dataclass(frozen=True)
class Place:
    """Where blocks run: an empty directory and the gateway they talk to."""

    directory: Path
    url: str
    key: str
    provider: str = PROVIDER
    llama: str = LLAMA

    def fill(self, text: str) -> str:
        """The block's text with the running gateway in place of the one that a reader has."""
        ours = text.replace(DEFAULT_URL, self.url).replace(DEFAULT_KEY, self.key)
        return ours.replace(PROVIDER, self.provider).replace(LLAMA, self.llama)

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        scripts = Path(sys.executable).parent
        ours = {"TERASCOPE_URL": self.url, "TERASCOPE_API_KEY": self.key, "HOME": str(self.directory)}
        environment = os.environ | ours | {"PATH": f"{scripts}:{os.environ['PATH']}", "COLUMNS": "120"}
        return subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            cwd=self.directory,
            env=environment,
            timeout=240,
        )


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of `page`, in order."""
    found: list[Block] = []
    mark = ""
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type == "html_block":
            comment = MARK.match(token.content)
            mark = comment[1] if comment else ""
        elif token.type == "fence":
            line = (token.map or [0])[0] + 1
            found.append(Block(page, line, token.info.strip(), token.content, mark))
            mark = ""
        elif token.nesting >= 0:
            mark = ""
    return found


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_is_what_it_says(block: Block) -> None:
    assert block.language in RUN + SHOWN
    if block.language == "yaml" and block.mark != "not-config":
        parse(yaml.safe_load(block.text), str(block))
    elif block.language == "json":
        json.loads(block.text)
    elif block.language in ("nginx", "ini"):
        assert block.text.rstrip() in {
            file.read_text().rstrip() for file in (ROOT / "docs" / "how-to" / "files").iterdir()
        }


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(b.runs for b in blocks_of(page))], ids=lambda page: page.name
)
def test_the_blocks_of_a_page_run(
    page: Path, gateway: tuple[str, str], commercial: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    llama = request.getfixturevalue("llama") if LLAMA in page.read_text(encoding="utf-8") else LLAMA
    place = Place(tmp_path, *gateway, commercial, llama)
    for block in blocks_of(page):
        if block.runs:
            RUNNERS[block.language](block, place)


def _run_python(block: Block, place: Place) -> None:
    _succeeded(block, place.run(sys.executable, "-W", "error", "-c", place.fill(block.text)))


def _run_bash(block: Block, place: Place) -> None:
    _succeeded(block, place.run("bash", "-euo", "pipefail", "-c", place.fill(block.text)))


def _run_console(block: Block, place: Place) -> None:
    checker = doctest.OutputChecker()
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    for command, expected in _commands(block.text):
        done = place.run("bash", "-euo", "pipefail", "-c", place.fill(command))
        _succeeded(block, done)
        shown = done.stdout.replace(place.url, DEFAULT_URL).replace(place.key, DEFAULT_KEY)
        assert checker.check_output(expected, shown, flags), f"{block}: {command}\n{shown}"


def _commands(text: str) -> Iterator[tuple[str, str]]:
    """Each command of a console block with what it prints; a command ends where no backslash continues it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command = re.match(r"(?:.*\\\n)*.*\n?", part)
        assert command is not None
        yield command[0].strip(), part[command.end() :]


def _succeeded(block: Block, done: "subprocess.CompletedProcess[str]") -> None:
    assert done.returncode == 0, f"{block}\n{done.stdout}"


RUNNERS = {"python": _run_python, "bash": _run_bash, "console": _run_console}


def test_commands_are_read_with_their_output() -> None:
    text = "$ echo a \\\n  b\na b\n$ true\n$ echo c\nc\n"
    assert list(_commands(text)) == [("echo a \\\n  b", "a b\n"), ("true", ""), ("echo c", "c\n")]


def test_a_block_that_fails_or_prints_something_else_is_seen(tmp_path: Path) -> None:
    place = Place(tmp_path, "http://127.0.0.1:1", "none")
    wrong = [
        Block(tmp_path, 1, "python", "raise SystemExit(3)"),
        Block(tmp_path, 1, "bash", "false\ntrue"),
        Block(tmp_path, 1, "console", "$ echo a\nb\n"),
    ]
    for block in wrong:
        with pytest.raises(AssertionError):
            RUNNERS[block.language](block, place)
