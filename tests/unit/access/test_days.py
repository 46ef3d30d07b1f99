"""What traces may take in a day, in simulated time."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terascope.access.days import AMOUNTS, Amounts, Days, Reservation
from terascope.access.principal import Grant, Principal
from terascope.core.config import LimitConfig, LimitsConfig
from terascope.core.errors import BadRequest, ConfigError, RateLimited, ServiceError
from terascope.core.ids import new_id
from terascope.core.models import Mode
from terascope.core.runs import RunRecord
from terascope.store.database import Database
from terascope.store.runs import RunStore
from terascope.testing.clock import ManualClock
from terascope.testing.databases import new_sqlite

DAY = 86_400.0
NOON = 20_000 * DAY + DAY / 2
LIMITED = LimitsConfig(
    key=LimitConfig(captured_bytes_per_day=1000), project=LimitConfig(captured_bytes_per_day=1500)
)  # fmt: skip


def grant(key: str = "key_1", project: str = "climate") -> Grant:
    return Grant(Principal(key, "ada", frozenset(), "ada", project), Mode.INTERNALS, "m@1", project)


def captured(amount: int) -> Amounts:
    return {"captured_bytes": amount}


class Records:
    """What the run records say; each look is noted."""

    def __init__(self, **used: int) -> None:
        self.used = used
        self.looks: list[tuple[str, str, float]] = []

    async def __call__(self, kind: str, which: str, since: float) -> Amounts:
        await asyncio.sleep(0)
        self.looks.append((kind, which, since))
        return captured(self.used.get(which, 0))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


async def test_what_is_used_is_gone_until_midnight(clock: ManualClock) -> None:
    days = Days(LIMITED, clock, Records())
    one = await days.reserve(grant(), captured(900))
    days.settle(one, captured(600))
    days.settle(one, captured(600))  # once is enough
    with pytest.raises(
        RateLimited, match="401 captured bytes, and this key may have 1,000 a day, of which 400"
    ) as full:
        await days.reserve(grant(), captured(401))
    assert "back at 00:00 UTC, in 12 h 0 min" in full.value.message
    assert full.value.retry_after == DAY / 2
    assert full.value.headers == {
        "x-ratelimit-limit-captured-bytes": "1000",
        "x-ratelimit-remaining-captured-bytes": "400",
        "x-ratelimit-reset-captured-bytes": "43200s",
    }
    await days.reserve(grant(), captured(400))
    clock.advance(DAY / 2)
    await days.reserve(grant(), captured(1000))


async def test_what_runs_at_once_is_reserved_together(clock: ManualClock) -> None:
    records = Records()
    days = Days(LIMITED, clock, records)
    asked = [days.reserve(grant(), captured(400)) for _ in range(3)]
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(one) for one in found] == [Reservation, Reservation, RateLimited]
    with pytest.raises(RateLimited, match="the project climate may have 1,500 a day, of which 700 are left"):
        await days.reserve(grant("key_2"), captured(701))
    days.settle(found[0], {})  # type: ignore[arg-type]  # it came to nothing
    await days.reserve(grant(), captured(400))
    assert len(records.looks) == 3  # key_1, climate, key_2


async def test_who_is_refused_by_one_limit_reserves_in_none(clock: ManualClock) -> None:
    config = LimitsConfig(key=LimitConfig(captured_bytes_per_day=1000), project=LimitConfig(captured_bytes_per_day=100))
    days = Days(config, clock, Records())
    await days.reserve(grant(), captured(100))
    for _ in range(5):
        with pytest.raises(RateLimited, match="the project"):
            await days.reserve(grant(), captured(50))
    await days.reserve(grant(project="ocean"), captured(100))


async def test_more_than_a_day_has_is_no_matter_of_waiting(clock: ManualClock) -> None:
    with pytest.raises(BadRequest, match="1,001 captured bytes, and this key may have 1,000 a day; make several"):
        await Days(LIMITED, clock, Records()).reserve(grant(), captured(1001))


async def test_gradient_tokens_are_limited_too(clock: ManualClock) -> None:
    days = Days(LimitsConfig(keys={"key_1": LimitConfig(gradient_tokens_per_day=10)}), clock, Records())
    assert (days.limited(grant()), days.limited(grant("key_2"))) == (True, False)
    await days.reserve(grant(), {"gradient_tokens": 10, "captured_bytes": 1 << 40})
    with pytest.raises(RateLimited, match="1 gradient tokens"):
        await days.reserve(grant(), {"gradient_tokens": 1})
    await days.reserve(grant("key_2"), {"gradient_tokens": 1 << 40})


async def test_a_request_of_yesterday_counts_for_yesterday(clock: ManualClock) -> None:
    days = Days(LIMITED, clock, Records())
    late = await days.reserve(grant(), captured(1000))
    clock.advance(DAY)
    await days.reserve(grant(), captured(900))
    days.settle(late, captured(1000))
    await days.reserve(grant(), captured(100))


def test_a_qos_has_no_days(clock: ManualClock) -> None:
    with pytest.raises(ConfigError, match=r"limits\.qos"):
        Days(LimitsConfig(qos={"batch": LimitConfig(captured_bytes_per_day=1)}), clock, Records())


@given(st.lists(st.tuples(st.integers(0, 700), st.floats(0, 1), st.booleans()), max_size=30), st.integers(0, 900))
def test_a_day_never_gives_more_than_its_limit(steps: list[tuple[int, float, bool]], before: int) -> None:
    async def run() -> None:
        days, used, open_ = Days(LIMITED, ManualClock(NOON), Records(key_1=before)), before, 0
        for wanted, part, ends in steps:
            try:
                one = await days.reserve(grant(), captured(wanted))
            except ServiceError:
                continue
            if ends:
                days.settle(one, captured(int(wanted * part)))
                used += int(wanted * part)
            else:
                open_ += wanted
            assert used + open_ <= 1000

    asyncio.run(run())


def record(**fields: object) -> RunRecord:
    given: dict[str, object] = {"started": NOON, "endpoint": "traces", "key_id": "key_1", "project": "climate"}
    used = {"used": {"captured_bytes": 300, "gradient_tokens": 7}}
    return RunRecord(new_id("req"), **(given | {"parameters": used} | fields))  # type: ignore[arg-type]


async def test_a_restart_forgets_nothing(tmp_path: Path, clock: ManualClock) -> None:
    """What the day has used is read from the records of its traces."""
    database = await Database.open(new_sqlite(tmp_path / "state.db"))
    store = RunStore(database)
    for one in (
        record(),
        record(key_id="key_2"),
        record(project="ocean"),
        record(parameters={}),
        record(endpoint="chat/completions"),
        record(started=NOON - DAY),
    ):
        await store.add(one)
    assert await store.traced("key", "key_1", NOON - DAY / 2) == {"captured_bytes": 600, "gradient_tokens": 14}
    assert await store.traced("project", "climate", NOON - DAY / 2) == {"captured_bytes": 600, "gradient_tokens": 14}
    assert await store.traced("key", "nobody", 0) == {}
    days = Days(LIMITED, clock, store.traced)
    with pytest.raises(RateLimited, match="of which 400 are left"):
        await days.reserve(grant(), captured(500))
    await database.aclose()


async def test_who_has_not_asked_for_long_is_read_again(clock: ManualClock) -> None:
    records = Records()
    days = Days(LimitsConfig(key=LimitConfig(captured_bytes_per_day=1000)), clock, records, subjects=4)
    running = await days.reserve(grant("key_0"), captured(1000))
    for number in range(1, 10):
        one = await days.reserve(grant(f"key_{number}"), captured(10))
        days.settle(one, captured(10))
    with pytest.raises(RateLimited):
        await days.reserve(grant("key_0"), captured(1))
    assert [which for _, which, _ in records.looks].count("key_0") == 1
    days.settle(running, dict.fromkeys(AMOUNTS, 0))
    await days.reserve(grant("key_1"), captured(1))
    assert [which for _, which, _ in records.looks].count("key_1") == 2
