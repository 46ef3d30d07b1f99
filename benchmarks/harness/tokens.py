"""Bursts of completions whose prompts are tokens: all asked for at one moment, all streamed, every token counted."""

import asyncio
import gc
import json
import random
import statistics
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import uvloop

from .load import Answer, Connection
from .processes import Failed
from .systems import Server

Prompt = list[int]
PATIENCE_S = 300.0


def prompts(seed: int, count: int, length: int, vocabulary: range) -> list[Prompt]:
    """`count` prompts of `length` tokens each; the same for the same `seed`, and no two with a common beginning."""
    chance = random.Random(seed)
    return [[chance.choice(vocabulary) for _ in range(length)] for _ in range(count)]


def burst(
    server: Server, model: str, asked: Sequence[Prompt], tokens: int, fields: Mapping[str, object] | None = None
) -> dict[str, float]:
    """Ask `asked` at once, `tokens` tokens each; return `seconds` until the last token, `made`, and `first`, the mean
    seconds to the first event. `fields` are added to every request. Raises Failed when an answer is not whole."""
    gc.disable()
    try:
        found: dict[str, float] = uvloop.run(
            _burst(server, [request(server, model, one, tokens, fields) for one in asked], tokens)
        )
        return found
    finally:
        gc.enable()


async def _burst(server: Server, requests: Sequence[bytes], tokens: int) -> dict[str, float]:
    host, port = urlsplit(server.url).hostname or "", urlsplit(server.url).port or 80
    clients = [Connection() for _ in requests]
    for client in clients:
        await client.open(host, port)
    asking = [client.ask(request) for client, request in zip(clients, requests, strict=True)]
    answers = await asyncio.wait_for(asyncio.gather(*asking), PATIENCE_S)
    for client in clients:
        client.end("done")
    for answer in answers:
        check(answer, tokens)
    start, end = min(one.started for one in answers), max(one.last for one in answers)
    first = statistics.mean(one.first - one.started for one in answers)
    return {"seconds": (end - start) / 1e9, "first": first / 1e9, "made": tokens * len(answers)}


def request(
    server: Server,
    model: str,
    prompt: Prompt,
    tokens: int,
    fields: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """A streamed completion of `tokens` tokens, ready for the wire."""
    wanted = {
        "model": model,
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        **(fields or {}),
    }
    body = json.dumps(wanted).encode()
    host = urlsplit(server.url).netloc
    more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {server.key}\r\n"
        f"{more}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def check(answer: Answer, tokens: int) -> None:
    """Raise Failed when `answer` is not whole.

    The usage event says how many tokens came: several may be in one event, and some have no text.
    """
    events = b"".join(answer.parts).decode(errors="replace").split("data: ")
    last = json.loads(events[-2]) if answer.status == 200 and len(events) > 2 else {}
    made = (last.get("usage") or {}).get("completion_tokens")
    if answer.fault or not events[-1].startswith("[DONE]") or made != tokens:
        raise Failed(f"an answer was not whole ({made} tokens, status {answer.status}): {answer.fault} {events[-1:]}")
