"""The conformance suite on a real worker, and log-probabilities against transformers."""

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from terascope.core.models import Feature
from terascope.engines.contract import Endpoint
from terascope.engines.upstream import HttpEngine
from terascope.testing.engine_subject import Subject, user
from terascope.testing.engines import ENGINE_CHECKS, EngineCheck

from .conftest import NAME

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
_LACKS = {
    Feature.LOGPROBS, Feature.ECHO, Feature.TOOLS, Feature.ENFORCED_TOOLS, Feature.REPRODUCIBLE, Feature.DIMENSIONS,
    Feature.JSON_SCHEMA,
}  # fmt: skip
_MADE = 'terascope_engine_tokens_total{kind="completion"}'
_PROMPTS = ["The capital of France is", "Once upon a time, in a village by the sea,", "2 + 2 ="]
_SCRIPT = Path(__file__).with_name("logprobs.py")


@pytest.fixture
async def subject(worker: Endpoint) -> AsyncIterator[Subject]:
    engine = HttpEngine(worker, served_name=NAME)
    yield Subject(engine, NAME, await engine.probe())
    await engine.aclose()


@pytest.mark.parametrize("check", ENGINE_CHECKS, ids=lambda one: one.name)
async def test_conformance(check: EngineCheck, subject: Subject) -> None:
    if not check.applies(subject):
        assert check.endpoint == "embeddings" or check.features & _LACKS
        return
    await check.run(subject)


async def test_what_it_says_of_itself(subject: Subject) -> None:
    info = subject.info
    assert (info.engine, info.context_length, info.dtype, info.slots) == ("openvino", 2048, "float32", 32)
    assert dict(info.details)["file"] == "model.gguf"
    await subject.chat("hello", max_tokens=3)
    metrics = await subject.engine.metrics()
    assert _MADE in metrics


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"reproducible": True}, "reproducible"),
        ({"guided_regex": "(("}, "guided_regex"),
        ({"structured_outputs": {"json": {}}}, "structured_outputs"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}}, "response_format"),
    ],
)
async def test_what_it_cannot_do_is_refused(fields: dict[str, object], param: str, subject: Subject) -> None:
    said = await subject.ask("chat/completions", messages=user("x"), **fields)
    assert (said.status, said.error["param"]) == (400, param)


async def test_a_stop_string_ends_the_work(subject: Subject) -> None:
    """The answer ends before it, and what comes after it is not computed."""
    asked = {"prompt": "one two three one two three one two", "temperature": 0, "ignore_eos": True}
    free = (await subject.ask("completions", max_tokens=12, **asked)).good["choices"][0]["text"]
    stop = free[len(free) // 2 :][:6]
    before = await _computed(subject)
    said = (await subject.ask("completions", stop=[stop], max_tokens=1500, **asked)).good
    assert said["choices"][0]["finish_reason"] == "stop"
    assert said["choices"][0]["text"] == free[: free.index(stop)]
    assert said["usage"]["completion_tokens"] <= 12
    await subject.ask("completions", max_tokens=20, **asked)  # steps in which a row that goes on would go on
    assert await _computed(subject) - before < 2 * 20 + 12


async def _computed(subject: Subject) -> float:
    """How many tokens of answers the worker has made."""
    [line] = [one for one in (await subject.engine.metrics()).splitlines() if one.startswith(_MADE)]
    return float(line.split()[-1])


def test_log_probabilities_are_those_of_transformers(smol_gguf: Path, smol_checkpoint: Path) -> None:
    """In a process of its own, where torch is not loaded: those of the first tokens, within 0.05."""
    done = subprocess.run(
        [sys.executable, str(_SCRIPT), str(smol_gguf / "model.gguf"), *_PROMPTS],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("row ")]
    assert len(lines) == len(_PROMPTS)
    model = AutoModelForCausalLM.from_pretrained(smol_checkpoint, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(smol_checkpoint)
    for prompt, (_, *words) in zip(_PROMPTS, lines, strict=True):
        pairs = [word.split(":") for word in words]
        tokens, told = [int(token) for token, _ in pairs], [float(value) for _, value in pairs]
        before = tokenizer(prompt)["input_ids"]
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([before + tokens])).logits[0, len(before) - 1 : -1]
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(tokens)[:, None])[:, 0].tolist()
        assert told == pytest.approx(expected, abs=0.05), prompt
