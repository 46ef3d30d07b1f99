"""One gateway to a data directory."""

import subprocess
import sys
from pathlib import Path

import pytest

from terascope.core.errors import ConfigError
from terascope.fleet.lock import DirectoryLock

_HOLDER = """
import sys, time
from pathlib import Path
from terascope.fleet.lock import DirectoryLock
DirectoryLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_holder_is_refused(tmp_path: Path) -> None:
    first, second = DirectoryLock(tmp_path / "data"), DirectoryLock(tmp_path / "data")
    first.acquire()
    with pytest.raises(ConfigError, match=r"another gateway uses .*data; stop it, or choose another --data-dir"):
        second.acquire()
    first.release()
    first.release()
    second.acquire()
    second.release()


def test_one_database_has_one_gateway(tmp_path: Path) -> None:
    """Two data directories with one SQLite file are refused as well; other files beside it are another matter."""
    first, second = (DirectoryLock(tmp_path, "terascope.db") for _ in range(2))
    first.acquire()
    with pytest.raises(ConfigError, match=r"another gateway uses .*terascope.db; stop it, or choose another `database"):
        second.acquire()
    other = DirectoryLock(tmp_path, "other.db")
    other.acquire()
    other.release()
    first.release()


def test_a_killed_holder_lets_go(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _HOLDER, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        lock = DirectoryLock(tmp_path)
        with pytest.raises(ConfigError):
            lock.acquire()
        holder.kill()
        holder.wait()
        lock.acquire()
        lock.release()
