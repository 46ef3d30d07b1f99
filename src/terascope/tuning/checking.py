"""The first look at a file of a job: every line, as it is copied to where the trainer reads it."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from terascope.catalog.threads import to_the_end
from terascope.core.errors import BadRequest, StorageFull
from terascope.core.tuning import TuningMethod
from terascope.engines.torch.tuning.lines import MOST_LINE, Line, at_line, read_line, vectors_of
from terascope.protocol.embeds import count
from terascope.protocol.fine_tuning import ChatLine

_AROUND_LINE, _AROUND_MESSAGE = 64, 16  # tokens that a chat template writes around a conversation and its messages


@dataclass(slots=True)
class Size:
    """How much there is: lines, and tokens at most, of all and of the longest."""

    lines: int = 0
    tokens: int = 0
    longest: int = 0


class LineCheck:
    """Looks at a file that comes in pieces. All here raise `BadRequest` that names the line."""

    def __init__(self, name: str, method: TuningMethod, most_tokens: int) -> None:
        """`most_tokens` is the longest row that the base takes."""
        self.size = Size()
        self._name, self._method, self._most = name, method, most_tokens
        self._rest = bytearray()
        self._number = 0

    def feed(self, data: bytes) -> None:
        """Look at all lines that have ended by now."""
        self._rest += data
        *lines, last = self._rest.split(b"\n")
        self._rest = bytearray(last)
        for text in lines:
            self._check(bytes(text))
        if len(self._rest) > MOST_LINE:
            raise at_line(self._number + 1, BadRequest(f"it has more than {MOST_LINE:,} bytes"), self._name)

    def end(self) -> Size:
        """Look at the last line; return how much there was."""
        self._check(bytes(self._rest))
        if not self.size.lines:
            raise BadRequest(f"{self._name} has no lines; see docs/how-to/tune.md for what they are", param=self._name)
        return self.size

    def _check(self, text: bytes) -> None:
        self._number += 1
        if not text.strip():
            return
        try:
            line = read_line(text, self._method)
        except BadRequest as error:
            raise at_line(self._number, error, self._name) from None
        tokens = min(_most_tokens(line, len(text)), self._most or 1 << 40)
        size = self.size
        size.lines, size.tokens, size.longest = size.lines + 1, size.tokens + tokens, max(size.longest, tokens)


async def checked_copy(chunks: AsyncIterator[bytes], path: Path, check: LineCheck) -> Size:
    """Write `chunks` to `path` and look at every line; return how much there was.

    Raises what `chunks` raises, `BadRequest` for the first line that is wrong, `StorageFull`.
    """

    def take(chunk: bytes) -> None:
        check.feed(chunk)
        file.write(chunk)

    try:
        with path.open("wb") as file:
            async for chunk in chunks:
                await to_the_end(asyncio.to_thread(take, chunk))
            await asyncio.to_thread(os.fsync, file.fileno())
    except OSError as error:
        raise StorageFull(f"the job's data could not be kept on the gateway's machine: {error.strerror}") from error
    return check.end()


def _most_tokens(line: Line, size: int) -> int:
    """At most so many tokens: every byte of text may be one, and each vector is one."""
    vectors = vectors_of(line)
    around = _AROUND_LINE + (_AROUND_MESSAGE * len(line.messages) if isinstance(line, ChatLine) else 0)
    return size - sum(map(len, vectors)) + sum(map(count, vectors)) + around
