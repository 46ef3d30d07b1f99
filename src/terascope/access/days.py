"""What traces of a key and of a project may take in a day: bytes of results, tokens that go back through the model.

A day begins at midnight UTC. What has been used is read from the run records when a key or project is first met on a
day, and counted here from then on; so a restart forgets nothing but requests that had no record yet. What requests
that run may yet use is reserved, so that together they never pass a limit that each of them would keep. The state is
this process' own: with several gateways each of them counts its own requests, and those of before its first look.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from terascope.access.principal import Grant
from terascope.core.clock import Clock
from terascope.core.config import LimitConfig, LimitsConfig
from terascope.core.errors import BadRequest, ConfigError, RateLimited

_DAY_S = 86_400
_SUBJECTS = 20_000  # whose state is kept; who has not asked for longest is forgotten first, and read again
AMOUNTS = ("captured_bytes", "gradient_tokens")
"""What is limited by the day, as engines and run records call it."""
Amounts = Mapping[str, int]
Used = Callable[[str, str, float], Awaitable[Amounts]]
"""What traces since a time have used by the records: of a `key` or `project`, by its id or name."""


@dataclass(slots=True, eq=False)
class _Account:
    """A key's or project's day."""

    name: str
    limits: Amounts
    used: dict[str, int]
    reserved: dict[str, int] = field(default_factory=lambda: dict.fromkeys(AMOUNTS, 0))

    def left(self, what: str) -> int:
        return self.limits[what] - self.used[what] - self.reserved[what]


@dataclass(slots=True)
class Reservation:
    """What one request may use, to be given back with `Days.settle`."""

    amounts: Amounts = field(default_factory=dict)
    accounts: Sequence[_Account] = ()


class Days:
    """Lets traces in for as long as their day has something left. For one event loop."""

    def __init__(self, config: LimitsConfig, clock: Clock, used: Used, *, subjects: int = _SUBJECTS) -> None:
        """The state of so many `subjects` is kept.

        Raises `ConfigError` for limits by the day of a QOS: records do not say whose they were.
        """
        if any(_of(one) for one in config.qos.values()):
            raise ConfigError("limits.qos: limits by the day are those of keys and projects; set them there")
        self._config, self._clock, self._used = config, clock, used
        self._known: OrderedDict[tuple[str, str, int], _Account] = OrderedDict()
        self._subjects = subjects
        self._looking = asyncio.Lock()

    def limited(self, grant: Grant) -> bool:
        """Whether a trace of `grant` has any limit by the day."""
        return any(_of(limit) for _, _, _, limit in self._limits(grant))

    async def reserve(self, grant: Grant, wanted: Amounts) -> Reservation:
        """Set aside what a trace takes at most, in all its limits or in none; reads records of the day once.

        Raises `RateLimited` with the time until midnight when not so much is left, and `BadRequest` for what is more
        than a whole day's.
        """
        now = self._clock.now()
        async with self._looking:
            accounts = [await self._account(*one, now) for one in self._limits(grant) if _of(one[3])]
        for account in accounts:
            _check(account, wanted, _DAY_S - now % _DAY_S)
        amounts = {what: wanted.get(what, 0) for what in AMOUNTS}
        for account in accounts:
            _add(account.reserved, amounts)
        return Reservation(amounts, accounts)

    def settle(self, one: Reservation, used: Amounts) -> None:
        """The trace is over, its record durable; so much it has used. Settling again changes nothing."""
        for account in one.accounts:
            _add(account.reserved, {what: -amount for what, amount in one.amounts.items()})
            _add(account.used, used)
        one.accounts = ()

    def _limits(self, grant: Grant) -> list[tuple[str, str, str, LimitConfig]]:
        config, key_id, project = self._config, grant.principal.key_id, grant.project
        return [
            ("key", key_id, "this key", config.keys.get(key_id, config.key)),
            ("project", project, f"the project {project}", config.projects.get(project, config.project)),
        ]

    async def _account(self, kind: str, which: str, name: str, limit: LimitConfig, now: float) -> _Account:
        day = int(now // _DAY_S)
        found = self._known.get((kind, which, day))
        if found is None:
            used = await self._used(kind, which, day * _DAY_S)
            found = _Account(name, _of(limit), {what: used.get(what, 0) for what in AMOUNTS})
            self._known[kind, which, day] = found
            self._forget_idle()
        self._known.move_to_end((kind, which, day))
        return found

    def _forget_idle(self) -> None:
        if len(self._known) > self._subjects:
            idle = (key for key, one in self._known.items() if not any(one.reserved.values()))
            if (oldest := next(idle, None)) is not None:
                del self._known[oldest]


def _of(limit: LimitConfig) -> dict[str, int]:
    amounts = {"captured_bytes": limit.captured_bytes_per_day, "gradient_tokens": limit.gradient_tokens_per_day}
    return {what: most for what, most in amounts.items() if most}


def _add(to: dict[str, int], amounts: Amounts) -> None:
    for what in AMOUNTS:
        to[what] += amounts.get(what, 0)


def _check(account: _Account, wanted: Amounts, wait_s: float) -> None:
    for what, most in account.limits.items():
        amount, left, words = wanted.get(what, 0), max(0, account.left(what)), what.replace("_", " ")
        allowed = f"the plan would take {amount:,} {words}, and {account.name} may have {most:,} a day"
        if amount > most:
            raise BadRequest(f"{allowed}; make several smaller plans of it, for several days")
        if amount > left:
            raise _refusal(f"{allowed}, of which {left:,} are left", what, most, left, wait_s)


def _refusal(message: str, what: str, most: int, left: int, wait_s: float) -> RateLimited:
    hours, minutes = divmod(-(-int(wait_s) // 60), 60)
    error = RateLimited(f"{message}; all of them are back at 00:00 UTC, in {hours} h {minutes} min", retry_after=wait_s)
    name = what.replace("_", "-")
    error.headers = {
        f"x-ratelimit-limit-{name}": str(most),
        f"x-ratelimit-remaining-{name}": str(left),
        f"x-ratelimit-reset-{name}": f"{wait_s:.0f}s",
    }
    return error
