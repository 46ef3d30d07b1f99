"""Scopes: what a key may do. One table; docs/reference/http-api.md shows it."""

from terascope.core.errors import BadRequest
from terascope.core.models import Mode

OPERATOR = "operator"

SCOPES: dict[str, str] = {
    Mode.QUERY: "ask models: chat, completions, tokenize",
    Mode.EMBED: "embeddings; with query, vectors in place of text",
    Mode.INTERNALS: "read and change what happens inside models",
    Mode.TUNE: "train soft prompts and adapters",
    OPERATOR: "everything, including keys, models and everybody's run records",
}
DEFAULT_SCOPES = (str(Mode.QUERY), str(Mode.EMBED))


def checked(scopes: list[str]) -> tuple[str, ...]:
    """Return `scopes` sorted and without repeats.

    Raises `BadRequest` when one is unknown or there is none.
    """
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        told = f"there is no scope {unknown[0]!r}" if unknown else "a key needs a scope"
        raise BadRequest(f"{told}; choose from {', '.join(SCOPES)}", param="scopes")
    return tuple(sorted(set(scopes)))
