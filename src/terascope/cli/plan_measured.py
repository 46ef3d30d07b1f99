"""What a gateway's metrics say of one model: how fast it answers, how much at once, and what its caches hold."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from terascope.cli.connection import Connection
from terascope.core.errors import GatewayUnreachable, NotAllowed

_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Counted:
    """Sums since the gateway's start, of one model."""

    answers: float = 0.0
    answer_s: float = 0.0
    first_s: float = 0.0
    prompt: float = 0.0
    output: float = 0.0
    replicas: int = 0
    cache_tokens: float = 0.0
    """Of all replicas together; 0 where the engine does not say it."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What happened between two looks; times in seconds, rates in tokens a second."""

    seconds: float
    answers: int
    input: float
    """Tokens of a prompt, on average."""
    output: float
    """Tokens of an answer, on average."""
    users: float
    """Answers under way at once, on average."""
    ttft: float
    itl: float
    rate: float
    """Answer tokens."""
    replicas: int
    cache_tokens: float


def look(gateway: Connection, model: str) -> Counted:
    """Return what `gateway` has counted of `model`, given as name@version.

    Raises `GatewayUnreachable`, and `NotAllowed` where its metrics are an operator's.
    """
    return counted((*_samples(gateway, "/metrics"), *_samples(gateway, "/metrics/engines")), model)


def counted(samples: Iterable[Sample], model: str) -> Counted:
    """The sums of `model` among all samples."""
    its = [one for one in samples if one.labels.get("model") == model]

    def total(name: str, **labels: str) -> float:
        return sum(one.value for one in its if one.name == name and labels.items() <= one.labels.items())

    blocks = sum(_tokens(one.labels) for one in its if one.name == "vllm:cache_config_info")
    return Counted(
        answers=total("terascope_answer_seconds_count"),
        answer_s=total("terascope_answer_seconds_sum"),
        first_s=total("terascope_first_byte_seconds_sum"),
        prompt=total("terascope_tokens_total", kind="prompt"),
        output=total("terascope_tokens_total", kind="completion"),
        replicas=round(total("terascope_engine_up")),
        cache_tokens=total("terascope_engine_cache_tokens") + blocks,
    )


def between(before: Counted, behind: Counted, seconds: float) -> Measured | None:
    """What happened between two looks that are `seconds` apart; None where no answer ended."""
    answers = behind.answers - before.answers
    output = behind.output - before.output
    if answers < 1 or output <= 0 or seconds <= 0:
        return None
    first, whole = behind.first_s - before.first_s, behind.answer_s - before.answer_s
    return Measured(
        seconds=seconds,
        answers=round(answers),
        input=(behind.prompt - before.prompt) / answers,
        output=output / answers,
        users=whole / seconds,  # Little's law
        ttft=first / answers,
        itl=(whole - first) / max(1.0, output - answers),
        rate=output / seconds,
        replicas=behind.replicas,
        cache_tokens=behind.cache_tokens,
    )


def _tokens(labels: Mapping[str, str]) -> float:
    """Tokens of a vLLM's cache."""
    try:
        return float(labels["num_gpu_blocks"]) * float(labels["block_size"])
    except (KeyError, ValueError):
        return 0.0


def _samples(gateway: Connection, path: str) -> Iterator[Sample]:
    headers = {"Authorization": f"Bearer {gateway.key}"} if gateway.key else {}
    try:
        answer = httpx.get(f"{gateway.url}{path}", headers=headers, timeout=_PATIENCE_S)
    except httpx.HTTPError as error:
        raise GatewayUnreachable(f"{gateway.url}{path} does not answer: {error}") from None
    if answer.status_code in (401, 403):
        raise NotAllowed(f"{gateway.url}{path} needs an operator's key; give it with --key")
    if answer.is_error:
        raise GatewayUnreachable(f"{gateway.url}{path} answers with status {answer.status_code}")
    for family in text_string_to_metric_families(answer.text):
        yield from family.samples
