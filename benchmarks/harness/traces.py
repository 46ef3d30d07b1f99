"""Traces over HTTP: asked for, timed, and read as what they are; several at once from threads of their own."""

import http.client
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import safetensors.torch

from .processes import Failed
from .systems import Server
from .tokens import Prompt

_PIECE = 1 << 20  # bytes read at once
_PATIENCE_S = 600


@dataclass(frozen=True)
class Asked:
    """An answer: when it was whole, how long it is, and its bytes if they were to be kept."""

    seconds: float
    size: int
    used: Mapping[str, int]
    body: bytes = b""


def ask(server: Server, path: str, body: Mapping[str, Any], *, keep: bool = True) -> Asked:
    """Return the answer to `body`, with all its bytes unless not to `keep` them. Raises Failed when it is none."""
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=_PATIENCE_S)
    try:
        start = time.perf_counter()
        headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
        connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        parts, size = [], 0
        while piece := answer.read(_PIECE):
            size += len(piece)
            if keep or answer.status != 200:
                parts.append(piece)
        seconds = time.perf_counter() - start
    finally:
        connection.close()
    whole = b"".join(parts)
    if answer.status != 200:
        raise Failed(f"{path} answered {answer.status}: {whole[:500]!r}")
    told = answer.headers.get("X-Terascope-Usage") or json.dumps(json.loads(whole).get("usage", {}))
    return Asked(seconds, size, json.loads(told), whole)


def plan(
    model: str, prompts: Sequence[Prompt], operations: Sequence[Mapping[str, Any]], **fields: Any
) -> dict[str, Any]:
    """The body of a trace."""
    return {"model": model, "prompts": [{"tokens": one} for one in prompts], "operations": [*operations], **fields}


def norm(body: bytes) -> float:
    """The Euclidean norm of all arrays of floats in a safetensors file."""
    found = safetensors.torch.load(body)
    squares = [float(one.float().norm()) ** 2 for one in found.values() if one.is_floating_point()]
    return float(np.sqrt(sum(squares)))


@contextmanager
def beside(work: Sequence[Callable[[], Asked]]) -> Iterator[list[Future[Asked]]]:
    """Do all of `work` at once while the block runs. Raises on leaving what any of it raised."""
    with ThreadPoolExecutor(len(work) or 1) as pool:
        futures = [pool.submit(one) for one in work]
        yield futures
        for one in futures:
            one.result()


def together(work: Sequence[Callable[[], Asked]]) -> float:
    """Seconds until all of `work`, begun at once, is done."""
    start = time.perf_counter()
    with beside(work):
        pass
    return time.perf_counter() - start
