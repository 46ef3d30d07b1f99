"""Where in a request something is wrong: errors get the name of the field as they leave it."""

from collections.abc import Iterator
from contextlib import contextmanager

from terascope.core.errors import BadRequest


@contextmanager
def at(*place: str | int) -> Iterator[None]:
    """Put `place` before the `param` of a `BadRequest` that leaves the block; numbers become `[n]`."""
    try:
        yield
    except BadRequest as error:
        inner = error.param or ""
        before = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
        error.param = f"{before}{'.' if inner and not inner.startswith('[') else ''}{inner}"
        raise


@contextmanager
def told() -> Iterator[None]:
    """Put the `param` of a `BadRequest` that leaves the block before its message."""
    try:
        yield
    except BadRequest as error:
        raise (BadRequest(f"{error.param}: {error.message}", param=error.param) if error.param else error) from None
