"""Which gateway a command asks, and with which key."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from terascope.cli.connection import connected, find, local_data_dir
from terascope.core.errors import ConfigError, GatewayUnreachable, NotAuthenticated

from .conftest import Cli, SetEnvironment

LOCAL = "http://127.0.0.1:8123"
Runs = Callable[..., Path]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, set_environment: SetEnvironment) -> Iterator[None]:
    """A directory and a home in which nothing is."""
    before = Path.cwd()
    set_environment("HOME", str(tmp_path / "home"))
    set_environment("XDG_DATA_HOME", str(tmp_path / "home" / "share"))
    set_environment("XDG_CONFIG_HOME", str(tmp_path / "home" / "config"))
    (tmp_path / "here").mkdir()
    os.chdir(tmp_path / "here")
    yield
    os.chdir(before)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """Leaves the file of a running gateway in a directory."""

    def leave(directory: Path = tmp_path / "data", url: str = LOCAL, key: str = "local") -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "operator.json").write_text(json.dumps({"url": url, "key": key}))
        return directory

    return leave


def test_options_come_first(set_environment: SetEnvironment) -> None:
    set_environment("TERASCOPE_URL", "http://one:1")
    set_environment("TERASCOPE_API_KEY", "of-one")
    assert (find().url, find().key) == ("http://one:1", "of-one")
    assert (find("http://two:2/v1").url, find(key="other").key) == ("http://two:2", "other")


@pytest.mark.parametrize("where", ["here/.terascope", "home/share/terascope"])
def test_a_gateway_on_this_machine_is_found_by_itself(runs: Runs, tmp_path: Path, where: str) -> None:
    runs(tmp_path / where)
    assert (find().url, find().key, find().found) == (LOCAL, "local", True)
    assert local_data_dir(None) == tmp_path / where


def test_the_nearer_gateway_goes_first(runs: Runs, tmp_path: Path) -> None:
    runs(tmp_path / "home/share/terascope", key="far")
    runs(tmp_path / "here/.terascope", key="near")
    assert find().key == "near"


def test_a_data_directory_that_is_named_is_the_only_one(runs: Runs, set_environment: SetEnvironment) -> None:
    runs(Path(".terascope"))
    set_environment("TERASCOPE_DATA_DIR", str(runs(key="named")))
    assert find().key == "named"
    set_environment("TERASCOPE_DATA_DIR", "nowhere")
    assert not find().found


def test_a_data_directory_given_as_option_goes_before_the_environment(
    runs: Runs, set_environment: SetEnvironment
) -> None:
    set_environment("TERASCOPE_URL", "http://one:1")
    set_environment("TERASCOPE_API_KEY", "of-one")
    assert (find(data_dir=runs()).url, find(data_dir=runs()).key) == (LOCAL, "local")


def test_the_operators_key_goes_to_its_own_gateway_only(runs: Runs) -> None:
    directory = runs()
    assert find(f"{LOCAL}/v1", data_dir=directory).key == "local"
    assert find("http://elsewhere:8123", data_dir=directory).key == ""
    assert find("http://127.0.0.1:8124", data_dir=directory).key == ""


def test_ones_own_key_goes_before_the_operators(runs: Runs, set_environment: SetEnvironment) -> None:
    runs(Path(".terascope"))
    set_environment("TERASCOPE_API_KEY", "mine")
    assert (find().url, find().key) == (LOCAL, "mine")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"url": "x", "key": "y"}', '{"url": 1, "key": 2}', "{}"])
def test_a_damaged_file_is_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "operator.json").write_text(text)
    assert not find(data_dir=tmp_path).found


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_the_file_of_another_user_is_not_trusted(runs: Runs) -> None:
    directory = runs()
    os.chown(directory / "operator.json", 12345, 12345)
    found = find(data_dir=directory)
    assert (found.found, found.key) == (False, "")
    assert "belongs to another user" in found.looked


def test_a_key_alone_is_tried_where_gateways_are_by_default() -> None:
    assert find(key="mine").url == "http://127.0.0.1:8000"
    with connected("", "mine", None) as client:
        assert client.url == "http://127.0.0.1:8000"


def test_what_is_missing_is_said() -> None:
    with pytest.raises(GatewayUnreachable, match=r"no gateway is known \(.*\.terascope: none runs; .*TERASCOPE_URL"):
        connected("", "", None).__enter__()
    with pytest.raises(
        NotAuthenticated, match="no API key for http://one:1; sign in with `terascope login`, or set TERASCOPE_API_KEY"
    ):
        connected("http://one:1", "", None).__enter__()
    with pytest.raises(ConfigError, match="'one' is not a gateway's URL"):
        connected("one", "", None).__enter__()


def test_the_options_are_on_every_command_that_asks(bare: Cli) -> None:
    told = bare("models", "show", "echo", "--url", "http://127.0.0.1:9", "--key", "x")
    assert told.err.startswith("terascope: no connection to http://127.0.0.1:9 (")
    for noun, command in (("models", "add"), ("keys", "list"), ("runs", "show")):
        assert {"--url", "--key", "--data-dir"} <= set(bare(noun, command, "--help").out.split())
