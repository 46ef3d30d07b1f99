"""The part of the conformance suite of engines that asks again and compares every bit."""

import asyncio
from typing import Any

from terascope.core.models import Feature
from terascope.testing.engine_subject import Streamed, Subject, content

_TEXT = "one two three four five six seven eight nine ten"
_NEIGHBOURS = (
    "a", "red green blue", "na\u00efve caf\u00e9", "one two three four five",
    "why? " * 20, "x" * 50, "the end of it " * 40,
)  # fmt: skip
_Answer = tuple[str, list[dict[str, Any]]]
"""The text, and what is said of each of its tokens when log-probabilities are asked for."""


async def check_reproducible(subject: Subject) -> None:
    """With `reproducible` a repeated request gets the same text and numbers, alone and among others, in any form."""
    alone = await _whole(subject)
    assert alone[0], "the model must say something for this check"
    for among in (_whole, _streamed):
        assert await among(subject) == alone
        asked = [_neighbour(subject, number) for number in range(len(_NEIGHBOURS))]
        *_, answer, _, _, _ = await asyncio.gather(*asked[:4], among(subject), *asked[4:])  # ours in their middle
        assert answer == alone
    assert await _whole(subject) == alone, "what was asked in between must leave no trace"


def _fields(subject: Subject) -> dict[str, Any]:
    told = Feature.LOGPROBS in subject.info.capabilities.features
    fields = {"reproducible": True, "temperature": 1, "seed": 11, "max_tokens": 16, "ignore_eos": True}
    return fields | ({"logprobs": True, "top_logprobs": 3} if told else {})


async def _neighbour(subject: Subject, number: int) -> None:
    """A request that runs beside ours: others of its kind are longer, shorter, and end earlier."""
    await subject.chat(_NEIGHBOURS[number], temperature=1, seed=number, max_tokens=4 + 3 * number)


async def _whole(subject: Subject) -> _Answer:
    answer = await subject.chat(_TEXT, **_fields(subject))
    said = answer["choices"][0].get("logprobs") or {}
    return content(answer), said.get("content") or []


async def _streamed(subject: Subject) -> _Answer:
    streamed = await subject.chat_stream(_TEXT, **_fields(subject))
    return streamed.text, _entries(streamed)


def _entries(streamed: Streamed) -> list[dict[str, Any]]:
    choices = [choice for event in streamed.events for choice in event["choices"]]
    return [entry for choice in choices for entry in (choice.get("logprobs") or {}).get("content") or ()]
