"""Fine-tuning through the whole gateway with OpenAI's own client: from a file to a result that answers."""

import base64
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai.types import FileObject
from openai.types.fine_tuning import FineTuningJob
from tests.flow.tiny import make_model

from terascope.client import Client
from terascope.core.config import Config, DeploymentConfig, ModelConfig, TuningConfig
from terascope.testing.gateway import Served, running_gateway

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
ANSWERS = {"cat": "CAT", "dog": "DOG", "fox": "FOX", "hen": "HEN"}
SETTINGS: dict[str, Any] = {"n_epochs": 4, "batch_size": 4, "learning_rate": 0.02, "checkpoint_every": 4}
OVER = ("succeeded", "failed", "cancelled")


def chat_lines(count: int = 24) -> list[dict[str, Any]]:
    asked = [*ANSWERS] * count
    return [
        {"messages": [{"role": "user", "content": word}, {"role": "assistant", "content": ANSWERS[word]}]}
        for word in asked[:count]
    ]


def signal_lines(count: int = 24) -> list[dict[str, Any]]:
    chance = np.random.default_rng(0)
    lines = []
    for one in range(count):
        vector = np.sin(np.arange(8)) if one % 2 else np.sign(np.sin(np.arange(8)))
        file = io.BytesIO()
        np.save(file, (vector + chance.normal(0, 0.05, 8)).astype(np.float32)[None], allow_pickle=False)
        packed = base64.b64encode(file.getvalue()).decode()
        lines.append({"prompt_embeds": packed, "completion": "a" if one % 2 else "b"})
    return lines


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("tuned"))


@pytest.fixture(scope="module")
def gateway(model_dir: Path) -> Iterator[Served]:
    config = Config(
        models={"tiny": ModelConfig(source=f"path:{model_dir}")},
        deployments=[
            DeploymentConfig(model="tiny", threads=1, options={"cache_tokens": "4000"}),
            DeploymentConfig(model="echo", engine="echo", launcher="inprocess"),
        ],
        tuning=TuningConfig(threads=1),
    )
    with running_gateway(config) as served:
        yield served


@pytest.fixture(scope="module")
def client(gateway: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as one:
        yield one


@pytest.fixture(scope="module")
def root(gateway: Served) -> Iterator[Client]:
    with Client(gateway.url, gateway.key) as one:
        yield one


def upload(client: openai.OpenAI, lines: list[Any], purpose: Any = "fine-tune") -> FileObject:
    text = "".join(one if isinstance(one, str) else json.dumps(one) + "\n" for one in lines)
    return client.files.create(file=("lines.jsonl", text.encode()), purpose=purpose)


def create(client: openai.OpenAI, lines: list[Any], **more: Any) -> FineTuningJob:
    method = more.pop("method", {"type": "supervised", "supervised": {"hyperparameters": SETTINGS}})
    return client.fine_tuning.jobs.create(
        model=more.pop("model", "tiny"), training_file=upload(client, lines).id, method=method, seed=7, **more
    )


def followed(gateway: Served, job: str) -> list[dict[str, Any]]:
    """Everything that happens to a job until it is over."""
    with httpx.stream(
        "GET", f"{gateway.url}/v1/fine_tuning/jobs/{job}/events?stream=true", headers=gateway.headers, timeout=120
    ) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def finished(client: openai.OpenAI, gateway: Served, job: FineTuningJob) -> FineTuningJob:
    followed(gateway, job.id)
    return client.fine_tuning.jobs.retrieve(job.id)


def test_an_adapter_from_its_data_to_its_answers(client: openai.OpenAI, gateway: Served, root: Client) -> None:
    job = create(client, chat_lines(), suffix="loud", metadata={"why": "a test"})
    assert (job.object, job.status, job.seed, job.metadata) == (
        "fine_tuning.job", "validating_files", 7, {"why": "a test"}
    )  # fmt: skip
    events = followed(gateway, job.id)
    job = client.fine_tuning.jobs.retrieve(job.id)
    assert (job.status, job.error) == ("succeeded", None)
    assert job.fine_tuned_model is not None
    assert job.fine_tuned_model.startswith("tiny:loud@")
    assert job.trained_tokens
    steps = [one for one in events if one["type"] == "metrics" and "train_loss" in one["data"]]
    assert [one["data"]["step"] for one in steps] == list(range(1, 25))
    held_out = [one["data"]["valid_loss"] for one in events if "valid_loss" in one["data"]]
    assert held_out[-1] < held_out[0] / 2
    answer = client.chat.completions.create(
        model="tiny:loud", messages=[{"role": "user", "content": "dog"}], max_tokens=8, temperature=0
    )
    assert answer.choices[0].message.content == "DOG"
    assert answer.model == job.fine_tuned_model
    card = root.catalog.get("tiny:loud")
    assert (card.parent, card.licence, card.owner) == (job.model, "mit", "local")


def test_the_run_record_says_how_it_was_made(client: openai.OpenAI, gateway: Served, root: Client) -> None:
    job = finished(client, gateway, create(client, chat_lines(8), suffix="recorded"))
    extra = job.model_extra
    assert extra is not None
    record = root.runs.get(extra["run_id"])
    assert (record.endpoint, record.outcome, record.model) == ("fine_tuning/jobs", "completed", job.model)
    assert record.parameters["data_digest"] == extra["data_digest"]
    assert record.parameters["hyperparameters"]["n_epochs"] == 4
    assert record.parameters["result"] == job.fine_tuned_model
    price = gateway.services.catalog.resolve("tiny").price.prompt
    assert job.trained_tokens
    tokens = 3 * job.trained_tokens + extra["progress"]["measured_tokens"]
    assert record.service_units == pytest.approx(price * tokens / 1_000_000)


def test_a_soft_prompt(client: openai.OpenAI, gateway: Served) -> None:
    method: Any = {"type": "soft_prompt", "soft_prompt": {"hyperparameters": {**SETTINGS, "vectors": 6}}}
    job = finished(client, gateway, create(client, chat_lines(), suffix="tone", method=method))
    assert job.status == "succeeded"
    assert job.fine_tuned_model is not None
    assert job.fine_tuned_model.startswith("tiny@")
    answer = client.chat.completions.create(
        model=job.fine_tuned_model, messages=[{"role": "user", "content": "hen"}], max_tokens=3
    )
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 6


def test_a_projector(client: openai.OpenAI, gateway: Served) -> None:
    lines = signal_lines(48)
    method: Any = {"type": "projector", "projector": {"hyperparameters": {**SETTINGS, "n_epochs": 20, "hidden": [32]}}}
    job = finished(client, gateway, create(client, lines, suffix="ear", method=method))
    assert (job.status, job.error) == ("succeeded", None)
    named = [
        client.completions.create(
            model="tiny", prompt="", max_tokens=1, temperature=0,
            extra_body={"prompt_embeds": one["prompt_embeds"], "encoder": job.fine_tuned_model},
        ).choices[0].text
        for one in lines[:2]
    ]  # fmt: skip
    assert named == ["b", "a"]


def test_events_checkpoints_and_jobs_come_in_pages(client: openai.OpenAI, gateway: Served) -> None:
    job = create(client, chat_lines(16), suffix="pages")
    every = followed(gateway, job.id)
    listed = list(client.fine_tuning.jobs.list_events(job.id, limit=7))
    assert [one.id for one in listed] == [one["id"] for one in reversed(every)]
    saved = list(client.fine_tuning.jobs.checkpoints.list(job.id, limit=1))
    assert [one.step_number for one in saved] == [16, 12, 8, 4]
    assert saved[0].metrics.full_valid_loss == pytest.approx(
        [one["data"]["valid_loss"] for one in every if "valid_loss" in one["data"]][-1]
    )
    jobs = list(client.fine_tuning.jobs.list(limit=2))
    assert jobs[0].id == job.id
    assert [one.id for one in jobs] == sorted({one.id for one in jobs}, reverse=True)


def test_a_bad_line_is_named(client: openai.OpenAI, gateway: Served) -> None:
    lines = [*(json.dumps(one) + "\n" for one in chat_lines(11)), '{"messages": \n']
    job = finished(client, gateway, create(client, lines))
    assert job.status == "failed"
    assert job.error is not None
    assert (job.error.code, job.error.param) == ("invalid_request", "training_file")
    assert "training_file, line 12: it is not JSON" in job.error.message
    assert not (gateway.data_dir / "tuning" / job.id).exists()


def test_what_only_the_trainer_can_know_is_told_too(client: openai.OpenAI, gateway: Served) -> None:
    long = {"prompt": "a" * 300, "completion": "b"}
    job = finished(client, gateway, create(client, [*chat_lines(3), long]))
    assert job.error is not None
    assert "training_file, line 4: it has 302 tokens" in job.error.message
    method: Any = {"type": "lora", "lora": {"hyperparameters": {"target_modules": ["nothing"]}}}
    job = finished(client, gateway, create(client, chat_lines(3), method=method))
    assert job.error is not None
    assert job.error.param == "target_modules"


@pytest.mark.parametrize(
    ("more", "status", "words"),
    [
        ({"model": "echo"}, 400, "cannot be tuned"),
        ({"model": "nothing"}, 404, "no model"),
        ({"suffix": "a b"}, 400, "suffix"),
        ({"method": {"type": "dpo"}}, 400, "method"),
        ({"method": {"type": "lora", "lora": {"hyperparameters": {"rank": 0}}}}, 400, "rank"),
        ({"method": {"type": "lora", "lora": {"hyperparameters": {"rang": 4}}}}, 400, "rang"),
        ({"method": {"type": "lora", "projector": {}}}, 400, "settings for projector"),
        ({"method": {"type": "lora", "lora": {"hyperparameters": {"learning_rate": 1, "learning_rate_multiplier": 2}}}},
         400, "not both"),
    ],
)  # fmt: skip
def test_what_is_refused_at_once(client: openai.OpenAI, more: dict[str, Any], status: int, words: str) -> None:
    with pytest.raises(openai.APIStatusError, match=words) as found:
        create(client, chat_lines(2), **more)
    assert found.value.status_code == status


def test_files_must_be_there_and_for_it(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no file"):
        client.fine_tuning.jobs.create(model="tiny", training_file="file_none")
    other = upload(client, chat_lines(2), "user_data")
    with pytest.raises(openai.BadRequestError, match="purpose 'fine-tune'"):
        client.fine_tuning.jobs.create(model="tiny", training_file=other.id)


def test_the_command_line(gateway: Served, tmp_path: Path) -> None:
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(one) + "\n" for one in chat_lines(8)))

    def tune(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "terascope", "tune", *words, "--url", gateway.url, "--key", gateway.key]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)

    made = tune(
        "create", "lines.jsonl", "--model", "tiny", "--name", "typed", "--set", "n_epochs=2", "--plot", "loss.png"
    )
    assert made.returncode == 0, made.stderr
    job, *told = made.stdout.splitlines()
    assert any("Step 2/2: training loss=" in line for line in told)
    assert "The job has successfully completed" in told[-1]
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    shown = tune("show", job).stdout
    assert f"id                {job}" in shown
    assert "held-out loss" in shown.splitlines()[-1]
    assert json.loads(tune("events", job, "--json").stdout)[0]["message"] == f"Created fine-tuning job: {job}"
    assert any(line.startswith(job) and "succeeded" in line for line in tune("list").stdout.splitlines())
    assert "any more" in tune("cancel", job).stderr
    (tmp_path / "bad.jsonl").write_text("{}\n")
    failed = tune("create", "bad.jsonl", "--model", "tiny", "--follow")
    assert (failed.returncode, "training_file, line 1: it must be" in failed.stderr) == (1, True)


def test_cancelled_in_every_state(client: openai.OpenAI, gateway: Served) -> None:
    """The first trains, so the second waits; both are cancelled, and a third goes on at once."""
    method: Any = {"type": "lora", "lora": {"hyperparameters": {**SETTINGS, "n_epochs": 1000}}}
    first = create(client, chat_lines(), method=method)
    with httpx.stream(
        "GET", f"{gateway.url}/v1/fine_tuning/jobs/{first.id}/events?stream=true", headers=gateway.headers, timeout=120
    ) as answer:
        assert any("Step 2/" in line for line in answer.iter_lines())
    second = create(client, chat_lines(), method=method)
    third = create(client, chat_lines(4), suffix="third")
    assert client.fine_tuning.jobs.cancel(second.id).status == "cancelled"
    cancelled = client.fine_tuning.jobs.cancel(first.id)
    assert cancelled.status == "cancelled"
    assert cancelled.trained_tokens
    assert finished(client, gateway, third).status == "succeeded"
    for job in (first, second, third):
        with pytest.raises(openai.ConflictError, match="any more"):
            client.fine_tuning.jobs.cancel(job.id)
    assert client.fine_tuning.jobs.retrieve(first.id).status == "cancelled"
    assert list((gateway.data_dir / "tuning").iterdir()) == []
