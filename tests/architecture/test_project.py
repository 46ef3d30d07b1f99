"""The files around the source agree with it and with each other."""

import importlib
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from sqlalchemy import create_engine

from terascope import __version__
from terascope.store import migrate
from terascope.store.tables import metadata

_OWNERS = {"org": ("pypi", "pythonhosted", "npmjs", "debian", "pytorch"), "com": ("npmjs",)}
REGISTRIES = tuple(f"{owner}.{end}" for end, owners in _OWNERS.items() for owner in owners)  # not even named here
NEWEST = re.compile(r"^## \[(?P<version>\d+\.\d+\.\d+[^\]]*)\]", re.MULTILINE)


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _requirements(root: Path, *, extras: bool = True) -> list[Requirement]:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *(project["optional-dependencies"].values() if extras else ())]
    return [Requirement(text) for one in lists for text in one]


def _constraints(root: Path) -> dict[str, Version]:
    parsed = [Requirement(line.partition("#")[0]) for line in _lines((root / "constraints.txt").read_text())]
    pins = {canonicalize_name(one.name): str(one.specifier) for one in parsed}
    assert len(pins) == len(parsed), "a package is pinned twice"
    assert [name for name, pin in pins.items() if not pin.startswith("==")] == []
    return {name: Version(pin.removeprefix("==")) for name, pin in pins.items()}


def test_the_version_is_the_newest_in_the_changelog(root: Path) -> None:
    newest = NEWEST.search((root / "CHANGELOG.md").read_text())
    assert newest is not None
    assert newest["version"] == __version__


def test_the_citation_names_this_version(root: Path) -> None:
    citation = yaml.safe_load((root / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)


def test_constraints_satisfy_the_requirements(root: Path) -> None:
    pins = _constraints(root)
    wrong = [
        f"{one} but {pins.get(canonicalize_name(one.name))}"
        for one in _requirements(root)
        if canonicalize_name(one.name) not in pins or pins[canonicalize_name(one.name)] not in one.specifier
    ]
    assert wrong == []


def test_every_dependency_has_a_reason(root: Path) -> None:
    text = (root / "pyproject.toml").read_text()
    dependencies = text[text.index("\ndependencies = [") : text.index("\n[project.scripts]")]
    listed = [line for line in dependencies.splitlines() if re.match(r'\s+"', line)]
    assert len(listed) == len(_requirements(root))
    assert [line for line in listed if "#" not in line] == []


def test_migrations_lead_to_the_tables(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'database'}")
    with engine.begin() as connection:
        migrate.migrate(connection)
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    engine.dispose()
    assert differences == []


def test_head_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_heads() == [migrate.HEAD]


def test_no_file_names_a_package_registry(root: Path) -> None:
    """Where packages come from is the machine's business: a centre has mirrors, or no network at all."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
    found = [
        f"{name}: {registry}"
        for name in listed.split("\0")
        if name and (root / name).is_file()
        for registry in REGISTRIES
        if registry.encode() in (root / name).read_bytes()
    ]
    assert found == []


def test_ci_runs_make_test_and_nothing_else(root: Path) -> None:
    commands = _lines((root / ".ci" / "run").read_text())
    assert commands == ["set -euo pipefail", 'cd "$(dirname "$0")/.."', "make test"]


@pytest.mark.parametrize("target", ["install", "serve", "test", "check", "docs", "bench"])
def test_make_has_the_target(root: Path, target: str) -> None:
    subprocess.run(["make", "--dry-run", target, "NAME=x"], cwd=root, check=True, capture_output=True)


def test_the_package_ships_its_data(root: Path, source: list[Any]) -> None:
    """Every file of the package that is not Python matches a pattern of package-data."""
    tool = tomllib.loads((root / "pyproject.toml").read_text())["tool"]
    package = root / "src" / "terascope"
    patterns = tool["setuptools"]["package-data"]["terascope"]
    shipped = {path for pattern in patterns for path in package.glob(pattern)}
    others = {p for p in package.rglob("*") if p.is_file() and p.suffix != ".py" and "__pycache__" not in p.parts}
    assert sorted(others - shipped) == []
    folders = {file.path.parent for file in source} | {package}
    assert [f for f in folders if not (f / "__init__.py").exists()] == [], "setuptools finds packages by __init__.py"


def test_the_entry_point_exists(root: Path) -> None:
    scripts = tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"]
    for target in scripts.values():
        module, _, name = target.partition(":")
        assert callable(getattr(importlib.import_module(module), name))
