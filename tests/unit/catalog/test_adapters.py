"""Adapters in the catalogue: versions with a parent."""

import math
import pickle
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from terascope.catalog.catalog import Catalog
from terascope.core.errors import BadRequest, Conflict, ModelNotFound
from terascope.core.models import LifeCycle, ModelVersion
from terascope.core.prices import Price, formula
from terascope.internals.lora import PICKLE, WEIGHTS
from terascope.store.database import Database
from terascope.testing.adapters import adapter, tensors
from terascope.testing.checkpoints import checkpoint, safetensors, write_files
from terascope.testing.clock import ManualClock
from terascope.testing.databases import new_sqlite


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def catalog(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Catalog]:
    database = await Database.open(new_sqlite(tmp_path / "t.db"))
    yield await Catalog.open(database, tmp_path / "cache", clock)
    await database.aclose()


@pytest.fixture
async def base(catalog: Catalog, tmp_path: Path) -> ModelVersion:
    return await catalog.add("tiny", f"path:{write_files(tmp_path / 'model', checkpoint())}", aliases=["t"])


def _written(tmp_path: Path, files: dict[str, bytes] | None = None, name: str = "adapter") -> str:
    return f"path:{write_files(tmp_path / name, files or adapter())}"


async def test_an_adapter_is_a_version_with_a_parent(catalog: Catalog, base: ModelVersion, tmp_path: Path) -> None:
    files = adapter() | {"README.md": b"---\nlicense: mit\n---\n"}
    added = await catalog.add_adapter("french", _written(tmp_path, files), "t", owner="physics")
    assert (added.name, added.parent, added.owner) == ("tiny:french", base.public_name, "physics")
    assert (added.version, added.licence, added.parameters) == (added.digest[:12], "mit", 16)
    assert (added.base_name, added.served_as, base.served_as) == ("tiny", base.public_name, base.public_name)
    assert added.context_length == base.context_length
    assert catalog.base_of(added) == base
    assert catalog.base_of(base) == base
    assert catalog.resolve("tiny") == base


async def test_names(catalog: Catalog, base: ModelVersion, tmp_path: Path, clock: ManualClock) -> None:
    old = await catalog.add_adapter("french", _written(tmp_path), "tiny", version="1")
    clock.advance(1)
    new = await catalog.add_adapter("french", _written(tmp_path, adapter(lora_alpha=5), "b"), "tiny", version="2")
    names = ("tiny:french", "tiny:french@2", f"{base.public_name}:french", f"{base.public_name}:french@2", "t:french")
    assert {catalog.resolve(name).public_name for name in names} == {new.public_name}
    assert catalog.resolve("t:french@1") == old
    for wrong in ("tiny:german", "tiny:french@3", "tiny@other:french", "french", "other:french"):
        with pytest.raises(ModelNotFound):
            catalog.resolve(wrong)
    for wrong in ("tiny:", ":french", "tiny:a:b", "tiny:french@", "tiny:a/b", "tiny:french\n"):
        with pytest.raises(BadRequest):
            catalog.resolve(wrong)


async def test_an_adapter_stays_with_its_version_of_the_base(
    catalog: Catalog, base: ModelVersion, tmp_path: Path, clock: ManualClock
) -> None:
    added = await catalog.add_adapter("french", _written(tmp_path), "tiny")
    clock.advance(1)
    other = write_files(tmp_path / "other", checkpoint() | {"model.safetensors": safetensors({"embed": (8, 4)})})
    newer = await catalog.add("tiny", f"path:{other}")
    assert catalog.resolve("tiny") == newer
    assert catalog.resolve("tiny:french") == added
    with pytest.raises(ModelNotFound, match="another version"):
        catalog.resolve(f"{newer.public_name}:french")
    with pytest.raises(Conflict, match="tiny:french"):
        await catalog.remove(base.name, base.version)
    await catalog.remove(added.name, added.version)
    with pytest.raises(ModelNotFound):
        catalog.resolve("tiny:french")


async def test_it_is_retired_with_its_base(catalog: Catalog, base: ModelVersion, tmp_path: Path) -> None:
    added = await catalog.add_adapter("french", _written(tmp_path), "tiny")
    await catalog.set_life_cycle(base.name, base.version, LifeCycle.RETIRED)
    with pytest.raises(ModelNotFound):
        catalog.resolve("tiny:french")
    assert catalog.get(added.name, added.version).public_name == added.public_name


async def test_it_costs_what_its_base_costs(catalog: Catalog, base: ModelVersion, tmp_path: Path) -> None:
    await catalog.add_adapter("french", _written(tmp_path), "tiny")
    assert catalog.resolve("tiny:french").price == formula(base.parameters + 16)
    await catalog.set_price(base.name, base.version, Price(7, 9))
    assert catalog.resolve("tiny:french").price == Price(7, 9)


async def test_the_same_again_changes_nothing(catalog: Catalog, base: ModelVersion, tmp_path: Path) -> None:
    source = _written(tmp_path)
    first = await catalog.add_adapter("french", source, "tiny")
    assert await catalog.add_adapter("french", source, "tiny") == first
    with pytest.raises(Conflict, match="another version name"):
        await catalog.add_adapter("french", source, "tiny", owner="physics")
    with pytest.raises(Conflict, match="another version name"):
        await catalog.add_adapter("french", _written(tmp_path, adapter(r=2, lora_alpha=1), "b"), "tiny", first.version)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path("/nowhere/bomb").mkdir, ()  # type: ignore[return-value]


NAN = {
    "base_model.model.q.lora_A.weight": ((2, 4), 0.5),
    "base_model.model.q.lora_B.weight": ((4, 2), math.nan),
}


@pytest.mark.parametrize(
    ("files", "word"),
    [
        (adapter() | {WEIGHTS: b"not safetensors"}, "truncated"),
        (adapter() | {WEIGHTS: tensors(NAN)}, "no numbers"),
        (adapter() | {WEIGHTS: tensors({**NAN, "base_model.model.q.lora_B.weight": ((4, 2), math.inf)})}, "infinite"),
        (adapter() | {WEIGHTS: adapter()[WEIGHTS][:-4]}, "truncated"),
        (adapter(use_dora=True), "DoRA"),
        (adapter(rank=2) | {"adapter_config.json": adapter(rank=3)["adapter_config.json"]}, "says 3"),
        (adapter(terascope_base_digest="f" * 64), "trained on files with the digest ffffffffffff"),
        ({k: v for k, v in adapter().items() if k != WEIGHTS} | {PICKLE: pickle.dumps(Bomb())}, "convert it"),
        ({"README.md": b"nothing"}, "no adapter_config.json"),
    ],
)
async def test_what_is_unfit_is_refused(
    catalog: Catalog, base: ModelVersion, tmp_path: Path, files: dict[str, bytes], word: str
) -> None:
    with pytest.raises(BadRequest, match=word):
        await catalog.add_adapter("bad", _written(tmp_path, files), "tiny")
    assert catalog.list() == (base,)


async def test_an_adapter_made_here_says_for_which_files(catalog: Catalog, base: ModelVersion, tmp_path: Path) -> None:
    await catalog.add_adapter("own", _written(tmp_path, adapter(terascope_base_digest=base.digest)), "tiny")


async def test_adapters_of_what_takes_none(catalog: Catalog, base: ModelVersion, tmp_path: Path) -> None:
    await catalog.add_remote("far", "remote:https://far.example/x")
    await catalog.add_adapter("french", _written(tmp_path), "tiny")
    for name in ("far", "tiny:french"):
        with pytest.raises(BadRequest, match="takes no adapters"):
            await catalog.add_adapter("x", _written(tmp_path), name)
    with pytest.raises(BadRequest):
        await catalog.add("tiny:french", _written(tmp_path))
    with pytest.raises(BadRequest):
        await catalog.add_adapter("a:b", _written(tmp_path), "tiny")
