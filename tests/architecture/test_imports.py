"""What importing costs and what may import what."""

import ast
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

HEAVY = ("torch", "transformers", "vllm", "numpy", "fastapi", "starlette", "uvicorn", "sqlalchemy", "pydantic")


def _python(program: str, *arguments: str, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _lint_imports(folder: Path, config: Path) -> "subprocess.CompletedProcess[str]":
    """Run import-linter over the package in `folder`."""
    return subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache", "--config", str(config)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={"PYTHONPATH": str(folder)},
        timeout=100,
    )


def test_rooms_import_only_what_lies_below_them(root: Path) -> None:
    done = _lint_imports(root / "src", root / "pyproject.toml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_room_that_is_not_placed_is_refused(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "src" / "terascope", tmp_path / "terascope", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "terascope" / "unplaced").mkdir()
    (tmp_path / "terascope" / "unplaced" / "__init__.py").touch()
    done = _lint_imports(tmp_path, root / "pyproject.toml")
    assert done.returncode != 0
    assert "unplaced" in done.stdout + done.stderr


_ALONE = "src/terascope/fleet/launchers/node.py"
"""Runs on a node of a cluster, where there is nothing of the package but this file."""


def test_only_one_file_reads_the_environment(source: list[Any]) -> None:
    readers = [
        f"{file.name}:{getattr(node, 'lineno', 0)}"
        for file in source
        if file.name not in ("src/terascope/core/environment.py", _ALONE)
        for node in ast.walk(file.tree)
        if _reads_environment(node)
    ]
    assert readers == []


def _reads_environment(node: ast.AST) -> bool:
    names = ("environ", "environb", "getenv", "putenv", "unsetenv")
    if isinstance(node, ast.Attribute):
        return node.attr in names and isinstance(node.value, ast.Name) and node.value.id == "os"
    return isinstance(node, ast.ImportFrom) and node.module == "os" and any(a.name in names for a in node.names)


@pytest.mark.parametrize("program", ["import terascope", "import terascope.core.config, terascope.core.errors"])
def test_importing_the_package_is_light(program: str) -> None:
    loaded = _python(f"{program}\nimport sys\nprint(*sys.modules)").split()
    assert not set(HEAVY) & set(loaded)


def test_help_is_light() -> None:
    program = """
        import contextlib, io, sys
        sys.argv = ["terascope", "--help"]
        shown = io.StringIO()
        from terascope.cli import main
        try:
            with contextlib.redirect_stdout(shown):
                main()
        except SystemExit as end:
            assert not end.code, end.code
        assert "serve" in shown.getvalue()
        print(*sys.modules)
    """
    assert not set(HEAVY) & set(_python(program).split())


def test_importing_does_nothing(source: list[Any]) -> None:
    """No module of ours opens a file, a socket, a process or a thread while it is imported.

    What other packages do while we import them is theirs: an event counts when one of our frames is reached
    before any frame of the import machinery.
    """
    program = """
        import importlib, sys
        FORBIDDEN = ("open", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rename", "os.system",
                     "socket.", "subprocess.Popen", "sqlite3.connect", "_thread.start_new_thread", "shutil.")
        seen = []

        def hook(event, arguments):
            if not event.startswith(FORBIDDEN):
                return
            frame = sys._getframe(1)
            while frame is not None and "importlib" not in frame.f_code.co_filename:
                if "/src/terascope/" in frame.f_code.co_filename:
                    seen.append(f"{frame.f_code.co_filename}:{frame.f_lineno} {event} {arguments}")
                    return
                frame = frame.f_back

        sys.addaudithook(hook)
        for module in sys.argv[1:]:
            importlib.import_module(module)
        print(*seen, sep="\\n")
    """
    scripts = ("terascope.__main__", "terascope.store.migrations.env")
    modules = [file.module for file in source if file.module not in scripts]
    assert _python(program, *modules).strip() == ""
