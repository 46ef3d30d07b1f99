"""Habits of the code that a tool can see: no mocks, small pieces, reasons beside exceptions, names exported once."""

import ast
import importlib
import io
import re
import statistics
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

MODULE_LINES = 400
FUNCTION_LINES = 50
CONTRACT_METHODS = 8
FOLDERS_DEEP = 3

LONGER_MODULES = {
    "src/terascope/core/config.py": "the whole configuration in one place: a list of settings, almost without branches",
    "src/terascope/protocol/openai.py": "OpenAI's fields one after the other: a table, without branches",
    "src/terascope/store/tables.py": "the whole schema in one place: a list of tables, without branches",
}
"""Modules that may be longer, each with its reason."""
LONGER_FUNCTIONS = {
    "src/terascope/store/migrations/versions/0001_first.py:upgrade": "a list of tables: it has no branches to follow",
}
"""Functions (`file:name`) that may be longer, each with its reason."""


def test_modules_are_short(source: list[Any]) -> None:
    lengths = {file.name: len(file.text.splitlines()) for file in source}
    assert {name: n for name, n in lengths.items() if n > MODULE_LINES and name not in LONGER_MODULES} == {}
    assert [name for name in LONGER_MODULES if lengths.get(name, 0) <= MODULE_LINES] == []


def test_functions_are_short(source: list[Any]) -> None:
    lengths = {f"{file.name}:{node.name}": _length(node) for file in source for node in file.functions()}
    assert {name: n for name, n in lengths.items() if n > FUNCTION_LINES and name not in LONGER_FUNCTIONS} == {}
    assert [name for name in LONGER_FUNCTIONS if lengths.get(name, 0) <= FUNCTION_LINES] == []
    assert statistics.median(lengths.values()) < 10


def _length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_contracts_are_small_and_say_what_they_promise(source: list[Any]) -> None:
    for file in source:
        for contract in _contracts(file.tree):
            methods = [node for node in contract.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
            assert len(methods) <= CONTRACT_METHODS, f"{file.name}: {contract.name} has {len(methods)} methods"
            silent = [node.name for node in methods if not ast.get_docstring(node)]
            assert silent == [], f"{file.name}: {contract.name}"


def _contracts(tree: ast.Module) -> Iterator[ast.ClassDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).startswith("Protocol") for base in node.bases):
            yield node


def test_folders_are_shallow(source: list[Any]) -> None:
    depths = {file.name: file.module.count(".") - (file.path.name != "__init__.py") for file in source}
    assert {name: depth for name, depth in depths.items() if depth > FOLDERS_DEEP} == {}


def test_nothing_is_mocked(source: list[Any], tests: list[Any]) -> None:
    """Real things, then fakes that ship in `terascope.testing`; never a stand-in for our own code."""
    found = [f"{file.name}:{where}" for file in source + tests for where in _stand_ins(file.tree)]
    assert found == []


def _stand_ins(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        for name in _names(node):
            if re.search("mock|monkeypatch", name, re.IGNORECASE) or name == "mocker":
                yield f"{getattr(node, 'lineno', 0)} {name}"


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or "", *(alias.name for alias in node.names)]
    if isinstance(node, ast.arg):
        return [node.arg]
    if isinstance(node, ast.Name):
        return [node.id]
    return [node.attr] if isinstance(node, ast.Attribute) else []


def test_every_switched_off_rule_is_named_and_has_a_reason(source: list[Any], tests: list[Any]) -> None:
    """`# noqa: CODE - reason` and `# type: ignore[code] - reason`; in the tests the code alone will do."""
    bare = [f"{file.name}:{line} {text}" for file in source for line, text in _exemptions(file.text) if not _why(text)]
    bare += [f"{file.name}:{line} {text}" for file in tests for line, text in _exemptions(file.text) if not _what(text)]
    assert bare == []


def _exemptions(text: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and re.search(r"# *(noqa|type: *ignore|pragma: no cover)", token.string):
            yield token.start[0], token.string


def _what(comment: str) -> bool:
    return bool(re.search(r"noqa: [A-Z]+\d+|type: ignore\[[a-z-]+", comment))


def _why(comment: str) -> bool:
    return _what(comment) and bool(
        re.search(r"( - |# )\S+.*\s\S+", comment.partition("noqa" if "noqa" in comment else "]")[2])
    )


def test_public_names_exist_and_are_exported_once(source: list[Any]) -> None:
    homes: dict[int, list[str]] = defaultdict(list)
    for file in source:
        if "__all__" not in file.text or file.module.endswith(("__main__", "migrations.env")):
            continue
        module = importlib.import_module(file.module)
        names = list(module.__all__)
        assert len(names) == len(set(names)), f"{file.name}: a name stands twice in __all__"
        missing = [name for name in names if not hasattr(module, name)]
        assert missing == [], file.name
        if file.path.name == "__init__.py" and file.module != "terascope":  # which shows the SDK's clients, too
            for name in names:
                homes[id(getattr(module, name))].append(f"{file.module}.{name}")
    assert [places for places in homes.values() if len(places) > 1] == []


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("# noqa: S105 - the name of a variable", True),
        ("# type: ignore[arg-type] - the stub is wrong", True),
        ("# type: ignore[arg-type]  # the stub is wrong", True),
        ("# type: ignore[arg-type]", False),
        ("# noqa: S105", False),
        ("# noqa", False),
    ],
)
def test_what_counts_as_a_reason(comment: str, expected: bool) -> None:
    assert _why(comment) is expected
