"""The catalogue as the rest of Terascope sees it."""

import asyncio
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from terascope.catalog.catalog import Catalog
from terascope.catalog.files import digest_of
from terascope.core.errors import BadRequest, Conflict, ModelNotFound, NotFound, SourceUnavailable
from terascope.core.models import Alias, LifeCycle, Task
from terascope.store.database import Database
from terascope.testing.checkpoints import checkpoint, safetensors, write_files, write_hub_cache, write_wheel
from terascope.testing.clock import ManualClock
from terascope.testing.databases import new_sqlite

COMMIT = "0123456789abcdef0123456789abcdef01234567"

SetEnvironment = Callable[[str, str], None]


@pytest.fixture
def clock() -> ManualClock:
    """The catalogue's clock."""
    return ManualClock()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """An empty database."""
    database = await Database.open(new_sqlite(tmp_path / "t.db"))
    yield database
    await database.aclose()


@pytest.fixture
async def catalog(database: Database, tmp_path: Path, clock: ManualClock) -> Catalog:
    """The catalogue of that database."""
    return await Catalog.open(database, tmp_path / "cache", clock)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small model."""
    return write_files(tmp_path / "model", checkpoint())


@pytest.fixture
def wheels(tmp_path: Path, set_environment: SetEnvironment) -> Path:
    """Where pip takes wheels from, with one of `tiny-model` 1.0."""
    set_environment("PIP_CONFIG_FILE", os.devnull)
    set_environment("PIP_NO_INDEX", "1")
    set_environment("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    files = {f"tiny/{path}": body for path, body in checkpoint().items() if path != "README.md"}
    write_wheel(tmp_path / "wheels", "tiny-model", "1.0", files, licence="BSD-3-Clause")
    return tmp_path / "wheels"


async def test_adds_a_model_and_knows_all_about_it(catalog: Catalog, model: Path, clock: ManualClock) -> None:
    heard: list[tuple[str, float | None]] = []
    added = await catalog.add("tiny", f"path:{model}", progress=lambda message, done: heard.append((message, done)))
    assert added.version == added.digest[:12]
    assert added.digest == digest_of(added.files)
    assert [file.path for file in added.files] == sorted(checkpoint())
    assert all(hashlib.sha256(checkpoint()[file.path]).hexdigest() == file.sha256 for file in added.files)
    assert (added.source, added.directory, added.created) == (f"path:{model}", str(model), clock.now())
    assert (added.task, added.context_length, added.parameters) == (Task.GENERATE, 64, 132)
    assert len(added.tokenizer_sha256) == len(added.chat_template_sha256) == 64
    assert heard[-1] == ("hashing", 1.0)
    assert catalog.list() == catalog.versions("tiny") == (added,)
    assert catalog.resolve("tiny") == catalog.resolve(added.public_name) == catalog.get("tiny", added.version) == added


async def test_what_was_added_is_there_after_a_restart(
    catalog: Catalog, model: Path, database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    added = await catalog.add("tiny", f"path:{model}", aliases=["small"])
    again = await Catalog.open(database, tmp_path / "cache", clock)
    assert again.resolve("small") == added
    assert again.aliases() == catalog.aliases() == (Alias("small", "tiny", "", clock.now()),)


async def test_the_same_files_again_change_nothing(catalog: Catalog, model: Path, clock: ManualClock) -> None:
    first = await catalog.add("tiny", f"path:{model}")
    clock.advance(60)
    assert await catalog.add("tiny", f"path:{model}") == first
    assert await catalog.add("tiny", f"path:{model}", first.version) == first
    assert catalog.list() == (first,)


async def test_other_files_are_another_version_and_the_newest(
    catalog: Catalog, model: Path, clock: ManualClock
) -> None:
    first = await catalog.add("tiny", f"path:{model}")
    clock.advance(60)
    (model / "model.safetensors").write_bytes(safetensors({"other": (3,)}))
    second = await catalog.add("tiny", f"path:{model}")
    assert second.digest != first.digest
    assert catalog.versions("tiny") == (first, second)
    assert catalog.resolve("tiny") == second
    assert catalog.resolve(first.public_name) == first


async def test_a_version_never_changes(catalog: Catalog, model: Path) -> None:
    first = await catalog.add("tiny", f"path:{model}", "1.0")
    (model / "config.json").write_bytes(checkpoint(more=1)["config.json"])
    with pytest.raises(Conflict, match=r"tiny@1\.0 is there already with other files"):
        await catalog.add("tiny", f"path:{model}", "1.0")
    assert catalog.list() == (first,)


async def test_the_same_files_elsewhere_move_the_version(catalog: Catalog, model: Path, tmp_path: Path) -> None:
    first = await catalog.add("tiny", f"path:{model}")
    shutil.move(model, tmp_path / "moved")
    moved = await catalog.add("tiny", f"path:{tmp_path / 'moved'}")
    assert (moved.public_name, moved.directory) == (first.public_name, str(tmp_path / "moved"))
    assert catalog.list() == (moved,)


async def test_two_adding_the_same_at_once_both_succeed(catalog: Catalog, model: Path) -> None:
    one, two = await asyncio.gather(*(catalog.add("tiny", f"path:{model}") for _ in range(2)))
    assert one == two
    assert catalog.list() == (one,)


async def test_two_processes_share_a_database(
    catalog: Catalog, model: Path, tmp_path: Path, clock: ManualClock
) -> None:
    second = await Database.open(new_sqlite(tmp_path / "t.db"))
    neighbour = await Catalog.open(second, tmp_path / "cache", clock)
    one, two = await asyncio.gather(catalog.add("tiny", f"path:{model}"), neighbour.add("tiny", f"path:{model}"))
    assert one == two
    await neighbour.alias("small", "tiny")
    with pytest.raises(ModelNotFound):
        catalog.resolve("small")
    await catalog.reload()
    assert catalog.resolve("small") == one
    await second.aclose()


class TestRemote:
    """Models that only an engine elsewhere holds."""

    async def test_has_a_digest_of_its_source(self, catalog: Catalog) -> None:
        source = "remote:https://inference.example.org/prefix"
        added = await catalog.add_remote("big", source, context_length=131_072, task=Task.EMBED, aliases=["b"])
        assert added.digest == hashlib.sha256(source.encode()).hexdigest()
        assert (added.version, added.files, added.directory) == (added.digest[:12], (), "")
        assert (added.context_length, added.task) == (131_072, Task.EMBED)
        assert catalog.resolve("b") == added
        assert await catalog.verify(added) == ()

    async def test_add_takes_it_too(self, catalog: Catalog) -> None:
        added = await catalog.add("big", "remote:http://127.0.0.1:8001", "1", aliases=["b"])
        assert catalog.resolve("b") == added == await catalog.add_remote("big", "remote:http://127.0.0.1:8001", "1")

    async def test_the_echo_engine_needs_no_url(self, catalog: Catalog) -> None:
        assert (await catalog.add("echo", "echo:echo")).source == "echo:echo"

    @pytest.mark.parametrize(
        ("source", "said"),
        [
            ("remote:", "write remote:https"),
            ("remote:ftp://x", "write remote:https"),
            ("remote:https://", "write remote:https"),
            ("https://x", "write remote:https"),
            ("remote:https://user:secret@x", "api_key_env"),
        ],
    )
    async def test_refuses_what_is_no_url(self, catalog: Catalog, source: str, said: str) -> None:
        with pytest.raises(BadRequest, match=said) as caught:
            await catalog.add_remote("big", source)
        assert "secret" not in str(caught.value)


class TestSources:
    """The other sources, through the catalogue."""

    async def test_a_snapshot_of_the_hub(
        self, catalog: Catalog, tmp_path: Path, set_environment: SetEnvironment
    ) -> None:
        set_environment("HF_HUB_CACHE", str(tmp_path / "hub"))
        set_environment("HF_HUB_OFFLINE", "1")
        snapshot = write_hub_cache(tmp_path / "hub", "org/tiny", COMMIT, checkpoint())
        added = await catalog.add("tiny", "hf:org/tiny@main")
        assert (added.source, added.directory) == (f"hf:org/tiny@{COMMIT}", str(snapshot))
        by_path = await catalog.add("other", f"path:{write_files(tmp_path / 'copy', checkpoint())}")
        assert by_path.digest == added.digest  # the digest is of the bytes, wherever they are

    async def test_a_wheel(self, catalog: Catalog, wheels: Path, tmp_path: Path) -> None:
        added = await catalog.add("tiny", "pypi:tiny-model==1.0")
        assert added.source == "pypi:tiny-model==1.0"
        assert added.directory == str(tmp_path / "cache" / "pypi" / "tiny-model" / "1.0" / "model")
        assert added.licence == "BSD-3-Clause"

    async def test_a_pinned_source_is_not_read_again(self, catalog: Catalog, wheels: Path) -> None:
        added = await catalog.add("tiny", "pypi:tiny-model==1.0")
        heard: list[str] = []
        again = await catalog.add("tiny", "pypi:tiny-model==1.0", progress=lambda message, _: heard.append(message))
        assert (again, heard) == (added, [])

    async def test_a_cache_that_was_cleared_is_filled_again(self, catalog: Catalog, wheels: Path) -> None:
        added = await catalog.add("tiny", "pypi:tiny-model==1.0")
        shutil.rmtree(Path(added.directory).parent)
        assert await catalog.add("tiny", "pypi:tiny-model==1.0") == added
        assert await catalog.verify(added) == ()

    async def test_a_cache_that_was_changed_is_refused(self, catalog: Catalog, wheels: Path) -> None:
        added = await catalog.add("tiny", "pypi:tiny-model==1.0")
        (Path(added.directory) / "tokenizer.json").write_text("{ }")
        with pytest.raises(SourceUnavailable, match="is not what was fetched"):
            await catalog.add("tiny", "pypi:tiny-model==1.0")

    async def test_files_that_did_not_change_are_read_once(
        self, catalog: Catalog, model: Path, tmp_path: Path, clock: ManualClock
    ) -> None:
        clock.advance(60 * 60 * 24 * 365 * 100)  # long after the files were written, whenever that is
        first = await catalog.add("tiny", f"path:{model}")
        cache = tmp_path / "cache" / "hashes.json"
        weights = next(file.sha256 for file in first.files if file.path == "model.safetensors")
        cache.write_text(cache.read_text().replace(weights, "0" * 64))  # a sum that no reading would give
        second = await catalog.add("tiny", f"path:{model}")
        assert [file.sha256 for file in second.files if file.path == "model.safetensors"] == ["0" * 64]
        assert await catalog.verify(second) == ("model.safetensors: changed",)  # which reads them


@pytest.mark.parametrize(
    ("name", "version", "aliases"),
    [("", "", ()), ("a b", "", ()), ("a@1", "", ()), ("a", "v 1", ()), ("a", "", ("b@1",)), ("a", "", ("../x",))],
)
async def test_bad_names_are_refused_before_anything_is_fetched(
    catalog: Catalog, name: str, version: str, aliases: tuple[str, ...]
) -> None:
    with pytest.raises(BadRequest, match=r"not a model name|has a version in it"):
        await catalog.add(name, "path:/nowhere", version, aliases)


@pytest.mark.parametrize(
    ("files", "said"),
    [({}, "holds no model"), ({"config.json": b"{}"}, "no weights"), ({"x.gguf": b""}, "not a GGUF file")],
)
async def test_a_directory_without_a_model_leaves_no_trace(
    catalog: Catalog, tmp_path: Path, files: dict[str, bytes], said: str
) -> None:
    (tmp_path / "bad").mkdir()
    with pytest.raises(BadRequest, match=said):
        await catalog.add("bad", f"path:{write_files(tmp_path / 'bad', files)}", aliases=["worse"])
    assert (catalog.list(), catalog.aliases()) == ((), ())


async def test_a_cancelled_change_is_carried_through_or_not_begun(catalog: Catalog, model: Path) -> None:
    await catalog.add("tiny", f"path:{model}")
    change = asyncio.create_task(catalog.alias("small", "tiny"))
    await asyncio.sleep(0)
    change.cancel()
    with pytest.raises(asyncio.CancelledError):
        await change
    seen = catalog.aliases()
    await catalog.reload()
    assert catalog.aliases() == seen
    assert catalog.resolve("small").name == "tiny"


async def test_an_addition_cancelled_while_it_hashes_leaves_no_trace(catalog: Catalog, model: Path) -> None:
    def cancel(_message: str, _fraction: float | None) -> None:
        adding.cancel()

    adding = asyncio.create_task(catalog.add("tiny", f"path:{model}", progress=cancel))
    with pytest.raises(asyncio.CancelledError):
        await adding
    assert catalog.list() == ()


class TestAliases:
    """Names that move."""

    async def test_follow_the_newest_or_stay(self, catalog: Catalog, model: Path, clock: ManualClock) -> None:
        first = await catalog.add("tiny", f"path:{model}", "1")
        await catalog.alias("newest", "tiny")
        await catalog.alias("first", "tiny@1")
        await catalog.alias("also-first", "first")
        clock.advance(1)
        (model / "config.json").write_bytes(checkpoint(more=1)["config.json"])
        second = await catalog.add("tiny", f"path:{model}", "2")
        assert catalog.resolve("newest") == second
        assert catalog.resolve("first") == catalog.resolve("also-first") == first
        assert catalog.aliases_of(first) == ("also-first", "first")
        assert await catalog.alias("first", "tiny@2") == Alias("first", "tiny", "2", clock.now())
        assert catalog.resolve("first") == second

    async def test_pin_a_bare_name(self, catalog: Catalog, model: Path, clock: ManualClock) -> None:
        first = await catalog.add("tiny", f"path:{model}", "1")
        clock.advance(1)
        (model / "config.json").write_bytes(checkpoint(more=1)["config.json"])
        second = await catalog.add("tiny", f"path:{model}", "2")
        await catalog.alias("tiny", "tiny@1")
        assert catalog.resolve("tiny") == first
        await catalog.alias("tiny", "tiny")
        assert catalog.resolve("tiny") == second
        await catalog.remove_alias("tiny")
        with pytest.raises(NotFound):
            await catalog.remove_alias("tiny")

    async def test_need_a_target(self, catalog: Catalog) -> None:
        with pytest.raises(ModelNotFound, match="there is no model 'none'"):
            await catalog.alias("x", "none")
        await catalog.add("big", "remote:http://127.0.0.1:8001", "1")
        await catalog.set_life_cycle("big", "1", LifeCycle.RETIRED)
        with pytest.raises(ModelNotFound, match="retired"):
            await catalog.alias("x", "big")
        with pytest.raises(BadRequest):
            await catalog.alias("x@1", "none")


async def test_removal(catalog: Catalog, model: Path) -> None:
    added = await catalog.add("tiny", f"path:{model}", aliases=["small"])
    with pytest.raises(Conflict, match="'small'"):
        await catalog.remove("tiny", added.version)
    await catalog.remove_alias("small")
    await catalog.remove("tiny", added.version)
    with pytest.raises(ModelNotFound):
        catalog.resolve("tiny")
    assert (model / "config.json").exists()


async def test_life_cycle(catalog: Catalog, model: Path) -> None:
    added = await catalog.add("tiny", f"path:{model}", "1")
    retired = await catalog.set_life_cycle("tiny", "1", LifeCycle.RETIRED)
    assert retired.life_cycle is LifeCycle.RETIRED
    with pytest.raises(ModelNotFound, match="'tiny@1' is retired"):
        catalog.resolve("tiny@1")
    assert catalog.get("tiny", "1") == retired
    assert await catalog.set_life_cycle("tiny", "1", LifeCycle.STABLE) == added
    with pytest.raises(ModelNotFound):
        await catalog.set_life_cycle("tiny", "2", LifeCycle.RETIRED)


async def test_verify_names_what_differs(catalog: Catalog, model: Path) -> None:
    added = await catalog.add("tiny", f"path:{model}")
    assert await catalog.verify(added) == ()
    before = (model / "tokenizer.json").stat()
    (model / "tokenizer.json").write_bytes(b"[]")  # the same size
    os.utime(model / "tokenizer.json", ns=(before.st_atime_ns, before.st_mtime_ns))
    (model / "README.md").unlink()
    (model / "new.txt").touch()
    assert await catalog.verify(added) == (
        "README.md: missing",
        "new.txt: not in the catalogue",
        "tokenizer.json: changed",
    )
    shutil.rmtree(model)
    assert len(await catalog.verify(added)) == len(checkpoint())
