"""The program: its nouns, and how it tells that something went wrong."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from terascope import __version__
from terascope.cli.app import NOUNS, load

from .conftest import Cli

PROGRAM = str(Path(sys.executable).parent / "terascope")


@pytest.fixture
def noun(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Adds the noun `extra`, whose command runs one line of Python."""
    sys.path.insert(0, str(tmp_path))

    def add(line: str) -> None:
        source = f"import typer\napp = typer.Typer(add_completion=False)\n\n@app.command()\ndef extra():\n    {line}\n"
        (tmp_path / "extra_noun.py").write_text(source)
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)  # one of the same second and size would be taken
        NOUNS["extra"] = ("extra_noun", "Extra.")

    yield add
    NOUNS.pop("extra", None)
    sys.modules.pop("extra_noun", None)
    sys.path.remove(str(tmp_path))


def test_help_names_every_noun(bare: Cli) -> None:
    for arguments in ((), ("--help",), ("-h",)):
        told = bare(*arguments)
        assert told.status == 0
        assert [name for name in NOUNS if f"\n  {name} " not in told.out] == []


@pytest.mark.parametrize("name", [*NOUNS])
def test_the_table_says_what_the_noun_itself_says(name: str) -> None:
    assert load(name).get_short_help_str(200).rstrip(".") in NOUNS[name][1]


def test_every_command_explains_itself() -> None:
    for noun in NOUNS:
        for name, command in getattr(load(noun), "commands", {noun: load(noun)}).items():
            assert command.help, name
            silent = [one.name for one in command.params if one.param_type_name == "option" and not one.help]
            assert silent == [], name


def test_the_version(bare: Cli) -> None:
    assert bare("--version").out == f"terascope {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["modles"], "No such command 'modles'. Did you mean 'models'?; see `terascope --help`"),
        (["keys"], "Missing command; see `terascope keys --help`"),
        (["keys", "list", "--jsn"], "No such option: --jsn"),
        (["keys", "create"], "Missing argument 'name'; see `terascope keys create --help`"),
        (["serve", "--port", "eight"], "Invalid value for '--port'"),
        (["runs", "list", "--limit", "0"], "Invalid value for '--limit'"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_line(bare: Cli, arguments: list[str], line: str) -> None:
    told = bare(*arguments)
    assert (told.status, told.out) == (2, "")
    assert told.err.startswith(f"terascope: {line}")
    assert told.err.count("\n") == 1


def test_an_error_is_one_line_with_the_next_step(bare: Cli) -> None:
    told = bare("models", "list")
    assert told.status == 1
    assert told.err.startswith("terascope: no gateway is known (")
    assert told.err.endswith("start one with `terascope serve`, or set TERASCOPE_URL and TERASCOPE_API_KEY\n")
    assert told.err.count("\n") == 1


def test_debug_shows_where_an_error_comes_from(bare: Cli) -> None:
    told = bare("--debug", "models", "list")
    assert told.status == 1
    assert "Traceback" in told.err
    assert "connection.py" in told.err


def test_an_unexpected_error_is_one_line_too(bare: Cli, noun: Callable[[str], None]) -> None:
    noun("raise RuntimeError('two\\nlines')")
    told = bare("extra")
    assert told.err == "terascope: unexpected RuntimeError: two lines; `terascope --debug ...` shows where\n"
    assert (told.status, "Traceback" in bare("--debug", "extra").err) == (1, True)


@pytest.mark.parametrize("line", ["raise KeyboardInterrupt", "raise EOFError"])
def test_an_interruption_is_told_and_has_its_status(bare: Cli, noun: Callable[[str], None], line: str) -> None:
    noun(line)
    told = bare("extra")
    assert (told.status, told.err.strip()) == (130, "terascope: interrupted")


def test_an_error_in_the_gateway_is_told_with_the_request_that_finds_it(bare: Cli, noun: Callable[[str], None]) -> None:
    noun("from terascope.client.errors import error_of; raise error_of({'message': 'oh', 'request_id': 'req_1'}, 500)")
    assert bare("extra").err == "terascope: oh (request req_1)\n"
    noun("from terascope.client.errors import error_of; raise error_of({'message': 'no', 'request_id': 'req_1'}, 400)")
    sys.modules.pop("extra_noun")
    assert bare("extra").err == "terascope: no\n"


def test_whoever_stops_reading_sees_no_error() -> None:
    reader = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE)
    assert reader.stdin is not None
    done = subprocess.Popen([PROGRAM, "version"], stdout=reader.stdin, stderr=subprocess.PIPE, text=True)
    reader.wait()
    reader.stdin.close()
    _, said = done.communicate()
    assert (done.returncode, said) == (1, "")


def test_completion_knows_nouns_commands_and_options() -> None:
    for typed, expected in (
        ("terascope mod", "models"),
        ("terascope keys re", "revoke"),
        ("terascope chat --st", "--stats"),
    ):
        words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" ")), "_TERASCOPE_COMPLETE": "complete_bash"}
        done = subprocess.run([PROGRAM], env=words, capture_output=True, text=True, check=False)
        assert done.stdout.split() == [expected], done.stderr


def test_worker_is_the_torch_engines_program() -> None:
    done = subprocess.run([PROGRAM, "worker", "--help"], capture_output=True, text=True, check=False, timeout=60)
    assert "terascope.engines.torch.worker" in done.stdout + done.stderr or "--model-dir" in done.stdout
