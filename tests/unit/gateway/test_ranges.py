"""Ranges and conditions of RFC 9110."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from terascope.gateway.ranges import Part, part_of

TAG = '"abc"'


@pytest.mark.parametrize(
    ("headers", "part"),
    [
        ({}, Part(200, 0, 100)),
        ({"range": "bytes=0-0"}, Part(206, 0, 1)),
        ({"range": "bytes=10-19"}, Part(206, 10, 20)),
        ({"range": "bytes=90-"}, Part(206, 90, 100)),
        ({"range": "bytes=90-1000"}, Part(206, 90, 100)),
        ({"range": "bytes=-10"}, Part(206, 90, 100)),
        ({"range": "bytes=-1000"}, Part(206, 0, 100)),
        ({"range": "Bytes = 1 - 2"}, Part(206, 1, 3)),
        ({"range": "bytes=100-"}, Part(416)),
        ({"range": "bytes=-0"}, Part(416)),
        ({"range": "bytes=5-4"}, Part(200, 0, 100)),
        ({"range": "bytes=-"}, Part(200, 0, 100)),
        ({"range": "bytes=0-1,5-6"}, Part(200, 0, 100)),
        ({"range": "lines=1-2"}, Part(200, 0, 100)),
        ({"range": "bytes=a-b"}, Part(200, 0, 100)),
        ({"range": f"bytes=0-{'9' * 400}"}, Part(206, 0, 100)),
        ({"range": "bytes=0-9", "if-range": TAG}, Part(206, 0, 10)),
        ({"range": "bytes=0-9", "if-range": '"other"'}, Part(200, 0, 100)),
        ({"if-none-match": TAG}, Part(304)),
        ({"if-none-match": f'"x", W/{TAG}'}, Part(304)),
        ({"if-none-match": "*"}, Part(304)),
        ({"if-none-match": '"x"'}, Part(200, 0, 100)),
    ],
)
def test_what_is_sent(headers: dict[str, str], part: Part) -> None:
    assert part_of(headers, 100, TAG) == part


@pytest.mark.parametrize("asked", ["bytes=0-", "bytes=0-0", "bytes=-1"])
def test_nothing_has_no_part(asked: str) -> None:
    assert part_of({"range": asked}, 0, TAG) == Part(416)
    assert part_of({}, 0, TAG) == Part(200, 0, 0)


@given(size=some.integers(1, 1000), first=some.integers(0, 1000), length=some.integers(1, 1000))
def test_a_part_is_within_the_whole(size: int, first: int, length: int) -> None:
    part = part_of({"range": f"bytes={first}-{first + length - 1}"}, size, TAG)
    assert (part.status == 206) == (first < size)
    assert list(range(size))[first : first + length] == list(range(part.start, part.stop))
