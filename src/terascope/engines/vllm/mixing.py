"""Text and tokens beside vectors in a completion: vLLM takes a prompt of vectors alone, so all become parts of one.

Text is tokenized here, by vLLM; what tokens are as vectors is read from the model's table in `vectors`.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from terascope.core.errors import BadRequest
from terascope.protocol.embeds import PART, SOFT_PROMPT

TOKENS = "tokens"
"""The type and the field of a part that holds tokens."""
Tokenize = Callable[[str, bool], Awaitable[list[int]]]
"""A text, and whether what belongs around a text is to be added -> its tokens."""


async def in_parts(fields: Mapping[str, Any], tokenize: Tokenize) -> dict[str, Any]:
    """Return a completion's `fields` with its prompts as parts that are vectors or tokens, a soft prompt first.

    Each text is read for itself; what the tokenizer adds to a text it adds to a first one only. Raises `BadRequest`.
    """
    special = fields.get("add_special_tokens") is not False
    soft = [_vectors(fields[SOFT_PROMPT])] if fields.get(SOFT_PROMPT) else []
    several = [soft + await _tokenized(one, tokenize, special=special) for one in _prompts(fields)]
    rest = {name: value for name, value in fields.items() if name not in ("prompt", SOFT_PROMPT)}
    return {**rest, PART: several}


def _prompts(fields: Mapping[str, Any]) -> list[list[Any]]:
    """The prompts of a request, each in parts."""
    given, prompt = fields.get(PART), fields.get("prompt")
    if given not in (None, []):
        if prompt:
            raise BadRequest(f"give `prompt` or `{PART}`; parts of `{PART}` can be text, too", param=PART)
        several = given if isinstance(given, list) and not isinstance(given[0], dict) else [given]
        return [one if isinstance(one, list) else [_vectors(one)] for one in several]
    if prompt is None:
        raise BadRequest("prompt: must be given", param="prompt")
    several = prompt if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else [prompt]
    return [
        [{"type": TOKENS, TOKENS: one} if isinstance(one, list) else {"type": "text", "text": one}] for one in several
    ]


async def _tokenized(parts: list[Any], tokenize: Tokenize, *, special: bool) -> list[dict[str, Any]]:
    found = []
    for index, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            found.append({"type": TOKENS, TOKENS: await tokenize(part["text"], special and not index)})
        elif (kind == TOKENS and isinstance(part.get(TOKENS), list)) or (
            kind == PART and isinstance(part.get(PART), str)
        ):
            found.append(part)
        else:
            raise BadRequest(
                f"{PART}: a part has a `type`, text, tokens or {PART}, and a field of that name", param=PART
            )
    return found


def _vectors(text: object) -> dict[str, Any]:
    return {"type": PART, PART: text}
