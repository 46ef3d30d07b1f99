"""What a benchmark needs beside the project: peers in environments of their own, and tools of the system."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .processes import Failed

ROOT = Path(__file__).resolve().parents[2]
# Prints what an installed package asks for on this machine, less what is named after it.
_NEEDS = """
import sys
from importlib.metadata import requires
from pip._vendor.packaging.requirements import Requirement
for one in map(Requirement, requires(sys.argv[1])):
    if one.name not in sys.argv[2:] and (one.marker is None or one.marker.evaluate({"extra": ""})):
        one.marker = None
        print(one)
"""


def venv(name: str, requirements: Sequence[str]) -> Path:
    """Return the `bin` of `.venvs/NAME`, made with exactly `requirements` at top level; remade when they change.

    Raises Failed when pip does; then nothing is left that the next call would take for complete.
    """
    home = ROOT / ".venvs" / name
    stamp, wanted = home / "requirements.txt", "\n".join(requirements) + "\n"
    if not stamp.exists() or stamp.read_text() != wanted:
        say(f"installing {', '.join(requirements)} into {home.relative_to(ROOT)}")
        shutil.rmtree(home, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(home)])
        _run([str(home / "bin/python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", *requirements])
        stamp.write_text(wanted)
    return home / "bin"


def venv_less(name: str, package: str, without: Sequence[str], instead: Sequence[str]) -> Path:
    """As `venv`, for a `package` that asks for what cannot be had: `without` is left out, `instead` comes in its place.

    Raises Failed as `venv` does.
    """
    home = ROOT / ".venvs" / name
    stamp, wanted = home / "requirements.txt", "\n".join([package, *(f"without {one}" for one in without), *instead])
    if not stamp.exists() or stamp.read_text() != wanted:
        say(f"installing {package} into {home.relative_to(ROOT)}, minutes")
        shutil.rmtree(home, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(home)])
        pip = [str(home / "bin/python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        _run([*pip, "--no-deps", package])
        needs = _run([str(home / "bin/python"), "-c", _NEEDS, package.partition("==")[0], *without]).splitlines()
        _run([*pip, *needs, *instead])
        stamp.write_text(wanted)
    return home / "bin"


def wheel(package: str) -> Path:
    """Return the path of the wheel of `package`, `name==version`, fetched alone into `.venvs/wheels`, once.

    Raises Failed when pip does.
    """
    home = ROOT / ".venvs" / "wheels"
    pattern = f"{package.replace('-', '_').replace('==', '-')}-*.whl"
    if not (there := next(home.glob(pattern), None)):
        say(f"fetching {package}")
        pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
        _run([*pip, "--no-deps", "--dest", str(home), package])
        there = next(home.glob(pattern))
    return there


def tool(name: str, package: str) -> str:
    """Return the path of `name`, installing Debian's `package` where it is absent. Raises Failed when it cannot."""
    if not (path := shutil.which(name)):
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            raise Failed(f"`{name}` is needed: install it (Debian: `apt-get install {package}`) and try again")
        say(f"installing {package}")
        _run(["apt-get", "update", "-qq"])
        _run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", package])
        path = shutil.which(name)
    if not path:
        raise Failed(f"`{name}` is still absent after installing {package}")
    return path


def script(path: Path, *arguments: object) -> Path:
    """Run the harness's program at `path`, and return the path that it prints last. Its memory goes when it ends.

    Raises Failed when it fails.
    """
    done = _run([sys.executable, str(path), *map(str, arguments)])
    return Path(done.strip().splitlines()[-1])


def say(text: str) -> None:
    """Progress, on stderr: stdout holds the figures."""
    print(text, file=sys.stderr, flush=True)


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout
