"""Jobs around a small trainer that does what a test says: every end, every state, restarts, resumption."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from terascope.access.principal import Principal
from terascope.access.scopes import OPERATOR
from terascope.cli.assemble import opened
from terascope.core.config import Config, FilesConfig, TuningConfig
from terascope.core.errors import Conflict, NotAllowed, NotFound, ServiceError, UnsupportedFeature
from terascope.core.models import Mode
from terascope.core.tuning import DEFAULTS, TuningMethod, TuningStatus
from terascope.gateway.services import Services
from terascope.store.tuning import JobRow
from terascope.testing.checkpoints import checkpoint, write_files
from terascope.testing.databases import new_sqlite
from terascope.tuning.tuning import NewJob, Tuning

WHO = Principal("key_1", "tests", frozenset({OPERATOR}), "ada")
SOFT = TuningMethod.SOFT_PROMPT
_LOOKS = 3000
SMALL = "terascope.testing.small_trainer"


@dataclass
class Bench:
    """A gateway's rooms, with jobs that the small trainer carries out."""

    services: Services
    tuning: Tuning

    async def create(self, words: str, who: Principal = WHO, **more: Any) -> JobRow:
        line = json.dumps({"prompt": words, "completion": "x"}).encode() + b"\n"
        file = await self.file(line)
        return await self.tuning.create(who, NewJob("m", SOFT, "soft_prompt", DEFAULTS[SOFT], file, **more))

    async def file(self, data: bytes, purpose: str = "fine-tune") -> str:
        async def chunks() -> AsyncIterator[bytes]:
            yield data

        async with self.services.files.draft("local", "ada", "key_1") as draft:
            await draft.fill(chunks())
            return (await draft.keep(purpose, "lines.jsonl")).id

    async def until(self, job: str, words: str) -> None:
        """Return when an event says that."""
        for _ in range(_LOOKS):
            if any(words in one for one in await self.messages(job)):
                return
            assert not (await self.tuning.get(WHO, job)).status.final, await self.messages(job)
            await asyncio.sleep(0.01)
        raise AssertionError(await self.messages(job))

    async def over(self, job: str) -> JobRow:
        """The job, once nothing of it is left."""
        for _ in range(_LOOKS):
            if await self.tuning.over(job) and not self.directory(job).exists():
                return await self.tuning.get(WHO, job)
            await asyncio.sleep(0.01)
        raise AssertionError(await self.messages(job))

    async def messages(self, job: str) -> list[str]:
        return [one.message for one in await self.tuning.events_since(job, "", 1000)]

    def directory(self, job: str) -> Path:
        return Path(self.tuning._rooms.data_dir) / "tuning" / job


@asynccontextmanager
async def benched(tmp_path: Path, files: FilesConfig | None = None, **config: Any) -> AsyncIterator[Bench]:
    settings = Config(tuning=TuningConfig(restarts=2, **config), files=files or FilesConfig())
    new_sqlite(tmp_path / "data" / "terascope.db")
    async with opened(settings, tmp_path / "data", tmp_path / "cache", trainer=SMALL) as services:
        await services.catalog.add("m", f"path:{write_files(tmp_path / 'm', checkpoint())}")
        yield Bench(services, services.tuning)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with benched(tmp_path) as found:
        yield found


async def test_a_job_that_succeeds(bench: Bench) -> None:
    job = await bench.create("steps done", suffix="tone", tags={"a": "b"})
    row = await bench.over(job.id)
    assert (row.status, row.error, row.tokens, row.measured) == (TuningStatus.SUCCEEDED, {}, 20, 5)
    [made] = await bench.services.artefacts.visible_to(WHO, "softprompt", "local")  # type: ignore[arg-type]
    assert row.result == f"{row.base}+tone@{made.version}"
    assert (made.model, made.created_by) == (row.base, "ada")
    assert made.note == f"made by {job.id} from data {row.data_digest[:12]} with seed {row.seed}"
    losses = await bench.services.files.get(row.metrics_file)
    text = b"".join([one async for one in await bench.services.files.content(losses, 0, losses.bytes)]).decode()
    assert (losses.purpose, losses.project, losses.filename) == ("fine-tune-results", "local", "step_metrics.csv")
    assert text.splitlines() == [
        "step,train_loss,valid_loss,learning_rate,trained_tokens", "0,,3.0,,", "1,2.0,,0.1,10", "2,1.0,,0.1,20"
    ]  # fmt: skip
    record = await bench.services.recorder.get(row.run_id)
    price = bench.services.catalog.resolve("m").price
    assert (record.outcome, record.cost) == ("completed", price.prompt * (3 * 20 + 5))
    assert (await bench.messages(job.id))[-1] == "The job has successfully completed"


async def test_a_project_without_room_gets_no_file_of_losses(tmp_path: Path) -> None:
    async with benched(tmp_path, files=FilesConfig(max_project_bytes=100)) as bench:
        row = await bench.over((await bench.create("steps done")).id)
        assert (row.status, row.metrics_file) == (TuningStatus.SUCCEEDED, "")


async def test_a_trainer_that_tells_its_error(bench: Bench) -> None:
    row = await bench.over((await bench.create("steps fail")).id)
    assert row.status is TuningStatus.FAILED
    assert row.error == {"code": "invalid_request", "message": "it was told to fail", "param": "training_file"}
    assert (await bench.services.recorder.get(row.run_id)).cost == 0


async def test_a_trainer_that_ends_without_a_word(bench: Bench) -> None:
    row = await bench.over((await bench.create("crash")).id)
    assert "the last line of its log" in str(row.error["message"])
    row = await bench.over((await bench.create("steps")).id)
    assert "ended unexpectedly" in str(row.error["message"])  # all went well, it says, but there is no result


@pytest.mark.parametrize(("words", "status"), [("die-once steps done", "succeeded"), ("steps die", "failed")])
async def test_a_trainer_that_is_killed(bench: Bench, words: str, status: str) -> None:
    row = await bench.over((await bench.create(words)).id)
    assert row.status == status
    messages = await bench.messages(row.id)
    assert sum("training loss" in one for one in messages) == 2
    again = sum("(signal 9) and is started again" in one for one in messages)
    assert again == (1 if status == "succeeded" else 2)


async def test_cancelled_before_its_data_was_looked_at(bench: Bench) -> None:
    job = await bench.create("hang")
    assert (await bench.tuning.cancel(WHO, job.id)).status is TuningStatus.CANCELLED
    messages = await bench.messages(job.id)
    assert messages[-1] == "The job was cancelled"
    assert not any("queued" in one for one in messages)
    assert (await bench.services.recorder.get(job.run_id)).cost == 0


async def test_cancelled_while_it_waits_and_while_it_trains(bench: Bench) -> None:
    first = await bench.create("steps hang")
    await bench.until(first.id, "New checkpoint")
    second = await bench.create("done")
    await bench.until(second.id, "queued state")
    for job, cost in ((second, 0), (first, 3 * 20 + 5)):
        assert (await bench.tuning.cancel(WHO, job.id)).status is TuningStatus.CANCELLED
        record = await bench.services.recorder.get(job.run_id)
        assert (record.outcome, record.cost) == ("cancelled", bench.services.catalog.resolve("m").price.prompt * cost)
        assert not bench.directory(job.id).exists()
        with pytest.raises(Conflict, match="cancelled and cannot become"):
            await bench.tuning.cancel(WHO, job.id)
    assert (await bench.over((await bench.create("done")).id)).status is TuningStatus.SUCCEEDED


async def test_what_a_gateway_leaves_the_next_goes_on_with(tmp_path: Path) -> None:
    async with benched(tmp_path) as bench:
        job = await bench.create("steps hang")
        await bench.until(job.id, "New checkpoint")
        waiting = await bench.create("done", suffix="second")
        await bench.until(waiting.id, "queued state")
    data = tmp_path / "data" / "tuning" / job.id / "training.jsonl"
    data.write_text(json.dumps({"prompt": "steps done", "completion": "x"}) + "\n")
    async with benched(tmp_path) as bench:
        row = await bench.over(job.id)
        assert row.status is TuningStatus.SUCCEEDED
        messages = await bench.messages(job.id)
        assert sum("training loss" in one for one in messages) == 2
        assert "Fine-tuning job goes on" in messages
        assert (await bench.over(waiting.id)).status is TuningStatus.SUCCEEDED


async def test_what_is_left_of_a_job_that_is_over_is_tidied(tmp_path: Path) -> None:
    async with benched(tmp_path) as bench:
        job = await bench.over((await bench.create("done")).id)
    (tmp_path / "data" / "tuning" / job.id).mkdir()
    async with benched(tmp_path) as bench:
        assert not bench.directory(job.id).exists()
        assert await bench.tuning.get(WHO, job.id) == job


async def test_the_base_is_removed_while_it_trains(bench: Bench) -> None:
    job = await bench.create("steps hang")
    await bench.until(job.id, "New checkpoint")
    version = bench.services.catalog.resolve("m")
    await bench.services.catalog.remove(version.name, version.version)
    assert (await bench.tuning.cancel(WHO, job.id)).status is TuningStatus.CANCELLED
    assert (await bench.services.recorder.get(job.run_id)).cost == 0


async def test_who_may_see_and_end_a_job(bench: Bench) -> None:
    projects = bench.services.access.projects
    await projects.create("climate", pi="pi")
    await projects.put_policy("climate", "*", list(Mode), ["interactive"])
    job = await bench.create("hang")
    stranger = Principal("key_2", "x", frozenset({Mode.TUNE}), "eve", "climate")
    for ask in (bench.tuning.get, bench.tuning.cancel):
        with pytest.raises(NotFound, match="in your projects"):
            await ask(stranger, job.id)
    with pytest.raises(NotAllowed, match="tune"):
        await bench.create("hang", replace(stranger, scopes=frozenset({Mode.QUERY})))


async def test_what_is_refused(bench: Bench, tmp_path: Path) -> None:
    wrong = await bench.file(b"{}\n", purpose="user_data")
    with pytest.raises(ServiceError, match="purpose 'fine-tune'"):
        await bench.tuning.create(WHO, NewJob("m", SOFT, "soft_prompt", DEFAULTS[SOFT], wrong))
    long = NewJob(
        "m", TuningMethod.LORA, "lora", DEFAULTS[TuningMethod.LORA], await bench.file(b"{}\n"), suffix="a" * 64
    )
    version = bench.services.catalog.resolve("m")
    with pytest.raises(ServiceError, match="at most 128"):
        bench.tuning._rooms.results.check_name(replace(version, name="m" * 100), long.suffix, "local")
    async with benched(tmp_path / "other", jobs=0) as closed:
        with pytest.raises(UnsupportedFeature, match=r"tuning\.jobs"):
            await closed.create("done")
