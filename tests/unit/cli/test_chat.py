"""`terascope chat`, from a pipe and in a terminal."""

import os
import pty
import re
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from terascope.cli.chat import default_model, speed
from terascope.client import Client
from terascope.core.config import Config, DeploymentConfig
from terascope.core.errors import ModelNotFound
from terascope.testing.gateway import Served, running_gateway

from .conftest import Cli

PROGRAM = str(Path(sys.executable).parent / "terascope")


def test_a_line_of_a_pipe_is_a_question(cli: Cli) -> None:
    told = cli("chat", stdin="hello there\n\n/system Be brief.\n//quit is a word\n/quit\nno more\n")
    assert told.status == 0
    assert told.out == "hello there\n/quit is a word\n"
    assert told.err == "the system text is set\n"


def test_the_conversation_is_sent_as_a_whole(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    cli(
        "chat",
        "echo",
        "--system",
        "Be brief.",
        stdin=f"one\ntwo\n/retry\n/set max_tokens 1\nthree four\n/save {path}\n",
    )
    said = re.findall(r'"content": "(.*)"', path.read_text())
    assert said == ["Be brief.", "one", "one", "two", "two", "three four", "three"]


def test_an_error_ends_a_pipe(cli: Cli) -> None:
    told = cli("chat", stdin="one\n/modle x\ntwo\n")
    assert (told.status, told.out) == (1, "one\n")
    assert told.err == "terascope: there is no command /modle; did you mean /model?\n"
    assert "there is no model" in cli("chat", "none", stdin="one\n").err
    assert "there is no model" in cli("chat", stdin="/model none\n").err


def test_statistics_are_beside_the_answer(cli: Cli) -> None:
    told = cli("chat", "slow", "--stats", stdin="one two three\n")
    assert told.out == "one two three\n"
    assert re.fullmatch(r"3 \+ 3 tokens, first after 0\.\d\d s, \d+\.\d tokens/s\n", told.err)


def test_speed() -> None:
    assert (
        speed({"prompt_tokens": 3, "completion_tokens": 11}, 0.5, 2.0)
        == "3 + 11 tokens, first after 0.50 s, 5.0 tokens/s"
    )
    assert speed({"prompt_tokens": 3, "completion_tokens": 1}, 0.5, 0.0) == "3 + 1 tokens, first after 0.50 s"
    assert speed({}, 0.5, 0.0) == "0 + 0 tokens, first after 0.50 s"


def test_the_default_model_is_one_that_answers_questions() -> None:
    vectors = DeploymentConfig(model="vectors", engine="echo", launcher="inprocess", modes=["embed"])
    with (
        running_gateway(Config(deployments=[vectors])) as gateway,
        Client(gateway.url, gateway.key) as client,
        pytest.raises(ModelNotFound, match="terascope models list"),
    ):
        default_model(client)
    words = DeploymentConfig(model="words", engine="echo", launcher="inprocess")
    with running_gateway(Config(deployments=[vectors, words])) as gateway, Client(gateway.url, gateway.key) as client:
        assert default_model(client) == "words"


class Terminal:
    """A program in a terminal of its own, and what a person sees and types there."""

    def __init__(self, screen: int) -> None:
        self._screen = screen
        self.seen = ""

    def types(self, text: str) -> None:
        os.write(self._screen, text.encode())

    def sees(self, pattern: str) -> None:
        """Return once `pattern` has come since the last time."""
        until = time.monotonic() + 20
        while not (found := re.search(pattern, self.seen)):
            ready, _, _ = select.select([self._screen], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"{pattern!r} did not come after {self.seen!r}"
            self.seen += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", os.read(self._screen, 1 << 16).decode())
        self.seen = self.seen[found.end() :]


@contextmanager
def _in_terminal(gateway: Served, *arguments: str) -> Iterator[tuple[Terminal, "subprocess.Popen[bytes]"]]:
    screen, theirs = pty.openpty()
    environment = os.environ | {
        "TERM": "xterm",
        "PROMPT_TOOLKIT_NO_CPR": "1",
        "TERASCOPE_DATA_DIR": str(gateway.data_dir),
    }
    process = subprocess.Popen(
        [PROGRAM, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
        preexec_fn=_own_terminal,
    )  # fmt: skip
    os.close(theirs)
    try:
        yield Terminal(screen), process
    finally:
        process.kill()
        process.wait()
        os.close(screen)


def _own_terminal() -> None:
    """Make the terminal the program's own, so that Ctrl-C in it is SIGINT."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))


def test_a_person_talks_in_the_terminal(gateway: Served) -> None:
    with _in_terminal(gateway, "chat", "echo") as (terminal, process):
        terminal.sees(r"echo at http://127\.0\.0\.1:\d+\. /help lists the commands, Ctrl-D ends\.")
        terminal.sees(">")
        terminal.types("hello there\r")
        terminal.sees(r"hello there\s+hello there\r\n")
        terminal.types("/set temperature hot\r")
        terminal.sees("! temperature: Input should be a valid number")
        terminal.types(" ".join(f"w{number}" for number in range(60)) + "\r")
        terminal.types("/model slow\r")
        terminal.sees("slow answers from now on")
        terminal.types("/retry\r")
        terminal.sees(r"/retry\s+w0 w1 w2")
        terminal.types("\x03")
        terminal.sees(r"\(stopped; /retry asks again\)")
        terminal.types("/undo\r")
        terminal.sees(r"taken back: w0 w1[\s\S]*\n>")
        terminal.types("half a line\x03")
        terminal.sees(r"half a line[\s\S]*\n>")
        terminal.types("\x04")
        assert process.wait(20) == 0
    with Client(gateway.url, gateway.key) as client:
        assert _slow_outcome(client) == "cancelled"


def _slow_outcome(client: Client) -> str:
    """The outcome of the newest run of `slow`; the record comes a moment after its client left."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        for run in client.runs.list(limit=5).data:
            if run.model.startswith("slow@"):
                return run.outcome
        time.sleep(0.01)
    return "none"


def test_escape_sequences_of_a_model_do_not_reach_the_terminal(gateway: Served) -> None:
    with _in_terminal(gateway, "chat", "echo") as (terminal, process):
        terminal.sees(">")
        terminal.types("\x1b[200~a\x07b\x1b[201~\r")
        terminal.sees("a\u2407b\r\n")
        terminal.types("/quit\r")
        assert process.wait(20) == 0
