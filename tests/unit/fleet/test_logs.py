"""The last words of a program."""

from pathlib import Path

import pytest

from terascope.fleet.logs import last_words, log_file

_TRACEBACK = """\
loading
Traceback (most recent call last):
  File "worker.py", line 1, in <module>
    load()
OSError: weights.safetensors is not there
it was
never there
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ""),
        ("\n \n", ""),
        ("one\ntwo\n\n", "two"),
        (_TRACEBACK, "OSError: weights.safetensors is not there"),
        (_TRACEBACK + _TRACEBACK.replace("OSError", "KeyError"), "KeyError: weights.safetensors is not there"),
        ("Traceback (most recent call last):\n  File", "File"),
        ("\x1b[31mred\x1b[0m\x07 alert", "red alert"),
        ("10 %\r20 %\r30 %", "30 %"),
        ("told hush-hush to all", "told *** to all"),
        ("x" * 1000, "x" * 300),
    ],
)
def test_last_words(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(text, newline="")
    assert last_words(path, ("hush-hush", "")) == words


def test_a_long_log_is_read_from_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"\xff\xfe" * 100_000 + b"\nthe end \xc3\xa9 \xff\n")
    assert last_words(path) == "the end é \N{REPLACEMENT CHARACTER}"


def test_no_log_has_no_words(tmp_path: Path) -> None:
    assert last_words(log_file(tmp_path, "replica_1")) == ""
