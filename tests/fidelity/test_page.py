"""docs/explanation/fidelity.md lists every bug seen elsewhere with its test, and no test that is not there."""

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "explanation" / "fidelity.md"
SEEN_AT = (
    "FIRST", "SwissAI", "GPUStack", "AIBrix", "vLLM", "LiteLLM", "SAIA", "KServe", "Ray", "NDIF", "NVIDIA", "OpenTela",
    "sml",
)  # fmt: skip


def _tests() -> dict[str, str]:
    """Every test here, with its docstring."""
    nodes = [node for path in HERE.glob("test_*.py") for node in ast.walk(ast.parse(path.read_text()))]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {node.name: ast.get_docstring(node) or "" for node in functions if node.name.startswith("test_")}


def _rows() -> list[list[str]]:
    """The cells of the table's rows."""
    return [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines() if "`test_" in line]


def test_the_page_names_tests_that_are_there() -> None:
    tests = _tests()
    for _, where, names in _rows():
        for name in re.findall(r"`(test_\w+)`", names):
            assert name in tests, name
        projects = {project for project in SEEN_AT if re.search(rf"\b{project}\b", where)}
        assert projects, where


def test_every_bug_seen_elsewhere_is_on_the_page() -> None:
    listed = {name for *_, names in _rows() for name in re.findall(r"`(test_\w+)`", names)}
    seen = {name for name, text in _tests().items() if any(re.search(rf"\b{one}\b", text) for one in SEEN_AT)}
    assert seen - listed == set()


def test_every_test_says_what_it_is_for() -> None:
    assert [name for name, text in _tests().items() if not text and name not in globals()] == []
