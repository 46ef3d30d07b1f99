"""Writes the reference pages that the source already knows: configuration, errors, command line, plans, planner, SDK.

`python docs/generate.py` writes them; with `--check` it writes nothing and fails when one is out of step.
"""

import argparse
import ast
import contextlib
import dataclasses
import inspect
import io
import json
import os
import re
import statistics
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from terascope import client
from terascope.cli.app import NOUNS, load, run
from terascope.client import flow, operations, plan, plots
from terascope.client.ask import Noun, call
from terascope.client.traces import Tracing
from terascope.core import environment
from terascope.core.config import DEFAULT_DEPLOYMENTS, DEFAULT_MODELS, Config
from terascope.core.errors import ConfigError, ServiceError, all_errors
from terascope.internals.limits import BYTES_PER_MICRO, GRADIENT_SHARE, Limits
from terascope.internals.shape import Attention, ModelShape
from terascope.internals.sites import MEANINGS, Place, Site, axes
from terascope.planner import constants as planner_constants
from terascope.planner import library, published, validation
from terascope.protocol import traces

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


# plans

_SECTIONS: tuple[tuple[str, type[traces.Known]], ...] = (
    ("The request", traces.TraceRequest),
    ("Prompt", traces.TracePrompt),
    ("What all operations have", traces.Placed),
    *((f"`{verb}`", kind) for verb, kind in traces.OPERATIONS.items()),
    ("`reduce`", traces.ReduceFields),
    ("`tuned_lens`", traces.TunedLensFields),
    ("`project`", traces.ProjectFields),
    ("`encode`", traces.EncodeFields),
    ("Autoencoder", traces.AutoencoderFields),
    ("`gradient`", traces.GradientFields),
    ("`of`", traces.ScalarFields),
    ("`dot`", traces.DotFields),
    ("`with_respect_to`", traces.TargetFields),
    ("Array", traces.ArrayData),
)
"""The parts of a plan, each with its heading."""
_LINKS = {kind.__name__: f"[{title.lower()}](#{title.lower().strip('`')})" for title, kind in _SECTIONS}
_NAMES = _LINKS | {"TraceMessage": "`role` and `content`"}
_EXAMPLE = """```json
{
  "model": "smollm2-135m-instruct",
  "prompts": [
    {"name": "clean", "text": "The Eiffel Tower is in"},
    {"name": "other", "text": "The Colosseum is in"}
  ],
  "operations": [
    {"capture": "blocks.*.residual.post", "tokens": "last", "reduce": {"logit_lens": 5}},
    {"patch": "blocks.5.residual.post", "in": "clean", "from": "other", "tokens": -1}
  ],
  "gradient": {"of": {"logit": " Paris", "minus": " Rome"}, "with_respect_to": ["embeddings"]}
}
```
"""


def plans() -> str:
    """The page of the plan language."""
    parts = [
        "# Plans: what to see and change inside a model\n",
        "A plan is the body of `POST /v1/traces`. Version 1 of the language; how plans are run and bounded is told in\n"
        "[What happens inside](../explanation/internals.md). An error names the field, and the nearest right choice.\n",
        _EXAMPLE,
        *(_part_of_plan(title, kind) for title, kind in _SECTIONS),
        _sites(),
        _limits(),
    ]
    return "\n".join(parts)


def _part_of_plan(title: str, kind: type[traces.Known]) -> str:
    schema = kind.model_json_schema(by_alias=True)
    common = set() if kind is traces.Placed else set(traces.Placed.model_json_schema()["properties"])
    shown = schema["properties"].items()
    if issubclass(kind, traces.Placed):
        shown = [(name, field) for name, field in shown if name not in common]
    needed = schema.get("required", ())
    rows = "\n".join(_field_row(name, field, needed=name in needed) for name, field in shown)
    text = "" if kind in (traces.Placed, traces.TraceRequest) else f"{inspect.getdoc(kind)}\n\n"
    return f"## {title}\n\n{text}| field | type | default | meaning |\n| --- | --- | --- | --- |\n{rows}\n"


def _field_row(name: str, field: dict[str, Any], *, needed: bool) -> str:
    default = field.get("default")
    shown = "needed" if needed else f"`{json.dumps(default)}`" if default not in (None, [], {}) else ""
    return f"| `{name}` | {_schema_type(field)} | {shown} | {field.get('description', '')} |"


def _schema_type(field: dict[str, Any]) -> str:
    options = field.get("anyOf") or field.get("oneOf") or [field]
    shown = [one for one in options if one.get("type") != "null"]
    known = {reference.rpartition("/")[2] for one in shown if (reference := one.get("$ref"))}
    if "ArrayData" in known:  # numbers in lists, too
        return "[array](#array)"
    if "TokenTextValue" in known:
        return "[tokens](#what-all-operations-have)"
    return " or ".join(dict.fromkeys(map(_one_type, shown)))


def _one_type(one: dict[str, Any]) -> str:
    if reference := one.get("$ref"):
        return _NAMES[reference.rpartition("/")[2]]
    if words := one.get("enum") or ([one["const"]] if "const" in one else []):
        return " or ".join(f"`{json.dumps(word)}`" for word in words)
    if one["type"] == "array":
        return "list of operations" if "discriminator" in one["items"] or "oneOf" in one["items"] else _list_type(one)
    return {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}.get(
        one["type"], "mapping of names to arrays"
    )


def _list_type(one: dict[str, Any]) -> str:
    inner = _schema_type(one["items"])
    return f"list of {inner}s" if inner in ("whole number", "number", "text") else f"list of {inner}"


def _sites() -> str:
    shape = ModelShape(1, 1, 1, 1, 1, 1, experts=1, experts_per_token=1, attention=Attention.SOFTMAX)
    rows = "\n".join(f"| `{_site(place)}` | {_axes(place, shape)} | {meaning} |" for place, meaning in MEANINGS.items())
    return (
        "## Sites\n\n"
        "`L` is a layer from 0, a negative one (`-1`: the last), a range (`3-7`, both included), or `*`: all layers\n"
        "that have such a site. Models differ in which of them they have; axes are those for one token.\n\n"
        f"| site | axes | what is there |\n| --- | --- | --- |\n{rows}\n"
    )


def _site(place: Place) -> str:
    if place in (Place.MODULE_INPUT, Place.MODULE_OUTPUT):
        return f"module:PATH:{place}"
    return str(place) if place in (Place.EMBEDDINGS, Place.NORM, Place.LOGITS) else f"blocks.L.{place}"


def _axes(place: Place, shape: ModelShape) -> str:
    module = "PATH" if place in (Place.MODULE_INPUT, Place.MODULE_OUTPUT) else ""
    return ", ".join(axis.name for axis in axes(Site(place, 0, module), shape))


def _limits() -> str:
    rows = "\n".join(f"| {one.name.replace('_', ' ')} | {one.default:,} |" for one in dataclasses.fields(Limits))
    return (
        "## Limits and prices\n\n"
        "What a plan takes at most is known before it runs; `dry_run` tells it. One over these limits is refused.\n\n"
        f"| of one plan | most, unless set otherwise |\n| --- | --- |\n{rows}\n\n"
        "Tokens that go forward cost what a query's do. A token that goes forward and backward costs as\n"
        f"much as {GRADIENT_SHARE} tokens of a prompt, each pass counted. What is captured costs a millionth of a\n"
        f"service unit for every {BYTES_PER_MICRO:,} bytes.\n"
    )


# the SDK

_SDK = """# The Python SDK

`terascope.client` speaks HTTP and nothing else. `Client` blocks, `AsyncClient` has the same calls to be awaited; both
take a URL and a key, by default those of `TERASCOPE_URL` and `TERASCOPE_API_KEY`. What goes wrong is a `ServiceError`
of [these codes](errors.md).

```python
from terascope.client import Client
from terascope.client.operations import capture

with Client("http://127.0.0.1:8000", "tera-...") as client:
    trace = client.trace(
        "smollm2-135m-instruct",
        {"clean": "The Eiffel Tower is in", "other": "The Colosseum is in"},
        [capture("blocks.*.residual.post", tokens="last")],
    )
stream = trace["clean"].stack("blocks.*.residual.post")
print(trace, trace["clean"], stream)
assert stream.numpy().shape == stream.torch().shape == (30, 1, 576)
assert stream.xarray().sel(layer=29).dims == ("token", "channel")
```

Prompt by prompt, as they are computed, and awaited:

```python
import asyncio

from terascope.client import AsyncClient
from terascope.client.operations import capture


async def norms() -> None:
    async with AsyncClient("http://127.0.0.1:8000", "tera-...") as client:
        operations = [capture("norm", reduce="norm")]
        async with client.trace("smollm2-135m-instruct", ["One", "Two"], operations, stream=True) as prompts:
            async for prompt in prompts:
                print(prompt.pieces, prompt["norm"].numpy())


asyncio.run(norms())
```

numpy and xarray come with `pip install 'terascope[arrays]'`, matplotlib with `[plot]`, torch with `[torch]`; each is
imported when it is asked for. Three studies: [where a fact is stored](../tutorial/where-a-fact-is.md),
[steering](../tutorial/steering.md), [a linear probe](../tutorial/linear-probe.md).
"""


def sdk() -> str:
    """What the SDK has, from its docstrings."""
    parts = [
        _SDK,
        "## `client.trace`\n\n" + _described(f"client.trace{_signature(Tracing.__call__)}", Tracing.__call__),
        f"Further fields of a plan (`PlanFields`):\n{_body(plan.PlanFields)}\n",
        "## Operations\n\n" + f"{_text(operations)}\n",
        f"All take a part of their sites (`Where`):\n{_body(operations.Where)}\n",
        *(_described(f"{one}{_signature(getattr(operations, one))}", getattr(operations, one)) for one in _OPERATIONS),
        "## Results\n",
        *(_class(kind) for kind in (client.Trace, client.TracedPrompt, client.TraceArray, flow.Flow)),
        f"## Plots\n\n{_text(plots)}\n",
        *(_described(f"{one.__name__}{_signature(one)}", one) for one in _PLOTS),
        "## All calls\n\n| call | what it does |\n| --- | --- |\n" + "".join(_calls()),
    ]
    return "\n".join(parts)


_OPERATIONS = [*(f"{verb}_" if verb == "set" else verb for verb in traces.OPERATIONS), "gradient"]
_PLOTS = (plots.plot_logit_lens, plots.plot_attention, plots.plot_attribution)


def _described(title: str, what: object) -> str:
    return f"**`{title}`**\n\n{_text(what)}\n"


def _class(kind: type) -> str:
    own = [(name, one) for name, one in vars(kind).items() if not name.startswith("_")]
    shown = [(name, one) for name, one in own if isinstance(one, property | classmethod) or inspect.isfunction(one)]
    rows = [f"| `{name}{_arguments(one)}` | {_sdk_row(one)} |\n" for name, one in shown]
    table = f"\n| of it | what it is |\n| --- | --- |\n{''.join(rows)}" if rows else ""
    return f"**`{kind.__name__}`**\n\n{_text(kind)}\n{table}"


def _arguments(one: object) -> str:
    return "" if isinstance(one, property) else _signature(getattr(one, "__func__", one))


def _signature(function: object) -> str:
    """Names of the arguments, without types."""
    named = inspect.signature(function).parameters.values()  # type: ignore[arg-type] # a function of ours
    kept = [one.replace(annotation=inspect.Parameter.empty) for one in named if one.name not in ("self", "cls")]
    plain = [one.replace(default=str(one.default)) if isinstance(one.default, Enum) else one for one in kept]
    return str(inspect.Signature(plain)).replace("|", "or")


def _text(what: object) -> str:
    return inspect.getdoc(what) or ""


def _body(what: object) -> str:
    """A docstring after its first paragraph."""
    return "\n" + _text(what).partition("\n\n")[2]


def _sdk_row(what: object) -> str:
    return " ".join(_text(what).split()).replace("|", "or")


def _calls() -> Iterator[str]:
    """Every call of the nouns of a client, with the first sentence of what it does."""
    with client.Client("http://127.0.0.1:8000", "none") as one:
        nouns = {"": one, **{f"{name}.": noun for name, noun in vars(one).items() if _is_noun(name, noun)}}
    for prefix, noun in nouns.items():
        for name in sorted(name for name in dir(type(noun)) if isinstance(_static(noun, name), call)):
            function = getattr(type(noun), name)
            does = _sdk_row(function).partition(". ")[0].rstrip(".")
            yield f"| `client.{prefix}{name}{_signature(function)}` | {does} |\n"


def _is_noun(name: str, value: object) -> bool:
    return isinstance(value, Noun) and not name.startswith("_")


def _static(noun: object, name: str) -> object:
    return inspect.getattr_static(type(noun), name)


PAGES: dict[str, Callable[[], str]] = {
    "reference/cli.md": command_line,
    "reference/configuration.md": configuration,
    "reference/errors.md": errors,
    "reference/planner-validation.md": planner,
    "reference/plans.md": plans,
    "reference/sdk.md": sdk,
}

if __name__ == "__main__":
    sys.exit(main())
