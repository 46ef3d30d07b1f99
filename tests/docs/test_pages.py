"""The pages agree with the source and lead to each other."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from prometheus_client.parser import text_string_to_metric_families

from terascope.core.config import ServerConfig
from terascope.core.errors import ServiceError, all_errors
from terascope.engines.worker.metrics import Metrics as TorchMetrics
from terascope.testing.gateway import serving

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "terascope"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
PARTS = ("**Symptom.**", "**Cause.**", "**Fix.**")


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _tokens(page: Path) -> list[Token]:
    return MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8"))


def _links(page: Path) -> Iterator[str]:
    for token in _tokens(page):
        for child in token.children or ():
            if child.type in ("link_open", "image"):
                yield str(child.attrs.get("href") or child.attrs.get("src"))


def _anchors(page: Path) -> set[str]:
    """The anchors that the hosting page makes of headings."""
    tokens = _tokens(page)
    titles = [tokens[at + 1].content for at, token in enumerate(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def _local(page: Path) -> Iterator[tuple[Path, str]]:
    for link in _links(page):
        if not re.match(r"[a-z]+:", link):
            path, _, anchor = link.partition("#")
            yield ((page.parent / path).resolve() if path else page), anchor


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target, anchor in _local(page):
        assert target.exists(), f"{target} is not there"
        assert not anchor or anchor in _anchors(target), f"{target.name} has no heading #{anchor}"


def test_every_page_can_be_reached_from_the_index() -> None:
    reached: set[Path] = set()
    todo = [DOCS / "index.md"]
    while todo:
        page = todo.pop()
        if page not in reached and page.suffix == ".md" and page.is_relative_to(DOCS):
            reached.add(page)
            todo.extend(target for target, _ in _local(page))
    assert sorted(set(DOCS.rglob("*.md")) - reached) == []


def test_the_generated_pages_are_up_to_date() -> None:
    command = [sys.executable, str(DOCS / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def _codes_in_source() -> set[str]:
    """Every string that the source gives to something called `code`."""
    return {
        code for path in SOURCE.rglob("*.py") for node in ast.walk(ast.parse(path.read_text())) for code in _codes(node)
    }


def _codes(node: ast.AST) -> Iterator[str]:
    pairs: list[tuple[object, ast.AST]] = []
    if isinstance(node, ast.keyword):
        pairs = [(node.arg, node.value)]
    elif isinstance(node, ast.Assign):
        pairs = [pair for target in node.targets for pair in _assigned(target, node.value)]
    for name, value in pairs:
        if name == "code" and isinstance(value, ast.Constant) and isinstance(value.value, str) and value.value:
            yield value.value


def _assigned(target: ast.AST, value: ast.AST) -> Iterator[tuple[object, ast.AST]]:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        for one, its in zip(target.elts, value.elts, strict=True):
            yield from _assigned(one, its)
    else:
        yield getattr(target, "attr", getattr(target, "id", None)), value


def test_every_error_code_has_its_page_and_every_page_its_code() -> None:
    pages = {page.stem for page in (DOCS / "errors").glob("*.md")}
    codes = {error.code for error in all_errors()}
    assert codes - pages == set()
    assert _codes_in_source() - pages == set()
    assert pages - codes - _codes_in_source() == set()


@pytest.mark.parametrize("page", sorted((DOCS / "errors").glob("*.md")), ids=lambda page: page.stem)
def test_an_error_page_says_what_it_is_and_what_to_do(page: Path) -> None:
    text = page.read_text()
    assert text.startswith(f"# `{page.stem}`\n")
    assert [part for part in PARTS if part not in text] == []


@pytest.mark.parametrize("error", [e for e in all_errors() if e is not ServiceError], ids=lambda e: e.__name__)
def test_an_error_page_names_its_status(error: type[ServiceError]) -> None:
    text = (DOCS / "errors" / f"{error.code}.md").read_text()
    assert f"HTTP status {error.status}." in text or error.code == "invalid_configuration"


def test_every_header_of_ours_is_in_the_reference() -> None:
    page = (DOCS / "reference" / "headers.md").read_text().lower()
    text = "".join(
        path.read_text().lower() for room in ("gateway", "inference") for path in (SOURCE / room).rglob("*.py")
    )
    used = set(re.findall(r"x-[a-z]+-[a-z-]*[a-z]", text))
    assert {name for name in used if f"`{name}`" not in page} == set()


async def test_every_metric_is_in_the_reference(tmp_path: Path) -> None:
    async with serving(data_dir=tmp_path) as served, httpx.AsyncClient(base_url=served.url) as client:
        text = (await client.get("/metrics")).text
        of_engines = (await client.get("/metrics/engines")).text
    of_engines += TorchMetrics().text().decode()  # the replicas of this gateway are of the echo engine, which has none
    assert _documented_metrics("The gateway") == dict(re.findall(r"^# TYPE (\S+) (\w+)", text, re.MULTILINE))
    assert _documented_metrics("The engines") == dict(re.findall(r"^# TYPE (\S+) (\w+)", of_engines, re.MULTILINE))


def _documented_metrics(heading: str) -> dict[str, str]:
    """Each metric in the tables of a section, and its type."""
    page = (DOCS / "reference" / "metrics.md").read_text()
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `(terascope_\w+)` \| (\w+) \|", section, re.MULTILINE))


def test_every_question_to_prometheus_is_about_metrics_there_are() -> None:
    page = (DOCS / "reference" / "metrics.md").read_text()
    asked = set(re.findall(r"terascope_engine_\w+", page.partition("| PromQL |")[2]))
    families = text_string_to_metric_families(TorchMetrics().text().decode())
    made = {f"{one.name}{end}" for one in families for end in ("_total", "_bucket", "_sum", "_count")}
    assert asked - made == {"terascope_engine_up"}


async def test_every_path_is_in_the_reference_and_no_other(tmp_path: Path) -> None:
    page = (DOCS / "reference" / "http-api.md").read_text()
    async with serving(data_dir=tmp_path) as served, httpx.AsyncClient(base_url=served.url) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    there = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    listed = set(re.findall(r"`((?:GET|POST|PUT|DELETE|PATCH) /\S*)`", page))
    assert listed - there == {"GET /docs", "GET /openapi.json", "GET /agent/v1/tunnel?deployment="}, (
        "described by themselves, and a WebSocket, which OpenAPI cannot describe"
    )
    assert there - listed == set()


def test_nginx_takes_what_the_gateway_takes() -> None:
    """The numbers of the shipped server block fit the gateway's defaults."""
    text = (DOCS / "how-to" / "files" / "nginx.conf").read_text()
    assert f"client_max_body_size {ServerConfig().max_body_bytes >> 20}m;" in text
    assert f"127.0.0.1:{ServerConfig().port};" in text


def test_nginx_keeps_metrics_to_the_machine_itself() -> None:
    """All of them: a location without `=` also takes what is below it."""
    text = (DOCS / "how-to" / "files" / "nginx.conf").read_text()
    block = text.partition("location /metrics {")[2].partition("}")[0]
    assert re.findall(r"(?:allow|deny) [^;]+", block) == ["allow 127.0.0.1", "allow ::1", "deny all"]
