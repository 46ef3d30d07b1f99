"""Writes the reference pages that the source already knows: configuration, errors, command line, planner.

`python docs/generate.py` writes them; with `--check` it writes nothing and fails when one is out of step.
"""

import argparse
import ast
import contextlib
import dataclasses
import inspect
import io
import os
import re
import statistics
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from terascope.cli.app import NOUNS, load, run
from terascope.core import environment
from terascope.core.config import DEFAULT_DEPLOYMENTS, DEFAULT_MODELS, Config
from terascope.core.errors import ConfigError, ServiceError, all_errors
from terascope.planner import constants as planner_constants
from terascope.planner import library, published, validation

DOCS = Path(__file__).parent
NOTE = "<!-- Written by docs/generate.py from the source; edit there. -->\n"


def main() -> int:
    """Write or check the pages; return the exit status."""
    os.environ["COLUMNS"] = "100"  # what `--help` is folded to
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a page is out of step")
    check = parser.parse_args().check
    stale = [path for path, page in PAGES.items() if not _current(DOCS / path, NOTE + page(), write=not check)]
    if stale and check:
        sys.stderr.write(f"out of step with the source: {', '.join(stale)}; run `make docs`\n")
    return bool(stale and check)


def _current(path: Path, text: str, *, write: bool) -> bool:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return True
    if write:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return False


# configuration


def configuration() -> str:
    """The page of `terascope.yaml`."""
    parts = [
        "# Configuration: `terascope.yaml`\n",
        "`terascope serve` needs no file: without one it serves the two default models. With one,\n"
        "`terascope serve --config terascope.yaml` (or `TERASCOPE_CONFIG`), it serves what the file says. An unknown\n"
        "key is an error that names the key. `terascope doctor` checks a file without starting anything.\n",
        "The default, written out:\n",
        _default_file(),
        *_sections("", Config),
        _environment(),
    ]
    return "\n".join(parts)


def _default_file() -> str:
    models = "\n".join(f"  {name}:\n    source: {model.source}" for name, model in DEFAULT_MODELS.items())
    deployments = "\n".join(f"  - model: {one.model}" for one in DEFAULT_DEPLOYMENTS)
    return f"```yaml\nmodels:\n{models}\ndeployments:\n{deployments}\n```\n"


def _sections(prefix: str, kind: type) -> Iterator[str]:
    hints = get_type_hints(kind)
    plain = [one for one in dataclasses.fields(kind) if _part(hints[one.name]) is None]
    if plain:
        yield "| key | type | default | meaning |\n| --- | --- | --- | --- |"
        yield "\n".join(_row(one, hints[one.name]) for one in plain) + "\n"
    for one in dataclasses.fields(kind):
        part = _part(hints[one.name])
        if part is not None:
            name = f"{prefix}{one.name}{_SUFFIX.get(get_origin(hints[one.name]), '')}"
            yield f"## `{name}`\n\n{one.metadata['help']}\n"
            yield from _sections(f"{name}.", part)


_SUFFIX = {dict: ".NAME", list: "[]"}


def _part(hint: Any) -> type | None:
    """The dataclass that a field nests, directly or in a list or mapping."""
    candidates = [hint, *get_args(hint)]
    return next((one for one in candidates if isinstance(one, type) and dataclasses.is_dataclass(one)), None)


def _row(one: "dataclasses.Field[Any]", hint: Any) -> str:
    default = one.default_factory() if one.default_factory is not dataclasses.MISSING else one.default
    shown = {"": "empty", True: "`true`", False: "`false`"}.get(default) if isinstance(default, str | bool) else None
    return f"| `{one.name}` | {_type(hint)} | {shown or f'`{_yaml(default)}`'} | {one.metadata['help']} |"


def _yaml(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(str, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _type(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(f"`{one}`" for one in arguments)
    if origin is list:
        return f"list of {_type(arguments[0])}s"
    if origin is dict:
        return f"mapping of {_type(arguments[0])} to {_type(arguments[1])}"
    if isinstance(hint, types.UnionType):
        return " or ".join(_type(one) for one in arguments if one is not type(None))
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}[hint]


def _environment() -> str:
    rows = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in sorted(_variables()))
    return f"## Environment variables\n\n| variable | meaning |\n| --- | --- |\n{rows}\n"


def _variables() -> Iterator[tuple[str, str]]:
    """Each `TERASCOPE_*` variable with the docstring of the function that reads it."""
    tree = ast.parse(inspect.getsource(environment))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            for name in re.findall(r"TERASCOPE_\w+|REPLICA_SECRET", ast.unparse(ast.Module(node.body[1:], []))):
                yield getattr(environment, name, name), ast.get_docstring(node) or ""


# errors


def errors() -> str:
    """The table of every error code."""
    rows = "\n".join(_error_row(error) for error in sorted(_by_code().values(), key=lambda one: (one.status, one.code)))
    pages = {page.stem for page in (DOCS / "errors").glob("*.md")}
    others = "\n".join(f"- [`{code}`](../errors/{code}.md)" for code in sorted(pages - set(_by_code())))
    return (
        "# Errors\n\n"
        "Every error has OpenAI's shape:\n\n"
        "```json\n"
        '{"error": {"message": "...", "type": "...", "code": "...", "param": null, "request_id": "req_..."}}\n'
        "```\n\n"
        "`code` is stable, and each code has a page. An error after the first byte of a stream comes as the event\n"
        '`data: {"error": {...}}`, and the stream ends without `[DONE]`. *Again* says whether the same request may\n'
        "succeed later; with 429 and 503 the header `Retry-After` says when to try.\n\n"
        "| status | code | type | again | meaning |\n| --- | --- | --- | --- | --- |\n"
        f"{rows}\n\n"
        "## Codes of engines\n\n"
        "An engine's own error is passed on with its status, message and code. These are the torch engine's, and\n"
        "those of the HTTP layer:\n\n"
        f"{others}\n"
    )


def _by_code() -> dict[str, type[ServiceError]]:
    """Each code's most general class."""
    found: dict[str, type[ServiceError]] = {}
    for error in all_errors():
        if error is not ServiceError:
            found.setdefault(error.code, error)
    return found


def _error_row(error: type[ServiceError]) -> str:
    meaning = (error.__doc__ or "").strip().splitlines()[0]
    again = "yes" if error.retryable else "no"
    link = f"[`{error.code}`](../errors/{error.code}.md)"
    status = "-" if issubclass(error, ConfigError) else error.status  # it is told in the terminal, not over HTTP
    return f"| {status} | {link} | `{error.type}` | {again} | {meaning} |"


# command line


def command_line() -> str:
    """What `--help` says of every command."""
    parts = [
        "# Command line\n",
        "The commands talk to the gateway over HTTP, except `serve`, `worker`, `plan`, `doctor` and `version`, which\n"
        "work on this machine. The gateway is found by `--url` and `--key`, by `TERASCOPE_URL` and\n"
        "`TERASCOPE_API_KEY`, or, on its own machine, by its data directory; there the commands act as an operator.\n"
        "Lists take `--json`.\n",
        "The exit status is 0, 1 for a failure, 2 for a wrong command line, 130 after Ctrl-C. An error is one line on\n"
        "stderr that says what to do.\n",
        _help(),
    ]
    for noun in NOUNS:
        if noun != "worker":  # it is the engine's own program, with the options that `serve` gives it
            parts.extend(_commands(noun))
    return "\n".join(parts)


def _commands(noun: str) -> Iterator[str]:
    yield f"## `terascope {noun}`\n\n{_help(noun)}"
    for name in getattr(load(noun), "commands", {}):
        yield f"### `terascope {noun} {name}`\n\n{_help(noun, name)}"


def _help(*nouns: str) -> str:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        status = run([*nouns, "--help"])
    if status:
        raise RuntimeError(f"terascope {' '.join(nouns)} --help ended with {status}")
    lines = (line.rstrip() for line in shown.getvalue().strip().splitlines())
    return "```text\n" + "\n".join(lines) + "\n```\n"


# planner


def planner() -> str:
    """How near the planner is: published measurements, what was held out, parameters."""
    checked, left = validation.check(validation.published_rows())
    measured = "row", "what", "model", "GPUs", "engine", "measured", "predicted", "error"
    counted = "model", "all", "active", "published", "why it differs", "source"
    parts = [
        "# How near the planner is\n",
        "One set of constants for all rows ([how they were found](../explanation/planner.md#time)); none of the\n"
        "published rows was used to find them.\n",
        f"## Published measurements\n\n{_errors(checked)}",
        *(f"Not predicted: {one}\n" for one in left),
        _table(measured, map(_checked_row, checked)),
        "## Measurements kept apart\n",
        "Median absolute error of the time between tokens, with constants found without the GPU or the family: rows\n"
        "of one machine with up to eight GPUs, and of the decoding side of larger ones, from `aiconfigurator-core`\n"
        "0.12.0.\n",
        _table(("left out", "median error"), _left_out()),
        "## Parameters\n",
        "Billions, computed from the shapes without norms, biases, vision and layers for multi-token prediction;\n"
        "beside them what is published, and why it differs where it does.\n",
        _table(counted, _parameter_rows()),
    ]
    return "\n".join(parts)


def _errors(checked: Sequence["validation.Checked"]) -> str:
    errors, band = sorted(abs(one.error) for one in checked), planner_constants.band("throughput")
    near = sum(one <= 0.3 for one in errors)
    inside = sum(band.low <= one.measured / one.predicted <= band.high for one in checked)
    return (
        f"Of {len(checked)} rows the median absolute error is {statistics.median(errors):.1%}, the worst "
        f"{errors[-1]:.0%};\n{near} are within 30 %, and {inside} inside the range that `plan` prints "
        f"({band.low:g} to {band.high:g} of the prediction).\nTokens/s for each GPU: of prompts in `prefill`, of both "
        "in `pd`, else of answers.\n"
    )


def _checked_row(one: "validation.Checked") -> tuple[str, ...]:
    row = one.row
    name = f"[{row['id']}]({row['source'].split()[0]})"
    gpus, model = f"{row['gpus_in_instance']} x {row['hardware']}", row["model"].rpartition("/")[2]
    speeds = (f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}" for speed in (one.measured, one.predicted))
    return name, row["phase"], model, gpus, row["engine"], *speeds, f"{one.error:+.0%}"


def _left_out() -> Iterator[tuple[str, str]]:
    for part in planner_constants.left_out().values():
        for name, error in part.items():
            yield name, f"{error:.1%}"


def _parameter_rows() -> Iterator[tuple[str, ...]]:
    for shapes, said in zip(library(), published(), strict=True):
        counts = f"{shapes.parameters / 1e9:,.1f}", f"{shapes.active / 1e9:.1f}"
        yield shapes.name, *counts, said.figures, said.deviation, said.source


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "reference/cli.md": command_line,
    "reference/configuration.md": configuration,
    "reference/errors.md": errors,
    "reference/planner-validation.md": planner,
}

if __name__ == "__main__":
    sys.exit(main())
