"""The parsers of SGLang and of the routers, read from their own source: their packages import only where GPUs are.

Each `add_argument` of the source is made again, with its names, its number of values, its type where that is plain and
its choices where they are written out. A type or choices that code computes are not checked.
"""

import argparse
import ast
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn
from zipfile import ZipFile

_TYPES = {"int": int, "float": float, "str": str}
_ACTIONS = ("store_true", "store_false", "append")


class Parser(argparse.ArgumentParser):
    """Raises in place of leaving the program."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def read_parser(wheel: Path, module: str) -> Parser:
    """Return a parser with the arguments that the function `add_cli_args` of a module in a wheel adds."""
    with ZipFile(wheel) as files:
        tree = ast.parse(files.read(module))
    lists = dict(_lists(tree))
    parser = Parser(allow_abbrev=False)
    for call in _calls(tree):
        names = [name for one in call.args if (name := _text(one)).startswith("-")]
        keywords = {one.arg: one.value for one in call.keywords if one.arg}
        if names:
            parser.add_argument(*names, **_told(keywords, lists))
    return parser


def _calls(tree: ast.Module) -> Iterator[ast.Call]:
    (function,) = (one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef) and one.name == "add_cli_args")
    for one in ast.walk(function):
        if isinstance(one, ast.Call) and isinstance(one.func, ast.Attribute) and one.func.attr == "add_argument":
            yield one


def _lists(tree: ast.Module) -> Iterator[tuple[str, list[Any]]]:
    """Lists of nothing but constants that the module names."""
    for one in tree.body:
        if isinstance(one, ast.Assign) and isinstance(one.targets[0], ast.Name) and (values := _constants(one.value)):
            yield one.targets[0].id, values


def _constants(node: ast.expr) -> list[Any]:
    if not isinstance(node, ast.List) or not all(isinstance(one, ast.Constant) for one in node.elts):
        return []
    return list(ast.literal_eval(node))


def _text(node: ast.expr) -> str:
    """A name as it is written; a prefix that a formatted one takes is empty."""
    parts: Sequence[ast.expr] = node.values if isinstance(node, ast.JoinedStr) else [node]
    return "".join(str(one.value) for one in parts if isinstance(one, ast.Constant))


def _told(keywords: dict[str, ast.expr], lists: dict[str, list[Any]]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    action, nargs, kind = keywords.get("action"), keywords.get("nargs"), keywords.get("type")
    if isinstance(action, ast.Constant) and action.value in _ACTIONS:
        told["action"] = action.value
    if isinstance(nargs, ast.Constant):
        told["nargs"] = nargs.value
    if isinstance(kind, ast.Name) and kind.id in _TYPES:
        told["type"] = _TYPES[kind.id]
    if choices := _choices(keywords.get("choices"), lists):
        told["choices"] = choices
    return told


def _choices(node: ast.expr | None, lists: dict[str, list[Any]]) -> list[Any]:
    if isinstance(node, ast.Name):
        return lists.get(node.id, [])
    return _constants(node) if node else []
