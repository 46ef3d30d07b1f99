"""How far a capture is."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """What is written, and will be there whatever happens: of `size` bytes of prompts the first `read`."""

    prompts: int = 0
    failed: int = 0
    rows: int = 0
    bytes: int = 0
    read: int = 0
    size: int = 0


Tell = Callable[[Progress], None]


def silent(_progress: Progress) -> None:
    """Tells nobody."""
