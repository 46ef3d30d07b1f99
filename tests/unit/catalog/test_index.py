"""Which version a name means."""

import pytest

from terascope.catalog.index import Index
from terascope.core.errors import BadRequest, ModelNotFound
from terascope.core.models import Alias, LifeCycle, ModelVersion, Task


def _version(name: str, version: str, created: float, life_cycle: LifeCycle = LifeCycle.STABLE) -> ModelVersion:
    return ModelVersion(
        name, version, f"digest-{version}", "path:/x", "/x", Task.GENERATE, 64, life_cycle=life_cycle, created=created
    )


OLD = _version("kimi-k2", "2026-05", 1.0)
NEW = _version("kimi-k2", "2026-09", 2.0, LifeCycle.DEPRECATED)
PREVIEW = _version("kimi-k2", "2026-12", 3.0, LifeCycle.PREVIEW)
GONE = _version("old-model", "1", 0.5, LifeCycle.RETIRED)
INDEX = Index(
    [PREVIEW, OLD, NEW, GONE],
    [Alias("k2", "kimi-k2"), Alias("k2-may", "kimi-k2", "2026-05"), Alias("old", "old-model", "1")],
)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("kimi-k2", NEW),
        ("kimi-k2@2026-05", OLD),
        ("kimi-k2@2026-12", PREVIEW),
        ("k2", NEW),
        ("k2-may", OLD),
    ],
)
def test_resolves(text: str, version: ModelVersion) -> None:
    assert INDEX.resolve(text) is version


def test_a_preview_is_the_newest_only_where_there_is_nothing_else() -> None:
    assert Index([PREVIEW]).resolve("kimi-k2") is PREVIEW


def test_an_alias_of_the_models_own_name_pins_its_version() -> None:
    assert Index([OLD, NEW], [Alias("kimi-k2", "kimi-k2", "2026-05")]).resolve("kimi-k2") is OLD


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kimi-k3", "there is no model 'kimi-k3'; did you mean 'kimi-k2'"),
        ("KIMI-K2", "did you mean 'kimi-k2'"),
        ("entirely/else", "there is no model 'entirely/else'; GET"),
        ("kimi-k2@2020", "has no version '2020'; it has 2026-05, 2026-09, 2026-12"),
        ("old-model", "'old-model' is retired"),
        ("old-model@1", "'old-model@1' is retired"),
        ("old", "the alias 'old' points to is retired"),
        ("k2@2026-05", "there is no model 'k2@2026-05'"),
    ],
)
def test_says_what_is_wrong_with_a_name(text: str, said: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        INDEX.resolve(text)
    assert said in str(caught.value)
    assert "GET /v1/models lists" in str(caught.value)
    assert caught.value.param == "model"


@pytest.mark.parametrize("text", ["", "a b", "x@", "@1", "../x", "x" * 1000, "a\n", "名"])
def test_what_cannot_be_a_name_is_a_bad_request(text: str) -> None:
    with pytest.raises(BadRequest, match="not a model name"):
        INDEX.resolve(text)


def test_knows_the_aliases_of_a_version() -> None:
    assert [INDEX.aliases_of(version) for version in (OLD, NEW, PREVIEW)] == [("k2-may",), ("k2",), ()]
    assert INDEX.aliases_of(GONE) == ("old",)


def test_retired_versions_can_still_be_named() -> None:
    assert INDEX.get("old-model", "1") is GONE
    assert INDEX.named("old-model") == (GONE,)
    assert INDEX.named("kimi-k2") == (OLD, NEW, PREVIEW)
    for ask in (lambda: INDEX.get("kimi-k2", "0"), lambda: INDEX.named("none")):
        with pytest.raises(ModelNotFound):
            ask()
