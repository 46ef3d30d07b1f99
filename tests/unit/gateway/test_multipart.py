"""Forms with a file in them, in pieces of any size."""

import asyncio
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as some

from terascope.core.errors import BadRequest
from terascope.gateway.multipart import FileForm
from terascope.protocol.files import check_field

FORM = "multipart/form-data; boundary=xyz"


async def pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


def read(
    body: bytes, size: int = 7, content_type: str = FORM, check: Callable[[str, str], None] = lambda name, value: None
) -> tuple[bytes, FileForm]:
    async def run() -> tuple[bytes, FileForm]:
        form = FileForm(content_type, pieces(body, size), check)
        return b"".join([piece async for piece in form.content()]), form

    return asyncio.run(run())


def part(disposition: str, content: bytes) -> bytes:
    return f"--xyz\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode() + content + b"\r\n"


END = b"--xyz--\r\n"
FILE = part('name="file"; filename="a.txt"', b"content")
PURPOSE = part('name="purpose"', b"batch")


@given(content=some.binary(max_size=300), size=some.integers(1, 400), first=some.booleans())
def test_what_httpx_sends(content: bytes, size: int, first: bool) -> None:
    request = httpx.Request("POST", "http://x", data={"purpose": "batch"}, files={"file": ("ä b.txt", content)})
    found, form = read(request.read(), size, request.headers["content-type"])
    assert (found, form.fields, form.filename) == (content, {"purpose": "batch"}, "ä b.txt")


@pytest.mark.parametrize("order", [(FILE, PURPOSE), (PURPOSE, FILE)])
def test_the_file_may_come_first(order: tuple[bytes, bytes]) -> None:
    found, form = read(b"".join(order) + END)
    assert (found, form.fields) == (b"content", {"purpose": "batch"})


@pytest.mark.parametrize(
    ("body", "content_type", "words"),
    [
        (FILE + END, "application/json", "no multipart form"),
        (FILE + END, "multipart/form-data", "no multipart form"),
        (b"", FORM, "ends before"),
        (FILE + PURPOSE, FORM, "ends before"),
        (PURPOSE + END, FORM, "no part `file`"),
        (part('name="file"', b"content") + END, FORM, "no part `file`"),
        (FILE + FILE + END, FORM, "besides `file`"),
        (part('name="picture"; filename="a"', b"x") + END, FORM, "a file `picture` besides"),
        (part('name="purpose"', bytes(5000)) + FILE + END, FORM, "more than 4096 bytes"),
        (b"".join(part(f'name="f{number}"', b"x") for number in range(20)) + END, FORM, "more than 16 fields"),
        (b"--abc\r\n", FORM, "cannot be read"),
        (b"--xyz\r\n" + b"x" * 100_000, FORM, "cannot be read"),
    ],
)
def test_what_is_no_such_form(body: bytes, content_type: str, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        read(body, 100, content_type)


@pytest.mark.parametrize(
    ("disposition", "value", "words"),
    [
        ('name="purpose"', b"bach", "did you mean `batch`"),
        ('name="purpos"', b"batch", "did you mean `purpose`"),
        ('name="expires_after[seconds]"', b"5", "3600"),
        ('name="expires_after[seconds]"', b"9" * 100, "2592000"),
        ('name="expires_after[anchor]"', b"now", "created_at"),
    ],
)
def test_a_wrong_field_is_told_before_the_file_has_come(disposition: str, value: bytes, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        read(part(disposition, value) + b"--xyz\r\n", check=check_field)


@given(some.binary(max_size=200))
def test_anything_at_all(body: bytes) -> None:
    with pytest.raises(BadRequest):
        read(b"--xyz\r\n" + body)
