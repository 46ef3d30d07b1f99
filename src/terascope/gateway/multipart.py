"""A form with one file in it (multipart/form-data, RFC 7578), read as it comes."""

from collections.abc import AsyncIterator, Callable

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from terascope.core.errors import BadRequest

_MOST_FIELD = 4096  # bytes of a field that is no file
_MOST_FIELDS = 16
_HOW = "send a form with `file` and `purpose`, as `curl -F purpose=user_data -F file=@NAME` does"


class FileForm:
    """The body of an upload. `fields` and `filename` are whole once `content` has been read to its end."""

    def __init__(self, content_type: str, body: AsyncIterator[bytes], check: Callable[[str, str], None]) -> None:
        """`check` gets each field by name as soon as it is there. Raises `BadRequest` for what is no form."""
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not boundary:
            raise BadRequest(f"the body is no multipart form; {_HOW}")
        self.fields: dict[str, str] = {}
        self.filename = ""
        self._body = body
        self._check = check
        self._ready: list[bytes] = []
        self._name = ""
        self._is_file = self._has_file = self._whole = False
        self._header, self._value, self._text = bytearray(), bytearray(), bytearray()
        self._headers: dict[str, bytes] = {}
        self._parser = _parser(boundary, self)

    async def content(self) -> AsyncIterator[bytes]:
        """Yield the bytes of the part `file`, once, and read what comes before and after it.

        Raises `BadRequest` when the form is not whole or has no such part, and what `check` raises.
        """
        async for data in self._body:
            try:
                self._parser.write(data)
            except FormParserError as error:
                raise BadRequest(f"the form cannot be read: {error}") from None
            for piece in self._ready:
                yield piece
            self._ready.clear()
        if not self._whole:
            raise BadRequest("the form ends before its last boundary")
        if not self._has_file:
            raise BadRequest(f"the form has no part `file` with a file name; {_HOW}", param="file")

    # what the parser calls

    def on_part_begin(self) -> None:
        """A part begins."""
        self._headers, self._text = {}, bytearray()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        """A piece of a header's name."""
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        """A piece of a header's value."""
        self._value += data[start:end]

    def on_header_end(self) -> None:
        """A header is whole."""
        self._headers[bytes(self._header).decode("latin-1").lower()] = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def on_headers_finished(self) -> None:
        """The part's content begins."""
        _, options = parse_options_header(self._headers.get("content-disposition", b""))
        self._name = options.get(b"name", b"").decode(errors="replace")
        self._is_file = b"filename" in options
        if self._is_file:
            self._begin_file(options[b"filename"].decode(errors="replace"))
        elif len(self.fields) >= _MOST_FIELDS:
            raise BadRequest(f"the form has more than {_MOST_FIELDS} fields")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """A piece of the part's content."""
        if self._is_file:
            self._ready.append(data[start:end])
        elif len(self._text) + end - start > _MOST_FIELD:
            raise BadRequest(f"the field `{self._name[:40]}` has more than {_MOST_FIELD} bytes; {_HOW}")
        else:
            self._text += data[start:end]

    def on_part_end(self) -> None:
        """The part is whole."""
        if not self._is_file:
            self.fields[self._name] = value = self._text.decode(errors="replace")
            self._check(self._name, value)

    def on_end(self) -> None:
        """The form is whole."""
        self._whole = True

    def _begin_file(self, filename: str) -> None:
        if self._has_file or self._name != "file":
            raise BadRequest(f"the form has a file `{self._name[:40]}` besides `file`; {_HOW}", param="file")
        self._has_file, self.filename = True, filename


def _parser(boundary: bytes, form: FileForm) -> MultipartParser:
    return MultipartParser(
        boundary,
        {
            "on_part_begin": form.on_part_begin,
            "on_part_data": form.on_part_data,
            "on_part_end": form.on_part_end,
            "on_header_field": form.on_header_field,
            "on_header_value": form.on_header_value,
            "on_header_end": form.on_header_end,
            "on_headers_finished": form.on_headers_finished,
            "on_end": form.on_end,
        },
    )
