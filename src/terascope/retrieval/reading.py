"""From the bytes of a file to its text."""

import codecs
from html.parser import HTMLParser

ACCEPTED = (
    "plain text, Markdown, source code, JSON and JSONL, CSV, HTML, XML; in UTF-8, or UTF-16 with a byte order mark"
)
_HTML = (".html", ".htm", ".xhtml")
_KNOWN = ((b"%PDF", "a PDF"), (b"PK\x03\x04", "an archive or an office document"), (b"\x89PNG", "an image"),
          (b"\xff\xd8\xff", "an image"), (b"\x1f\x8b", "compressed"))  # fmt: skip
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


class Unreadable(Exception):
    """A file of which no passages can be made; `code` is one of OpenAI's: `unsupported_file` or `invalid_file`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


def text_of(filename: str, data: bytes) -> str:
    """Return the text of a file. Raises `Unreadable` for an empty one and for what is no text."""
    for magic, what in _KNOWN:
        if data.startswith(magic):
            raise Unreadable("unsupported_file", f"the file is {what}; extract its text first. Taken are {ACCEPTED}")
    text = _decoded(data)
    if "\0" in text:
        raise Unreadable("unsupported_file", f"the file has NUL characters, so it is no text. Taken are {ACCEPTED}")
    if filename.lower().endswith(_HTML):
        text = _without_tags(text)
    if not text.strip():
        raise Unreadable("invalid_file", "the file has no text in it")
    return text


def _decoded(data: bytes) -> str:
    encoding = next((name for mark, name in _BOMS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        told = f"byte {error.start} of the file is not {error.encoding.upper()}; convert it. Taken are {ACCEPTED}"
        raise Unreadable("invalid_file", told) from None


def _without_tags(text: str) -> str:
    reader = _Html()
    reader.feed(text)
    reader.close()
    return reader.text


class _Html(HTMLParser):
    """Keeps what a reader of the page sees; a block begins a line."""

    _UNSEEN = frozenset({"script", "style", "template", "noscript"})
    _WITHIN = frozenset({"a", "abbr", "b", "bdi", "cite", "code", "em", "i", "kbd", "mark", "q", "s", "small", "span",
                         "strong", "sub", "sup", "u", "var"})  # fmt: skip

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._unseen = 0

    @property
    def text(self) -> str:
        """What was seen, without empty lines and the space around lines."""
        lines = (" ".join(line.split()) for line in "".join(self._parts).split("\n"))
        return "\n".join(line for line in lines if line)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._unseen += tag in self._UNSEEN
        self._block(tag)

    def handle_endtag(self, tag: str) -> None:
        self._unseen = max(0, self._unseen - (tag in self._UNSEEN))
        self._block(tag)

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self._parts.append(data.replace("\n", " "))

    def _block(self, tag: str) -> None:
        if tag not in self._WITHIN:
            self._parts.append("\n")
