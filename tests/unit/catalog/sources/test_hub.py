"""`hf:org/name@revision`, with the real library against a hub on this machine and against its cache."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from terascope.catalog.files import list_files
from terascope.catalog.sources.hub import HubSource
from terascope.core.errors import BadRequest, SourceUnavailable
from terascope.testing.checkpoints import checkpoint, write_hub_cache
from terascope.testing.hub import FakeHub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40

SetEnvironment = Callable[[str, str], None]


class Heard:
    """Keeps what a fetch reports."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, float | None]] = []

    def __call__(self, message: str, fraction: float | None) -> None:
        self.steps.append((message, fraction))


@pytest.fixture
def cache(tmp_path: Path, set_environment: SetEnvironment) -> Path:
    """An empty cache of the library."""
    set_environment("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def hub(cache: Path, set_environment: SetEnvironment) -> Iterator[FakeHub]:
    """A hub with one repository."""
    with FakeHub("org/tiny", COMMIT, checkpoint()) as hub:
        set_environment("HF_ENDPOINT", hub.url)
        yield hub


async def test_a_branch_is_fetched_and_pinned_to_its_commit(hub: FakeHub, cache: Path) -> None:
    heard = Heard()
    fetched = await HubSource.parse("org/tiny").fetch(heard)
    assert fetched.source == f"hf:org/tiny@{COMMIT}"
    assert fetched.directory == cache / "models--org--tiny" / "snapshots" / COMMIT
    assert list_files(fetched.directory) == sorted(checkpoint())
    assert (fetched.directory / "model.safetensors").read_bytes() == checkpoint()["model.safetensors"]
    assert heard.steps[0] == ("fetching hf:org/tiny", None)
    assert heard.steps[-1] == ("fetching hf:org/tiny", 1.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [("org/tiny@v9", "'org/tiny' on the Hub has no revision 'v9'"), ("org/tinny", "no repository 'org/tinny'")],
)
async def test_what_the_hub_lacks_is_named(hub: FakeHub, text: str, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        await HubSource.parse(text).fetch(Heard())


async def test_a_gated_repository_says_what_to_do(hub: FakeHub) -> None:
    hub.gated = True
    with pytest.raises(BadRequest, match="set HF_TOKEN"):
        await HubSource.parse("org/tiny").fetch(Heard())


@pytest.mark.parametrize("text", ["org/tiny", "org/tiny@main", f"org/tiny@{COMMIT}"])
async def test_offline_a_snapshot_in_the_cache_will_do(text: str, cache: Path, set_environment: SetEnvironment) -> None:
    snapshot = write_hub_cache(cache, "org/tiny", COMMIT, checkpoint())
    set_environment("HF_HUB_OFFLINE", "1")
    fetched = await HubSource.parse(text).fetch(Heard())
    assert (fetched.source, fetched.directory) == (f"hf:org/tiny@{COMMIT}", snapshot)


async def test_offline_without_a_snapshot_says_what_to_do(cache: Path, set_environment: SetEnvironment) -> None:
    set_environment("HF_HUB_OFFLINE", "1")
    with pytest.raises(SourceUnavailable, match="HF_HUB_OFFLINE"):
        await HubSource.parse(f"org/tiny@{OTHER}").fetch(Heard())


async def test_offline_an_incomplete_snapshot_is_refused(hub: FakeHub, set_environment: SetEnvironment) -> None:
    fetched = await HubSource.parse("org/tiny").fetch(Heard())
    (fetched.directory / "model.safetensors").unlink()
    set_environment("HF_HUB_OFFLINE", "1")
    with pytest.raises(SourceUnavailable, match="incomplete"):
        await HubSource.parse("org/tiny").fetch(Heard())


async def test_a_cache_that_cannot_be_written_says_what_to_do(
    hub: FakeHub, tmp_path: Path, set_environment: SetEnvironment
) -> None:
    (tmp_path / "file").touch()
    set_environment("HF_HUB_CACHE", str(tmp_path / "file"))
    with pytest.raises(SourceUnavailable, match="HF_HUB_CACHE"):
        await HubSource.parse("org/tiny").fetch(Heard())


async def test_a_cancelled_fetch_ends_its_program(hub: FakeHub) -> None:
    started = asyncio.Event()
    fetch = asyncio.create_task(HubSource.parse("org/tiny").fetch(lambda _message, _fraction: started.set()))
    await started.wait()
    fetch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetch
