"""Adapters in memory: read once, kept within a budget, waited for."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.core.errors import BadRequest, InternalError
from terascope.engines.adapter_files import AdapterFiles
from terascope.engines.torch.lora.shelf import Shelf


@dataclass(frozen=True)
class Thing:
    name: str
    nbytes: int


def files(name: str) -> AdapterFiles:
    return AdapterFiles(name, f"digest of {name}", Path("/x"), {})


class Reader:
    """Reads things whose size is their name; the gate of one must be open before it is read."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.gates: dict[str, Event] = {}
        self.failing: set[str] = set()

    def measure(self, asked: AdapterFiles) -> int:
        return int(asked.name.split()[0])

    def load(self, asked: AdapterFiles) -> Thing:
        if asked.name in self.gates:
            assert self.gates[asked.name].wait(10)
        if asked.name in self.failing:
            raise BadRequest("it is broken")
        self.read.append(asked.name)
        return Thing(asked.name, self.measure(asked))


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
async def shelf(reader: Reader) -> Shelf[Thing]:
    return Shelf(10, reader.measure, reader.load)


async def test_none_is_none(shelf: Shelf[Thing]) -> None:
    async with shelf.lease(None) as found:
        assert found is None


async def test_one_is_read_once_and_stays(shelf: Shelf[Thing], reader: Reader) -> None:
    for _ in range(3):
        async with shelf.lease(files("4 a")) as found:
            assert found == Thing("4 a", 4)
    assert reader.read == ["4 a"]
    assert shelf.nbytes == 4


async def test_requests_that_come_together_share_a_reading(shelf: Shelf[Thing], reader: Reader) -> None:
    gate = reader.gates["4 a"] = Event()

    async def use() -> Thing | None:
        async with shelf.lease(files("4 a")) as found:
            return found

    tasks = [asyncio.create_task(use()) for _ in range(5)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    gate.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert found[1:] == [Thing("4 a", 4)] * 4
    assert reader.read == ["4 a"]


async def test_the_one_unused_longest_goes(shelf: Shelf[Thing], reader: Reader) -> None:
    for name in ("4 a", "4 b", "4 a", "4 c", "4 a", "4 b"):
        async with shelf.lease(files(name)):
            pass
    assert reader.read == ["4 a", "4 b", "4 c", "4 b"]
    assert (shelf.evictions, shelf.nbytes) == (2, 8)


async def test_who_finds_no_room_waits_for_it(shelf: Shelf[Thing], reader: Reader) -> None:
    got: list[str] = []

    async def use(name: str) -> None:
        async with shelf.lease(files(name)):
            got.append(name)

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(shelf.lease(files("6 a")))
        await stack.enter_async_context(shelf.lease(files("4 b")))
        waiting = [asyncio.create_task(use(name)) for name in ("7 c", "3 d")]
        async with shelf.lease(files("6 a")) as found:  # what is there is had at once
            assert found == Thing("6 a", 6)
        assert got == []
    await asyncio.gather(*waiting)
    assert got[0] == "7 c"
    assert reader.read[:3] == ["6 a", "4 b", "7 c"]


async def test_one_larger_than_all_room_is_refused(shelf: Shelf[Thing], reader: Reader) -> None:
    with pytest.raises(BadRequest, match="adapter_mib"):
        async with shelf.lease(files("11 a")):
            pass
    assert (reader.read, shelf.nbytes) == ([], 0)


async def test_one_that_cannot_be_read_is_tried_again(shelf: Shelf[Thing], reader: Reader) -> None:
    reader.failing.add("4 a")
    for _ in range(2):
        with pytest.raises(BadRequest, match="broken"):
            async with shelf.lease(files("4 a")):
                pass
    reader.failing.clear()
    async with shelf.lease(files("4 a")) as found:
        assert found == Thing("4 a", 4)
    assert shelf.nbytes == 4


@given(st.lists(st.tuples(st.integers(1, 10), st.integers(0, 3)), max_size=30))
def test_it_never_holds_more_than_its_budget(asked: Sequence[tuple[int, int]]) -> None:
    reader = Reader()

    async def run() -> None:
        shelf = Shelf(10, reader.measure, reader.load)

        async def use(size: int, number: int) -> None:
            async with shelf.lease(files(f"{size} {number}")) as found:
                assert found == Thing(f"{size} {number}", size)
                for _ in range(number):
                    await asyncio.sleep(0)
                    assert shelf.nbytes <= 10

        await asyncio.gather(*(use(*one) for one in asked))
        assert shelf.nbytes <= 10

    asyncio.run(run())


def test_files_are_told_in_a_header() -> None:
    told = AdapterFiles("tiny:ü", "d" * 64, Path("/with space/é\n"), {"a": "b"})
    assert told.header.isascii()
    assert "\n" not in told.header
    assert AdapterFiles.read(told.header) == told
    assert AdapterFiles.read("") is None
    for wrong in ("{}", "x", "[1]", "%7B%22name%22%3A1%7D"):
        with pytest.raises(InternalError):
            AdapterFiles.read(wrong)
