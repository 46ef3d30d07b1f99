"""What holds in every test: no connection leaves this machine, and the caller's environment does not leak in."""

import gc
import ipaddress
import os
import shutil
import sys
from collections.abc import Callable, Generator, Iterator

import pytest
from hypothesis import settings
from xdist.remote import Producer

pytest.register_assert_rewrite("terascope.testing")  # what fails in a conformance suite tells its values

from terascope.testing.postgres import PostgresCluster  # noqa: E402 - only what is imported after it is rewritten
from terascope.testing.slurm import SlurmCluster  # noqa: E402

from .distribution import DearestFirst, in_order  # noqa: E402

# The same examples every time, however slow the machine is.
settings.register_profile("terascope", derandomize=True, deadline=None)
settings.load_profile("terascope")

_CLEARED = ("TERASCOPE_", "OPENAI_", "LLM_", "HF_")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_LOCAL_NAMES = ("localhost", "", None)


def _refuse_strangers(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook: sees every connection and look-up that this process makes through Python's sockets."""
    if event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        if isinstance(address, tuple) and not _is_local(address[0]):
            raise ConnectionRefusedError(f"a test tried to reach {address!r}; tests stay on this machine")
    elif event == "socket.getaddrinfo" and not _is_local(arguments[0]):
        raise ConnectionRefusedError(f"a test tried to look up {arguments[0]!r}; tests stay on this machine")


def _is_local(host: object) -> bool:
    text = host.decode() if isinstance(host, bytes) else host
    if text in _LOCAL_NAMES:
        return True
    try:
        address = ipaddress.ip_address(str(text))
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


sys.addaudithook(_refuse_strangers)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Thousands of tests are made and stay: to look for garbage among them again and again takes many seconds."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of several processes, none shall begin with what takes longest when the others are done."""
    if hasattr(config, "workerinput"):  # a process of `pytest -n`
        items[:] = in_order(items)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> DearestFirst | None:
    """What gives files to the processes of `pytest -n 2 --dist loadfile`."""
    return DearestFirst(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session", autouse=True)
def _clean_environment() -> Iterator[None]:
    before = dict(os.environ)
    for name in before:
        if name.startswith(_CLEARED) or name in _PROXIES:
            del os.environ[name]
    yield
    os.environ.update(before)


@pytest.fixture
def set_environment() -> Iterator[Callable[[str, str], None]]:
    """Sets a variable of the environment for one test."""
    before = dict(os.environ)
    yield os.environ.__setitem__
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def need_program() -> Callable[[str], str]:
    """Finds a program that `make test` installs as root; without it a test is skipped, but in CI it fails."""

    def find(name: str) -> str:
        path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
        if path is None and os.environ.get("CI") == "true":
            pytest.fail(f"{name} is not installed, and in CI it must be; see `tools` in the Makefile")
        if path is None:
            pytest.skip(f"{name} is not installed; `make tools` as root installs it")
        return path

    return find


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresCluster]:
    """A PostgreSQL server of this run's own; without the program a test is skipped, but in CI it fails."""
    try:
        cluster = PostgresCluster()
    except FileNotFoundError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{error}, and in CI it must be")
        pytest.skip(str(error))
    with cluster:
        yield cluster


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[SlurmCluster]:
    """A Slurm of this run's own; without the programs a test is skipped, but in CI it fails."""
    try:
        cluster = SlurmCluster()
    except FileNotFoundError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{error}, and in CI it must be")
        pytest.skip(str(error))
    with cluster:
        yield cluster


@pytest.fixture
def slurm(slurm_cluster: SlurmCluster, set_environment: Callable[[str, str], None]) -> SlurmCluster:
    """The same, found by the commands of this test."""
    for name, value in slurm_cluster.variables.items():
        set_environment(name, value)
    return slurm_cluster
