"""Trainers and gateways are killed: jobs go on, nothing is told twice or lost, and the result is the same."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.flow.test_fine_tuning import chat_lines
from tests.flow.tiny import make_model

from terascope.client import Client
from terascope.core.errors import AllocationExhausted
from terascope.fleet.launchers.processes import Process
from terascope.testing.serve import ServeProcess, all_ended, command_line

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SETTINGS: dict[str, Any] = {"n_epochs": 80, "batch_size": 4, "learning_rate": 0.01, "checkpoint_every": 7}
STEPS = 80 * 6
TRAINER = "engines.torch.trainer"


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("killed"))


@pytest.fixture
def gateway(tmp_path: Path, model_dir: Path) -> Iterator[ServeProcess]:
    config = {
        "models": {"tiny": {"source": f"path:{model_dir}"}},
        "tuning": {"threads": 1, "restarts": 2},
    }
    with ServeProcess(tmp_path, config=config) as served:
        yield served.ready()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "lines.jsonl"
    path.write_text(
        "".join(httpx.Request("POST", "http://x", json=one).content.decode() + "\n" for one in chat_lines())
    )
    return path


def begin(gateway: ServeProcess, data: Path, **settings: Any) -> str:
    with Client(gateway.url, gateway.operator["key"]) as client:
        file = client.files.add(data, "fine-tune")
        return client.tuning.create("tiny", file.id, suffix="same", seed=3, hyperparameters={**SETTINGS, **settings}).id


def until(gateway: ServeProcess, job: str, found: Callable[[str], bool]) -> list[str]:
    """Read a job's events as they come, up to one that is `found` or to the job's end; return their messages."""
    url = f"{gateway.url}/v1/fine_tuning/jobs/{job}/events?stream=true"
    told: list[str] = []
    with httpx.stream("GET", url, headers=gateway.headers, timeout=120) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                told.append(line)
            if found(line):
                break
    return told


def died(times: int) -> Callable[[str], bool]:
    """Whether a line tells of the trainer's death number `times`, as lines are read from the first on."""
    deaths = count(1)
    return lambda line: "ended unexpectedly" in line and next(deaths) == times


def finished(gateway: ServeProcess, job: str) -> tuple[Any, list[Any]]:
    """The job when it is over, and all its events, oldest first."""
    until(gateway, job, lambda _: False)
    with Client(gateway.url, gateway.operator["key"]) as client:
        events: list[Any] = []
        page = client.tuning.events(job, limit=100)
        while True:
            events += page.data
            if not page.has_more:
                return client.tuning.get(job), events[::-1]
            page = client.tuning.events(job, limit=100, after=page.data[-1].id)


def trainer(gateway: ServeProcess) -> Process:
    """The trainer, as soon as there is one."""
    while not (alive := [one for one in gateway.children(TRAINER) if "guard.py" not in command_line(one.pid)]):
        time.sleep(0.01)
    return alive[0]


def each_step_once(events: list[Any], steps: int) -> None:
    told = [one.data["step"] for one in events if "train_loss" in one.data and one.type == "metrics"]
    assert told == list(range(1, steps + 1))
    saved = [one.data["step"] for one in events if one.message.startswith("New checkpoint")]
    assert saved == sorted(set(saved))
    assert {*range(7, steps, 7), steps} <= set(saved)  # and one where a trainer was told to end


def test_killed_again_and_again_the_result_is_the_same(gateway: ServeProcess, data: Path) -> None:
    whole, _ = finished(gateway, begin(gateway, data))
    assert whole.status == "succeeded"
    job = begin(gateway, data)
    for times, step in enumerate(("Step 3/", "Step 200/", "Step 330/"), 1):
        until(gateway, job, lambda line, step=step: step in line)  # type: ignore[misc]
        os.kill(trainer(gateway).pid, signal.SIGKILL)
        until(gateway, job, died(times))
    until(gateway, job, lambda line: "Step 420/" in line)
    trainers = gateway.children(TRAINER)
    gateway.stop(signal.SIGKILL)
    all_ended(trainers)
    gateway.start().ready()
    found, events = finished(gateway, job)
    assert (found.status, found.error) == ("succeeded", None)
    each_step_once(events, STEPS)
    assert sum("ended unexpectedly (signal 9)" in one.message for one in events) == 3
    assert found.fine_tuned_model == whole.fine_tuned_model  # its version is the digest of its files
    assert found.trained_tokens == whole.trained_tokens


def test_a_gateway_that_is_stopped_goes_on_after_its_start(gateway: ServeProcess, data: Path) -> None:
    job = begin(gateway, data)
    until(gateway, job, lambda line: "Step 10/" in line)
    assert gateway.stop() == 0
    gateway.start().ready()
    found, events = finished(gateway, job)
    assert found.status == "succeeded"
    assert any(one.message == "Fine-tuning job goes on" for one in events)
    told = [one.data["step"] for one in events if "train_loss" in one.data and one.type == "metrics"]
    assert told == list(range(1, STEPS + 1))
    with Client(gateway.url, gateway.operator["key"]) as client:
        record = client.runs.get(found.run_id)
    assert (record.outcome, record.service_units > 0) == ("completed", True)


def test_a_trainer_that_always_dies_fails_the_job(gateway: ServeProcess, data: Path) -> None:
    job = begin(gateway, data, checkpoint_every=1_000_000)
    for _ in range(3):
        until(gateway, job, lambda line: "Training began" in line or "error" in line)
        alive = trainer(gateway)
        os.kill(alive.pid, signal.SIGKILL)
        all_ended([alive])
    found, _ = finished(gateway, job)
    assert found.status == "failed"
    assert found.error is not None
    assert "ended unexpectedly 3 times in a row (signal 9)" in found.error.message
    with Client(gateway.url, gateway.operator["key"]) as client:
        assert client.runs.get(found.run_id).service_units == 0


def test_a_project_pays_and_is_refused_when_it_cannot(gateway: ServeProcess, data: Path) -> None:
    with Client(gateway.url, gateway.operator["key"]) as client:
        client.projects.create("poor")
        client.projects.allow("poor", "*", ["tune"], ["interactive"])
        client.allocations.grant("poor", 0.000001)
        file = client.files.add(data, "fine-tune", project="poor")
        job = client.tuning.create("tiny", file.id, suffix="poor", project="poor")
        found, _ = finished(gateway, job.id)
        assert found.error is not None
        assert found.error.code == AllocationExhausted.code
        assert "max_steps" in found.error.message
        client.allocations.grant("poor", 5)
        job = client.tuning.create("tiny", file.id, suffix="rich", project="poor", hyperparameters={"n_epochs": 1})
        found, _ = finished(gateway, job.id)
        assert found.status == "succeeded"
        record = client.runs.get(found.run_id)
        left = client.allocations.list("poor").data
        assert sum(one.balance for one in left) == pytest.approx(5.000001 - record.service_units)
        assert sum(one.held for one in left) == 0
