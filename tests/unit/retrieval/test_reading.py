"""Files become text, or say why not."""

import codecs
import gzip
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.retrieval.reading import Unreadable, text_of

WORDS = "Größe 大きさ 🌙"


@pytest.mark.parametrize(
    "data",
    [
        WORDS.encode(),
        codecs.BOM_UTF8 + WORDS.encode(),
        codecs.BOM_UTF16_LE + WORDS.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + WORDS.encode("utf-16-be"),
    ],
)
def test_encodings(data: bytes) -> None:
    assert text_of("a.txt", data) == WORDS


@pytest.mark.parametrize("name", ["a.md", "a.py", "a.jsonl", "a.csv", "A", "a.xml"])
def test_text_stays_as_it_is(name: str) -> None:
    assert text_of(name, b'{"a": "<b>"}\n\n x') == '{"a": "<b>"}\n\n x'


@pytest.mark.parametrize(
    ("data", "code", "told"),
    [
        (b"", "invalid_file", "no text in it"),
        (b" \n\t\n", "invalid_file", "no text in it"),
        (codecs.BOM_UTF8, "invalid_file", "no text in it"),
        ("Größe".encode("latin-1"), "invalid_file", "byte 2 of the file is not UTF-8; convert it"),
        (codecs.BOM_UTF16_LE + b"a\x00\x00", "invalid_file", "is not UTF-16"),
        (b"a\x00b", "unsupported_file", "NUL characters"),
        (b"%PDF-1.7 ...", "unsupported_file", "is a PDF; extract its text first"),
        (b"PK\x03\x04...", "unsupported_file", "an office document"),
        (gzip.compress(b"x", mtime=0), "unsupported_file", "is compressed"),
        (b"\x89PNG\r\n", "unsupported_file", "is an image"),
    ],
)
def test_what_is_no_text(data: bytes, code: str, told: str) -> None:
    with pytest.raises(Unreadable, match=told) as raised:
        text_of("a.txt", data)
    assert raised.value.code == code
    assert len(raised.value.message) < 400


@given(st.binary(max_size=200), st.sampled_from(["a.txt", "a.html"]))
def test_any_bytes_are_text_or_unreadable(data: bytes, name: str) -> None:
    with suppress(Unreadable):
        assert text_of(name, data).strip()


PAGE = b"""<!doctype html><html><head><title>Moons</title><style>b { color: red }</style></head>
<body><script>var x = "<p>no</p>";</script><h1>The   Moon</h1><p>goes <b>around</b>
the&nbsp;Earth &amp; stays.<br>So.</p><ul><li>one<li>two</ul><!-- not --></body>"""


def test_a_page_is_what_a_reader_sees() -> None:
    assert text_of("moon.HTML", PAGE) == "Moons\nThe Moon\ngoes around the Earth & stays.\nSo.\none\ntwo"
    assert text_of("moon.txt", PAGE) == PAGE.decode()
    with pytest.raises(Unreadable, match="no text"):
        text_of("a.html", b"<script>x</script>")
    assert text_of("a.html", b"</script>x") == "x"
