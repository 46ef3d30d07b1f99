"""What was probably meant by a name that does not exist."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Up to `most` names of `known` that look like `name`, the likest first."""
    return difflib.get_close_matches(name, list(known), n=most, cutoff=0.5)


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of an error message: `; did you mean ...?`, or the names there are when none is near."""
    names = list(known)
    if near := nearest(name, names):
        return f"; did you mean {either(near)}?"
    return f"; there {'is' if len(names) == 1 else 'are'} {either(names, 'and')}" if names else ""


def either(names: Iterable[str], word: str = "or") -> str:
    """`a`, `a or b`, `a, b or c`, each in backquotes."""
    quoted = [f"`{name}`" for name in names]
    return f" {word} ".join(filter(None, (", ".join(quoted[:-1]), *quoted[-1:])))
