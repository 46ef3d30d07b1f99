"""The conformance suite of collections of passages."""

import math
import struct
from collections.abc import Callable, Mapping
from threading import Thread

from terascope.core.errors import Conflict
from terascope.retrieval.contract import Collection, Collections, Passage, Placed, Value

NewCollections = Callable[[], Collections]
"""Returns the collections of the same place each time, as a gateway that has just started has them."""
WIDTH = 4
_NAME = "vs_1"


def vector(*numbers: float) -> bytes:
    """Numbers as the contract has them."""
    return struct.pack(f"<{len(numbers)}f", *numbers)


def placed(
    file_id: str, *angles: float, attributes: Mapping[str, Value] | None = None, word: str = "part"
) -> list[Placed]:
    """A file whose passages lie at these angles, in degrees, from the first axis."""
    return [_placed(file_id, index, angle, attributes or {}, word) for index, angle in enumerate(angles)]


def _placed(file_id: str, index: int, angle: float, attributes: Mapping[str, Value], word: str) -> Placed:
    text = f"{word} {index} of {file_id}"
    passage = Passage(file_id, index, 10 * index, 10 * index + len(text), text, f"{index:032x}", "a.txt", attributes)
    return Placed(passage, vector(math.cos(math.radians(angle)), math.sin(math.radians(angle)), 0, 0))


EAST = vector(1, 0, 0, 0)


def nearest(collection: Collection, version: int, limit: int = 10, among: list[str] | None = None) -> list[str]:
    """What is found near the first axis, as `file/index`."""
    found = collection.search(EAST, version, limit, among)
    return [f"{one.passage.file_id}/{one.passage.index}" for one in found]


def check_the_nearest_come_first(new: NewCollections) -> None:
    """With their cosines, as they were put, also after a start."""
    put = placed("one", 90, 60) + placed("two", 0, 180, attributes={"year": 2020.0, "kind": "x", "good": True})
    new().open(_NAME, WIDTH).put(put, 1)
    found = new().open(_NAME, WIDTH).search(EAST, 1, 3)
    assert [one.passage for one in found] == [put[2].passage, put[1].passage, put[0].passage]
    for one, cosine in zip(found, (1.0, 0.5, 0.0), strict=True):
        assert abs(one.score - cosine) < 1e-6
    assert new().open(_NAME, WIDTH).search(EAST, 1, 0) == []


def check_a_version_stays_as_it_was(new: NewCollections) -> None:
    """Whatever is added, replaced and removed later; before the first there is nothing."""
    collection = new().open(_NAME, WIDTH)
    collection.put(placed("one", 10) + placed("two", 20), 1)
    collection.put(placed("three", 0), 2)
    collection.remove(["one", "none"], 3)
    collection.put(placed("two", 5, 6), 4)
    expected = {
        0: [],
        1: ["one/0", "two/0"],
        2: ["three/0", "one/0", "two/0"],
        3: ["three/0", "two/0"],
        4: ["three/0", "two/0", "two/1"],
        9: ["three/0", "two/0", "two/1"],
    }
    for version, names in expected.items():
        assert nearest(new().open(_NAME, WIDTH), version) == names, version


def check_removing_is_idempotent(new: NewCollections) -> None:
    """Once or twice, with or without names."""
    collection = new().open(_NAME, WIDTH)
    collection.put([], 1)
    collection.put(placed("it's", 10), 2)
    for version in (3, 4):
        collection.remove(["it's"], version)
        collection.remove([], version)
    assert [nearest(collection, version) for version in (2, 3, 4)] == [["it's/0"], [], []]


def check_what_was_not_finished_is_undone(new: NewCollections) -> None:
    """A change for a version that never came to be leaves nothing, and one that did stays."""
    collection = new().open(_NAME, WIDTH)
    collection.put(placed("one", 10, 20), 1)
    collection.put(placed("one", 30) + placed("two", 0), 2)
    collection.remove(["one"], 3)
    again = new().open(_NAME, WIDTH)
    again.undo(1)
    again.undo(1)
    assert nearest(again, 1) == nearest(again, 7) == ["one/0", "one/1"]
    again.put(placed("three", 0), 2)
    assert nearest(again, 2) == ["three/0", "one/0", "one/1"]


def check_only_some_files(new: NewCollections) -> None:
    """The limit counts those alone."""
    collection = new().open(_NAME, WIDTH)
    collection.put([one for n in range(20) for one in placed(f"file_{n}", n)], 1)
    assert nearest(collection, 1, 2, ["file_9", "file_7", "file_8", "none"]) == ["file_7/0", "file_8/0"]
    assert nearest(collection, 1, 5, []) == []


def check_equal_scores_have_an_order(new: NewCollections) -> None:
    """By file and place, whenever they were put."""
    collection = new().open(_NAME, WIDTH)
    for version, name in enumerate(("b", "c", "a"), 1):
        collection.put(placed(name, 0, 0), version)
    assert nearest(collection, 3, 3) == ["a/0", "a/1", "b/0"]


def check_passages_in_order(new: NewCollections) -> None:
    """Of one file in one version, a part at a time."""
    collection = new().open(_NAME, WIDTH)
    collection.put(placed("one", 90, 10, 50, 0) + placed("two", 1), 1)
    collection.put(placed("one", 0, word="new"), 2)
    assert [one.index for one in collection.passages("one", 1, 0, 10)] == [0, 1, 2, 3]
    assert [one.index for one in collection.passages("one", 1, 1, 2)] == [1, 2]
    assert [one.text for one in collection.passages("one", 2, 0, 10)] == ["new 0 of one"]
    assert collection.passages("none", 2, 0, 10) == []


def check_attributes_are_of_a_version(new: NewCollections) -> None:
    """Every file has them, an empty mapping where it has none."""
    collection = new().open(_NAME, WIDTH)
    collection.put(placed("one", 0, 1, attributes={"year": 1.5, "name": "é'\""}) + placed("two", 0), 1)
    collection.set_attributes("one", {"good": False}, 2)
    collection.set_attributes("none", {"good": True}, 2)
    assert collection.attributes(1) == {"one": {"year": 1.5, "name": "é'\""}, "two": {}}
    assert collection.attributes(2) == {"one": {"good": False}, "two": {}}
    assert collection.attributes(0) == {}
    before, after = ([one.text for one in collection.passages("one", version, 0, 9)] for version in (1, 2))
    assert before == after == ["part 0 of one", "part 1 of one"]
    assert nearest(collection, 2) == nearest(collection, 1) == ["one/0", "two/0", "one/1"]


def check_what_is_purged_is_gone(new: NewCollections) -> None:
    """What the versions from there on have stays."""
    collection = new().open(_NAME, WIDTH)
    collection.put(placed("one", 1) + placed("two", 2), 1)
    collection.remove(["one"], 2)
    collection.put(placed("two", 3), 3)
    collection.purge(2)
    collection.purge(2)
    assert nearest(collection, 1) == ["two/0"], "what only version 1 had is erased"
    assert nearest(collection, 2) == ["two/0"]
    collection.purge(3)
    assert [one.score for one in collection.search(EAST, 2, 9)] == []
    assert nearest(collection, 3) == ["two/0"]


def check_many_changes(new: NewCollections) -> None:
    """More than what is put together at once; versions from before are as they were."""
    collection = new().open(_NAME, WIDTH)
    for version in range(1, 141):
        collection.put(placed(f"f{version:03}", version / 2), version)
    assert nearest(collection, 140, 2) == ["f001/0", "f002/0"]
    assert len(nearest(collection, 70, 200)) == 70


def check_searching_beside_a_change(new: NewCollections) -> None:
    """A version that is there stays the same for searches while the next ones are made."""
    collection = new().open(_NAME, WIDTH)
    collection.put(placed("one", 10, 20), 1)
    seen: list[list[str]] = []

    def search() -> None:
        seen.extend(nearest(collection, 1) for _ in range(30))

    threads = [Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for version in range(2, 12):
        collection.put(placed("one", version), version)
    for thread in threads:
        thread.join()
    assert seen == [["one/0", "one/1"]] * 90


def check_collections_by_name(new: NewCollections) -> None:
    """Each for itself; dropping is idempotent, and another width is refused."""
    for name, angle in (("vs_1", 0), ("vs_2", 90)):
        new().open(name, WIDTH).put(placed(name, angle), 1)
    assert new().names() == ["vs_1", "vs_2"]
    assert nearest(new().open("vs_2", WIDTH), 1) == ["vs_2/0"]
    new().drop("vs_1")
    new().drop("vs_1")
    assert new().names() == ["vs_2"]
    assert nearest(new().open("vs_1", WIDTH), 1) == []
    try:
        new().open("vs_2", WIDTH + 1)
    except Conflict:
        return
    raise AssertionError("vectors of another width were taken")


COLLECTION_CHECKS: tuple[Callable[[NewCollections], None], ...] = (
    check_the_nearest_come_first,
    check_a_version_stays_as_it_was,
    check_removing_is_idempotent,
    check_what_was_not_finished_is_undone,
    check_only_some_files,
    check_equal_scores_have_an_order,
    check_passages_in_order,
    check_attributes_are_of_a_version,
    check_what_is_purged_is_gone,
    check_many_changes,
    check_searching_beside_a_change,
    check_collections_by_name,
)
"""Each takes a factory over an empty place."""
