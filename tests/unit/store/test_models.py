"""The repository of models and aliases."""

from dataclasses import replace

import pytest

from terascope.core.errors import Conflict, ModelNotFound, NotFound
from terascope.core.models import Alias, LifeCycle, ModelFile, ModelVersion, Task
from terascope.store.database import Database
from terascope.store.models import ModelStore

ONE = ModelVersion(
    name="kimi-k2",
    version="1",
    digest="a" * 64,
    source="path:/models/k2",
    directory="/models/k2",
    task=Task.GENERATE,
    context_length=262_144,
    files=(ModelFile("config.json", 2, "b" * 64), ModelFile("model.safetensors", 2**40, "c" * 64)),
    architecture="KimiK2ForCausalLM",
    parameters=1_026_408_232_448,
    licence="modified-mit",
    chat_template_sha256="d" * 64,
    tokenizer_sha256="e" * 64,
    created=1.0,
)
TWO = replace(ONE, version="2", digest="f" * 64, created=2.0)


@pytest.fixture
def store(database: Database) -> ModelStore:
    """Its repository."""
    return ModelStore(database)


async def test_what_was_added_is_loaded_whole(store: ModelStore) -> None:
    assert await store.load() == ([], [])
    assert await store.add(TWO, ["k2"]) == TWO
    assert await store.add(ONE) == ONE
    assert await store.load() == ([ONE, TWO], [Alias("k2", "kimi-k2", "", 2.0)])


async def test_the_same_digest_again_only_brings_facts_up_to_date(store: ModelStore) -> None:
    await store.add(ONE)
    await store.set_life_cycle("kimi-k2", "1", LifeCycle.DEPRECATED)
    moved = replace(ONE, directory="/elsewhere", licence="mit", created=9.0)
    stored = await store.add(moved)
    assert stored == replace(moved, created=1.0, life_cycle=LifeCycle.DEPRECATED)
    assert await store.load() == ([stored], [])


async def test_another_digest_under_the_same_version_is_a_conflict(store: ModelStore) -> None:
    await store.add(ONE)
    with pytest.raises(Conflict, match="kimi-k2@1 is there already with other files"):
        await store.add(replace(ONE, digest="0" * 64), ["never"])
    assert await store.load() == ([ONE], [])


async def test_an_unnamed_version_is_found_by_its_digest(store: ModelStore) -> None:
    await store.add(ONE)
    unnamed = replace(ONE, version="a" * 12)
    assert (await store.add(unnamed, named=False)).version == "1"
    assert (await store.add(unnamed, named=True)).version == "a" * 12


async def test_aliases_that_come_with_a_model_stay_where_they_were_moved_to(store: ModelStore) -> None:
    await store.add(ONE, ["k2"])
    await store.put_alias(Alias("k2", "kimi-k2", "1", 5.0))
    await store.add(ONE, ["k2", "more"])
    assert (await store.load())[1] == [Alias("k2", "kimi-k2", "1", 5.0), Alias("more", "kimi-k2", "", 1.0)]


async def test_names_and_aliases_do_not_collide(store: ModelStore) -> None:
    await store.add(ONE, ["k2"])
    with pytest.raises(Conflict, match="'k2' is an alias of 'kimi-k2'"):
        await store.add(replace(ONE, name="k2"))
    with pytest.raises(Conflict, match="the alias 'k2' points to 'kimi-k2'"):
        await store.add(replace(ONE, name="other"), ["fine", "k2"])
    await store.add(replace(ONE, name="other"))
    with pytest.raises(Conflict, match="'other' is the name of a model"):
        await store.put_alias(Alias("other", "kimi-k2"))
    await store.put_alias(Alias("other", "other", "1"))  # a pin
    versions, aliases = await store.load()
    assert [version.name for version in versions] == ["kimi-k2", "other"]
    assert [alias.alias for alias in aliases] == ["k2", "other"]


async def test_aliases_move_and_go(store: ModelStore) -> None:
    await store.add(ONE)
    await store.add(TWO)
    await store.put_alias(Alias("k2", "kimi-k2", "1", 1.0))
    await store.put_alias(Alias("k2", "kimi-k2", "2", 2.0))
    assert (await store.load())[1] == [Alias("k2", "kimi-k2", "2", 2.0)]
    with pytest.raises(ModelNotFound, match="'kimi-k2@3' for the alias 'k2'"):
        await store.put_alias(Alias("k2", "kimi-k2", "3"))
    assert (await store.load())[1] == [Alias("k2", "kimi-k2", "2", 2.0)]
    await store.remove_alias("k2")
    with pytest.raises(NotFound, match="no alias 'k2'"):
        await store.remove_alias("k2")


async def test_a_version_goes_unless_an_alias_needs_it(store: ModelStore) -> None:
    await store.add(ONE, ["newest"])
    await store.add(TWO)
    await store.put_alias(Alias("pinned", "kimi-k2", "2"))
    with pytest.raises(Conflict, match="the alias 'pinned' points to"):
        await store.remove("kimi-k2", "2")
    await store.remove("kimi-k2", "1")  # `newest` still has one to mean
    await store.remove_alias("pinned")
    with pytest.raises(Conflict, match="the alias 'newest' points to"):
        await store.remove("kimi-k2", "2")
    await store.remove_alias("newest")
    await store.remove("kimi-k2", "2")
    with pytest.raises(ModelNotFound, match="kimi-k2@2"):
        await store.remove("kimi-k2", "2")
    assert await store.load() == ([], [])


async def test_the_life_cycle_of_what_is_not_there(store: ModelStore) -> None:
    with pytest.raises(ModelNotFound, match="kimi-k2@1"):
        await store.set_life_cycle("kimi-k2", "1", LifeCycle.RETIRED)


async def test_what_is_returned_survives_a_reopening(url: str) -> None:
    for _ in range(2):
        database = await Database.open(url)
        assert await ModelStore(database).add(ONE) == ONE
        await database.aclose()
