"""The conformance suite of shelves, and a shelf whose disk fails when it is told to."""

import errno
from collections.abc import Callable, Iterator
from threading import Thread

from terascope.files.contract import Seen, Shelf, Sink

NewShelf = Callable[[], Shelf]
"""Returns a shelf over the same place each time, as a gateway that has just started has one."""
_BIG = bytes(range(256)) * 8192  # 2 MiB


def keep(shelf: Shelf, name: str, *pieces: bytes) -> None:
    """Put a blob there."""
    sink = shelf.create(name)
    for piece in pieces:
        sink.write(piece)
    sink.commit()


def whole(shelf: Shelf, name: str) -> bytes:
    """The content of a blob that is there."""
    size = shelf.size(name)
    assert size is not None, f"{name} is not there"
    return shelf.read(name, 0, size)


def check_what_is_kept_is_there(new: NewShelf) -> None:
    """Also after a start; a blob may be empty."""
    for name, pieces in {"one": (b"ab", b"", b"c"), "empty": (), "big": (_BIG, _BIG)}.items():
        keep(new(), name, *pieces)
        assert whole(new(), name) == b"".join(pieces)
    assert new().size("none") is None


def check_parts_of_it(new: NewShelf) -> None:
    """Any part can be read, and less where the blob ends."""
    shelf = new()
    keep(shelf, "one", _BIG)
    for start, stop in ((0, 1), (255, 258), (len(_BIG) - 2, len(_BIG)), (7, 1_000_000)):
        assert shelf.read("one", start, stop) == _BIG[start:stop]
    assert shelf.read("one", len(_BIG) - 2, len(_BIG) + 9) == _BIG[-2:]


def check_nothing_half_written_is_seen(new: NewShelf) -> None:
    """Before it is committed a blob is not there; `scan` tells of it as partial, if at all."""
    shelf = new()
    sink = shelf.create("one")
    sink.write(_BIG)
    assert new().size("one") is None
    assert all(seen.partial for seen in new().scan() if seen.name == "one")
    sink.commit()
    assert [(seen.name, seen.partial) for seen in new().scan()] == [("one", False)]


def check_what_is_discarded_is_gone(new: NewShelf) -> None:
    """Before and after it was committed, once or twice."""
    shelf = new()
    for committed in (False, True):
        sink = shelf.create("one")
        sink.write(b"x")
        if committed:
            sink.commit()
        sink.discard()
        sink.discard()
        assert shelf.size("one") is None
        assert list(new().scan()) == []


def check_what_a_crash_left_can_be_removed(new: NewShelf) -> None:
    """A half-written blob does no harm to one of its name, and goes when it is deleted as partial."""
    shelf = new()
    keep(shelf, "one", b"whole")
    left = shelf.create("one")
    left.write(b"half")
    again = new()
    again.delete("one", partial=True)
    assert whole(again, "one") == b"whole"
    assert not any(seen.partial for seen in again.scan())


def check_a_blob_can_be_replaced(new: NewShelf) -> None:
    """By another of its name, as a whole."""
    shelf = new()
    keep(shelf, "one", b"old and long")
    keep(shelf, "one", b"new")
    assert whole(shelf, "one") == b"new"


def check_what_is_deleted_is_gone(new: NewShelf) -> None:
    """Deleting is idempotent; reading then raises `FileNotFoundError`."""
    shelf = new()
    keep(shelf, "one", b"x")
    shelf.delete("one")
    shelf.delete("one")
    assert shelf.size("one") is None
    try:
        shelf.read("one", 0, 1)
    except FileNotFoundError:
        return
    raise AssertionError("a blob that was deleted can be read")


def check_when_it_changed(new: NewShelf) -> None:
    """`scan` says so, in seconds since the epoch."""
    shelf = new()
    keep(shelf, "one", b"x")
    keep(shelf, "two", b"x")
    times = {seen.name: seen.modified for seen in shelf.scan()}
    assert set(times) == {"one", "two"}
    assert abs(times["one"] - times["two"]) < 60
    assert times["one"] > 1e9


def check_readers_beside_each_other(new: NewShelf) -> None:
    """Several threads read one blob, each what it asked for."""
    shelf = new()
    keep(shelf, "one", _BIG)
    wrong: list[int] = []

    def read(start: int) -> None:
        places = range(start, start + 50_000, 5000)
        wrong.extend(at for at in places if shelf.read("one", at, at + 1000) != _BIG[at : at + 1000])

    threads = [Thread(target=read, args=(start,)) for start in (0, 100, 200, 300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


SHELF_CHECKS: tuple[Callable[[NewShelf], None], ...] = (
    check_what_is_kept_is_there,
    check_parts_of_it,
    check_nothing_half_written_is_seen,
    check_what_is_discarded_is_gone,
    check_what_a_crash_left_can_be_removed,
    check_a_blob_can_be_replaced,
    check_what_is_deleted_is_gone,
    check_when_it_changed,
    check_readers_beside_each_other,
)
"""Each takes a factory over an empty place."""


class SmallDisk:
    """A shelf with room for so many bytes; a write beyond them fails as a full disk does, or with `error`."""

    def __init__(self, shelf: Shelf, room: int, error: Exception | None = None) -> None:
        self._shelf = shelf
        self.room = room
        self.error = error or OSError(errno.ENOSPC, "No space left on device")
        self.broken = False
        """Whether nothing can be removed, either."""

    def create(self, name: str) -> Sink:
        return _SmallSink(self._shelf.create(name), self)

    def read(self, name: str, start: int, stop: int) -> bytes:
        return self._shelf.read(name, start, stop)

    def size(self, name: str) -> int | None:
        return self._shelf.size(name)

    def delete(self, name: str, *, partial: bool = False) -> None:
        self._shelf.delete(name, partial=partial)

    def scan(self) -> Iterator[Seen]:
        return self._shelf.scan()


class _SmallSink:
    def __init__(self, sink: Sink, disk: SmallDisk) -> None:
        self._sink, self._disk = sink, disk

    def write(self, data: bytes) -> None:
        if len(data) > self._disk.room:
            raise self._disk.error
        self._disk.room -= len(data)
        self._sink.write(data)

    def commit(self) -> None:
        self._sink.commit()

    def discard(self) -> None:
        if self._disk.broken:
            raise self._disk.error
        self._sink.discard()
