"""What is known of a request while it runs; becomes its run record."""

from typing import Any

import orjson

from terascope.access.days import AMOUNTS, Reservation
from terascope.access.estimate import probable_prompt_tokens
from terascope.access.limits import NO_LIMITS, Pass
from terascope.access.principal import Grant, Principal
from terascope.core.clock import Clock
from terascope.core.errors import AllocationExhausted, DeadlineExceeded, IdleTimeout, InternalError, ServiceError
from terascope.core.models import ModelVersion
from terascope.core.runs import RunRecord
from terascope.core.states import Outcome
from terascope.fleet.replica import Replica
from terascope.inference.place import Place
from terascope.internals.limits import BYTES_PER_MICRO, GRADIENT_SHARE
from terascope.protocol.request import ModelRequest

_TOLD_EVERY = 16  # tokens
_UNANSWERED = frozenset({Outcome.FAILED, Outcome.REFUSED})
_BOUNDED = frozenset({"chat/completions", "completions"})  # their prompts lie in the context; what is embedded may not
_PAID_ENDS = frozenset({AllocationExhausted.code, DeadlineExceeded.code, IdleTimeout.code})
"""Errors of answers that were computed for as long as the client's means, or its patience, lasted."""


class Run:
    """Gathers what the record will say, hop by hop."""

    def __init__(self, run_id: str, endpoint: str, principal: Principal, clock: Clock) -> None:
        self.id = run_id
        self.endpoint = endpoint
        self.principal = principal
        self.attempts = 0
        self.outcome = Outcome.FAILED
        self.status, self.error = InternalError.status, InternalError.code  # unless something else is known
        self.usage: dict[str, Any] | None = None
        self.events = 0
        self._told = 0
        self._clock = clock
        self._started = clock.now()
        self._start = clock.monotonic()
        self._queued_s = self._first_s = 0.0
        self._request: ModelRequest | None = None
        self._version: ModelVersion | None = None
        self.grant: Grant | None = None
        self.admitted: Pass = NO_LIMITS
        self.reserved = Reservation()
        self.place: Place | None = None
        self._replica: Replica | None = None
        self._applied: object = None
        self.billed = (0, 0)
        """Prompt and answer tokens to pay for, as of the last record."""

    def asked(self, request: ModelRequest) -> None:
        """The body has been read."""
        self._request = request

    def granted(self, grant: Grant) -> None:
        """They may."""
        self.grant = grant

    def resolved(self, version: ModelVersion) -> None:
        """The model is known."""
        self._version = version

    def sent_to(self, replica: Replica) -> None:
        """A replica has been chosen; the last one stays in the record."""
        self.attempts += 1
        self._replica = replica
        self._queued_s = self._elapsed()

    def answered(self, applied: str) -> None:
        """The engine's answer began; `applied` is what it says of the sampling it uses (JSON)."""
        self._applied = _json(applied)

    def first_byte(self) -> None:
        """The first part of the answer goes to the client."""
        if not self._first_s:
            self._first_s = self._elapsed()
            if self.place and self._replica and self._request and self._request.stream:
                self.place.first_byte(self._replica, self._first_s - self._queued_s)

    def produced(self, tokens: int) -> None:
        """The answer has so many tokens by now: what it costs is charged while it comes, as it counts for its turns."""
        if self.place and self.grant and tokens > self._told:
            self._told = tokens + _TOLD_EVERY
            self.place.cost(self.grant.price.cost(0, tokens))

    def completed(self) -> None:
        """The whole answer was there."""
        self.outcome, self.error, self.status = Outcome.COMPLETED, "", 200

    def cancelled(self) -> None:
        """The client left."""
        self.outcome, self.error, self.status = Outcome.CANCELLED, "client_left", 499

    def failed(self, error: ServiceError) -> None:
        """The request ends in `error`."""
        self.outcome = Outcome.REFUSED if error.status < 500 else Outcome.FAILED
        self.error, self.status = error.code, error.status

    def record(self) -> RunRecord:
        """The record as it stands now."""
        request, version, replica = self._request, self._version, self._replica
        counted = prompt_tokens, completion_tokens, told = self._tokens()
        self.billed = self._billed(*counted)
        parameters: dict[str, object] = request.parameters() if request else {}
        if self._applied is not None:
            parameters["applied"] = self._applied
        if not told and (completion_tokens or self.usage is not None):
            parameters["usage"] = "estimated"
        if used := self.used:
            parameters["used"] = used
        return RunRecord(
            id=self.id,
            started=self._started,
            endpoint=self.endpoint,
            key_id=self.principal.key_id,
            model=version.public_name if version else "",
            digest=version.digest if version else "",
            replica=replica.id if replica else "",
            engine=replica.engine_label if replica else "",
            parameters=parameters,
            stream=bool(request and request.stream),
            outcome=self.outcome,
            status=self.status,
            error=self.error,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            cached_tokens=self._cached_tokens(),
            queued_s=self._queued_s,
            first_s=self._first_s,
            total_s=self._elapsed(),
            attempts=self.attempts,
            project=self.grant.project if self.grant else "",
            user_id=self.principal.user_id,
            cost=self._cost(*self.billed),
        )

    @property
    def output_tokens(self) -> int:
        """How many tokens the answer has, as far as that is known."""
        return self._tokens()[1]

    @property
    def used(self) -> dict[str, int]:
        """What a trace has used of what is limited by the day."""
        if self.endpoint != "traces" or not self.usage:
            return {}
        return {what: amount for what in AMOUNTS if (amount := _count(self.usage, what, most=1 << 53))}

    def _cost(self, prompt: int, output: int) -> int:
        """Micro service units: of the tokens to pay for, and of what was captured."""
        if self.grant is None:
            return 0
        captured = self.used.get("captured_bytes", 0) if prompt or output else 0
        return self.grant.price.cost(prompt, output) + -(-captured // BYTES_PER_MICRO)

    def _billed(self, prompt: int, output: int, told: bool) -> tuple[int, int]:
        """Prompt and answer tokens to pay for: none where it is not the client's doing that there is no answer.

        Where the engine did not come to say how many they were, they are estimated.
        """
        if self.outcome in _UNANSWERED and self.error not in _PAID_ENDS:
            return 0, 0
        if not told and self.attempts and self._request and self._version:
            prompt = probable_prompt_tokens(self._request, self._version)
        return prompt + GRADIENT_SHARE * self.used.get("gradient_tokens", 0), output

    def _tokens(self) -> tuple[int, int, bool]:
        """Prompt and completion tokens, and whether the engine said so; else events stand for tokens."""
        prompt, output = (_count(self.usage or {}, name) for name in ("prompt_tokens", "completion_tokens"))
        bounded = prompt if self.endpoint in _BOUNDED else 0
        if self.usage is None or self._too_much(max(bounded, output)):
            return 0, self.events, False
        return prompt, output, True

    def _too_much(self, tokens: int) -> bool:
        """Whether so many tokens are more than all prompts, or all choices of an answer, can have.

        Then the engine is not believed.
        """
        info = self._replica.info if self._replica else None
        longest = (info.context_length if info else 0) or (self._version.context_length if self._version else 0)
        return bool(longest and self._request) and tokens > longest * (self._request.choices if self._request else 1)

    def _cached_tokens(self) -> int:
        details = (self.usage or {}).get("prompt_tokens_details")
        return _count(details, "cached_tokens") if isinstance(details, dict) else 0

    def _elapsed(self) -> float:
        return self._clock.monotonic() - self._start


def _count(usage: dict[str, Any], name: str, most: int = 1 << 31) -> int:
    value = usage.get(name)
    return value if type(value) is int and 0 <= value < most else 0


def _json(text: str) -> object:
    try:
        return orjson.loads(text) if text else None
    except orjson.JSONDecodeError:
        return None
