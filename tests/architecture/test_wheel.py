"""What `pip install terascope` brings: a wheel built from this checkout has everything and nothing else."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built in a copy, because a build leaves files beside the source."""
    copy = tmp_path_factory.mktemp("source") / "terascope"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(root / "src", copy / "src", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, copy)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(copy / "dist"), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return zipfile.ZipFile(next((copy / "dist").glob("*.whl")))


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_package(root: Path, wheel: zipfile.ZipFile) -> None:
    source = root / "src"
    files = {p for p in (source / "terascope").rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    expected = {path.relative_to(source).as_posix() for path in files}
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == expected


@pytest.mark.slow
def test_the_wheel_has_the_licence_and_the_command(wheel: zipfile.ZipFile) -> None:
    names = {name.partition(".dist-info/")[2] for name in wheel.namelist()}
    assert "licenses/LICENSE" in names
    entries = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "terascope = terascope.cli:main" in wheel.read(entries).decode()
