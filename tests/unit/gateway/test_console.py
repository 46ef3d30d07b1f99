"""`/docs` on a closed network: everything it needs comes from here."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser

import httpx
import pytest

from terascope.core.config import Config, ServerConfig
from terascope.testing.gateway import running_gateway


class References(HTMLParser):
    """Gathers what a page would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("src", "href") and value]


@pytest.fixture(params=["", "/terascope"], ids=["at the root", "below a prefix"])
def page(request: pytest.FixtureRequest) -> Iterator[tuple[httpx.Client, str, str]]:
    """A client, the prefix, and the page, as a browser gets it from a proxy that keeps the prefix."""
    prefix: str = request.param
    config = Config(server=ServerConfig(root_path=prefix))
    with running_gateway(config) as served, httpx.Client(base_url=served.url.removesuffix(prefix)) as client:
        answer = client.get(f"{prefix}/docs")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/html")
        yield client, prefix, answer.text


def test_everything_is_loaded_from_here(page: tuple[httpx.Client, str, str]) -> None:
    client, prefix, text = page
    loaded = References(text).found
    assert len(loaded) == 3
    for path in loaded:
        assert path.startswith(f"{prefix}/docs/")
        answer = client.get(path)
        assert answer.status_code == 200
        assert len(answer.content) > 500
    kinds = [client.get(path).headers["content-type"].partition(";")[0] for path in loaded]
    assert sorted(kinds) == ["image/png", "text/css", "text/javascript"]


def test_the_page_names_no_other_host(page: tuple[httpx.Client, str, str]) -> None:
    client, prefix, text = page
    assert re.findall(r"https?://[^\s'\"]+", text) == []
    assert f"url: '{prefix}/openapi.json'" in text
    assert client.get(f"{prefix}/openapi.json").status_code == 200
    assert '"validatorUrl": null' in text  # else the browser would ask a service on the internet
    style = client.get(f"{prefix}/docs/swagger-ui.css").text
    assert [url for url in re.findall(r"url\(\"?([^)\"]{1,20})", style) if not url.startswith("data:")] == []
    assert "@import" not in style


@pytest.mark.parametrize("name", ["other.js", "..%2fconsole.py", "%2e%2e%2f__init__.py", "swagger-ui.css/x", ""])
def test_only_the_shipped_files_are_there(http: httpx.Client, name: str) -> None:
    answer = http.get(f"/docs/{name}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"
