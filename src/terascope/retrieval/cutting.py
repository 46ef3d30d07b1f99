"""From a file to its passages: read, made text, cut by the tokens of the embedding model."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from terascope.core.errors import NotFound
from terascope.files.files import Files
from terascope.retrieval.chunking import Span, Strategy, Tokens, passages, pseudo_tokens, sections
from terascope.retrieval.contract import Passage
from terascope.retrieval.embedding import Caller, Embedder
from terascope.retrieval.reading import Unreadable, text_of
from terascope.store.files import FileRow
from terascope.store.vector_store_files import EntryRow

_DIGEST = 32  # hex digits: 128 bits of sha256


@dataclass(frozen=True, slots=True)
class Cut:
    """A file that is to go into a store, and what it was cut into."""

    entry: EntryRow
    passages: tuple[Passage, ...]


class Cutter:
    """Cuts files."""

    def __init__(self, files: Files, embedder: Embedder, most_bytes: int) -> None:
        """`most_bytes`: the largest file that is taken."""
        self._files = files
        self._embedder = embedder
        self._most_bytes = most_bytes

    async def cut(self, entry: EntryRow, model: str, caller: Caller) -> Cut:
        """Return the passages of a file.

        Raises `Unreadable` for one that is too large, gone, or no text, and what tokenizing and reading raise.
        """
        try:
            row = await self._files.get(entry.file)
        except NotFound:
            raise Unreadable("invalid_file", "the file was deleted before it was read; upload it again") from None
        text = await asyncio.to_thread(text_of, entry.filename, await self._content(row))
        strategy = Strategy(entry.strategy, entry.size, entry.overlap)
        if len(text.encode()) <= strategy.size:  # a token has a byte at least
            spans = [_trimmed(text)]
        else:
            spans = passages(await self._tokens(text, model, caller), strategy)
        found = await asyncio.to_thread(_passages, entry, text, spans)
        if not found:
            raise Unreadable("invalid_file", "the file has no text in it that the embedding model knows")
        return Cut(entry, found)

    async def _content(self, row: FileRow) -> bytes:
        if row.bytes > self._most_bytes:
            raise Unreadable(
                "invalid_file",
                f"the file has {row.bytes:,} bytes; {self._most_bytes:,} may be put into a store "
                "(`retrieval.max_file_bytes`); divide it",
            )
        return b"".join([piece async for piece in await self._files.content(row, 0, row.bytes)])

    async def _tokens(self, text: str, model: str, caller: Caller) -> Tokens:
        tokens = Tokens()
        for section in sections(text):
            part = text[section.start : section.end]
            offsets: Sequence[Sequence[int]] | None = await self._embedder.offsets(model, part, caller)
            tokens.add(list(pseudo_tokens(part)) if offsets is None else offsets, section.start)
        return tokens


def _trimmed(text: str) -> Span:
    start = len(text) - len(text.lstrip())
    return Span(start, start + len(text.strip()))


def _passages(entry: EntryRow, text: str, spans: Sequence[Span]) -> tuple[Passage, ...]:
    parts = [(span, text[span.start : span.end]) for span in spans]
    parts = [(span, part) for span, part in parts if part.strip()]
    return tuple(
        Passage(
            entry.file, index, span.start, span.end, part, hashlib.sha256(part.encode()).hexdigest()[:_DIGEST],
            entry.filename, entry.attributes,
        )
        for index, (span, part) in enumerate(parts)
    )  # fmt: skip
