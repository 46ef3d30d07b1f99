"""Vectors in a request: where they are, and how many they say they are. Nothing is decoded but their headers.

A prompt's vectors are base64 of a safetensors file or of a .npy file, [vectors, width]. Whether they are what their
header says is for the engine to check.
"""

import binascii
import re
from collections.abc import Iterator
from typing import Any

PART = "prompt_embeds"
"""The field of a completion, and the type and the field of a part of a message, that holds vectors."""
SOFT_PROMPT = "soft_prompt"
"""The field with vectors that stand before a prompt."""
NPY_MAGIC = b"\x93NUMPY"
_PEEKED = 8192  # characters of base64 that are looked at; the headers of both formats are far shorter
_SHAPE = re.compile(rb"[\"']shape[\"']\s*:\s*[\[(]\s*([0-9]{1,12})")


def embeds_in(fields: dict[str, Any]) -> list[str]:
    """Return all vectors of a request's `fields`, as they were sent."""
    soft = fields.get(SOFT_PROMPT)
    before = [soft] if isinstance(soft, str) else []
    return [*before, *_strings(fields.get(PART)), *_in_messages(fields.get("messages"))]


def prompts_in(given: object) -> int:
    """Return how many prompts `prompt_embeds` holds: a list of parts is one."""
    several = isinstance(given, list) and given and not isinstance(given[0], dict)
    return len(given) if isinstance(given, list) and several else 1


def mixed(fields: dict[str, Any]) -> bool:
    """Whether a request with vectors has more than vectors alone in a prompt or a message.

    That is text or tokens beside them, a soft prompt, a projector, or an echo.
    """
    if any(fields.get(name) for name in (SOFT_PROMPT, "encoder", "echo")):
        return True
    given, messages = fields.get(PART), fields.get("messages")
    prompts = given if isinstance(given, list) else []
    contents = [one.get("content") for one in messages if isinstance(one, dict)] if isinstance(messages, list) else []
    return any(False in _kinds(one) for one in (prompts, *prompts)) or any(len(_kinds(one)) > 1 for one in contents)


def _kinds(parts: object) -> set[bool]:
    """Which there are among `parts`: vectors, others."""
    return {one.get("type") == PART for one in parts if isinstance(one, dict)} if isinstance(parts, list) else set()


def count(text: str) -> int:
    """Return how many vectors `text` holds by its header, at most as many as its bytes; its length if that is odd."""
    try:
        head = binascii.a2b_base64(text[:_PEEKED].encode())
    except (ValueError, UnicodeEncodeError):
        return len(text)
    start = 10 if head.startswith(NPY_MAGIC) else 8
    size = int.from_bytes(head[8:10] if start == 10 else head[:8], "little")
    found = [int(number) for number in _SHAPE.findall(head[start : start + size])]
    return min(max(found), len(text)) if found and size <= len(head) - start else len(text)


def _strings(given: object) -> Iterator[str]:
    """The vectors in `prompt_embeds`: a text, a list of texts, parts, or lists of parts."""
    if isinstance(given, str):
        yield given
    elif isinstance(given, list):
        for one in given:
            yield from _strings(one)
    elif isinstance(given, dict):
        yield from _strings(given.get(PART))


def _in_messages(messages: object) -> Iterator[str]:
    for message in messages if isinstance(messages, list) else ():
        parts = message.get("content") if isinstance(message, dict) else None
        for part in parts if isinstance(parts, list) else ():
            if isinstance(part, dict) and isinstance(part.get(PART), str):
                yield part[PART]
