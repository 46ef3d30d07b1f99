"""What is asked of a deployment: how many at once, how long, and how soon."""

import re
from dataclasses import dataclass

from terascope.core.errors import BadRequest

_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|us)\Z")
_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
_MOST = 10_000_000


@dataclass(frozen=True, slots=True)
class Load:
    """`users` requests in flight at once (0: as many as go), each with so many tokens in and out.

    `ttft` and `itl` are the longest times to the first token and between tokens, in seconds; 0: any.
    """

    input: int = 1024
    output: int = 512
    users: int = 0
    ttft: float = 0.0
    itl: float = 0.0

    @property
    def length(self) -> int:
        """Tokens of a whole sequence."""
        return self.input + self.output


def make_load(input: int, output: int, users: int = 0, ttft: str = "", itl: str = "") -> Load:
    """Return the load. Raises `BadRequest` for nonsense: no tokens, negative numbers, times without a unit."""
    for name, value, least in (("input", input, 1), ("output", output, 1), ("users", users, 0)):
        if not least <= value <= _MOST:
            raise BadRequest(f"--{name} is {value}; it must be from {least} to {_MOST:,}", param=name)
    return Load(input, output, users, seconds(ttft, "ttft"), seconds(itl, "itl"))


def seconds(text: str, name: str) -> float:
    """Return what `2s`, `50ms` or the empty text (0) means. Raises `BadRequest` where the unit is missing."""
    if not text:
        return 0.0
    match = _TIME.match(text.strip())
    if not match or not float(match[1]):
        raise BadRequest(f"--{name} is {text!r}; write a time with its unit, such as 2s or 50ms", param=name)
    return float(match[1]) * _UNITS[match[2]]
