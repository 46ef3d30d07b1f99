"""Where replicas are reached."""

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from terascope.core.errors import ConfigError
from terascope.core.ids import new_id
from terascope.engines.contract import Endpoint
from terascope.fleet.endpoints import Endpoints


@pytest.fixture
def endpoints(tmp_path: Path) -> Iterator[Endpoints]:
    endpoints = Endpoints(tmp_path)
    endpoints.open()
    yield endpoints
    endpoints.close()


@pytest.fixture
def long_data_dir(tmp_path: Path) -> Path:
    return tmp_path / ("d" * 100)


def _path(endpoint: Endpoint) -> Path:
    return Path(endpoint.url.removeprefix("unix:"))


def _bind(endpoint: Endpoint) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(_path(endpoint)))


def test_sockets_lie_in_a_private_directory(endpoints: Endpoints, tmp_path: Path) -> None:
    endpoint = endpoints.new(new_id("replica"))
    assert _path(endpoint).parent == tmp_path / "run"
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700
    _bind(endpoint)
    assert _path(endpoint).is_socket()


def test_no_two_endpoints_are_alike(endpoints: Endpoints) -> None:
    made = [endpoints.new(new_id("replica")) for _ in range(100)]
    assert len({one.url for one in made}) == 100
    assert len({one.secret for one in made}) == 100


def test_an_old_directory_is_made_private_and_empty(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o755)
    (tmp_path / "run" / "old.sock").touch()
    Endpoints(tmp_path).open()
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700
    assert list((tmp_path / "run").iterdir()) == []


def test_a_long_data_directory_gets_short_sockets_elsewhere(long_data_dir: Path) -> None:
    endpoints = Endpoints(long_data_dir)
    endpoints.open()
    endpoint = endpoints.new(new_id("replica"))
    _bind(endpoint)
    directory = _path(endpoint).parent
    assert directory.parent == Path(tempfile.gettempdir())
    assert directory.stat().st_mode & 0o777 == 0o700
    endpoints.remove(endpoint.url)
    endpoints.remove(endpoint.url)
    endpoints.close()
    assert not directory.exists()


def test_what_an_earlier_life_left_elsewhere_is_removed(long_data_dir: Path, endpoints: Endpoints) -> None:
    earlier = Endpoints(long_data_dir)
    earlier.open()
    endpoint = earlier.new(new_id("replica"))
    _bind(endpoint)
    endpoints.remove(endpoint.url)
    assert not _path(endpoint).parent.exists()


def test_only_sockets_are_removed(endpoints: Endpoints) -> None:
    endpoints.remove("https://example.org/v1")
    endpoints.remove("")


def test_no_directory_for_sockets_is_an_error_of_the_configuration(long_data_dir: Path) -> None:
    long_data_dir.mkdir()
    before, tempfile.tempdir = tempfile.tempdir, str(long_data_dir)
    try:
        with pytest.raises(ConfigError, match="shorter data directory"):
            Endpoints(long_data_dir).open()
    finally:
        tempfile.tempdir = before
    assert [path.name for path in long_data_dir.iterdir()] == ["run"]
