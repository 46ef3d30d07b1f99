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


_POINTING = """\
(Worker pid=2) ERROR 11-26 20:51:56 [executor.py:953] Traceback (most recent call last):
(Worker pid=2) ERROR 11-26 20:51:56 [executor.py:953]     raise ValueError(
(Worker pid=2) ERROR 11-26 20:51:56 [executor.py:953] ValueError: the memory is too small
(Engine pid=3) ERROR 11-26 20:51:58 [core.py:1510] Exception: a worker failed. See stack trace for root cause.
Traceback (most recent call last):
  File "server.py", line 1, in <module>
RuntimeError: Initialization failed. See root cause above.
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ""),
        (_POINTING, "ValueError: the memory is too small"),
        (_POINTING.replace("ValueError: ", ""), "RuntimeError: Initialization failed. See root cause above."),
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
