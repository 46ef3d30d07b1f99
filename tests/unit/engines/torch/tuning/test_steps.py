"""The loss against transformers' own, and that filling up, parts and the head apart change nothing."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from terascope.core.errors import BadRequest
from terascope.core.tuning import DEFAULTS, TuningMethod
from terascope.engines.torch.tuning.base import Base, load_base
from terascope.engines.torch.tuning.examples import Example, ExampleReader
from terascope.engines.torch.tuning.job import TuningJob
from terascope.engines.torch.tuning.lines import read_line
from terascope.engines.torch.tuning.steps import batch_of, loss_sum
from terascope.engines.torch.tuning.trainees import Trainee, make_trainee

from .work import chats, signals


def job(method: TuningMethod, **settings: object) -> TuningJob:
    chosen = replace(DEFAULTS[method], **settings)  # type: ignore[arg-type]
    return TuningJob("job", method, "tiny@1", "d" * 64, "", "", settings=chosen)


def examples(base: Base, trainee: Trainee, method: TuningMethod) -> list[Example]:
    lines = signals(4, 0) if method is TuningMethod.PROJECTOR else chats(4)
    lines[0] = {**lines[0], **({"completion": " sine wave"} if "completion" in lines[0] else {})}
    reader = ExampleReader(base, trainee.before, 16)
    return [reader.read(read_line(json.dumps(one).encode(), method)) for one in lines]


def by_formula(base: Base, example: Example, prompt: torch.Tensor | None) -> float:
    """The loss of one row of tokens, alone, from all of the model's logits."""
    embeds = base.embeds(torch.tensor(example.tokens))
    before = 0 if prompt is None else len(prompt)
    whole = embeds if prompt is None else torch.cat([prompt, embeds])
    logits = base.module(inputs_embeds=whole[None]).logits[0]
    places = [place for place, learned in enumerate(example.learned) if learned]
    wanted = torch.tensor([example.tokens[place] for place in places])
    rows = torch.tensor([place + before - 1 for place in places])
    return float(functional.cross_entropy(logits[rows], wanted, reduction="sum").detach())


@pytest.mark.parametrize("method", [TuningMethod.LORA, TuningMethod.SOFT_PROMPT])
def test_the_loss_is_that_of_the_learned_tokens(base: Base, method: TuningMethod) -> None:
    trainee = make_trainee(job(method, vectors=3), base)
    rows = examples(base, trainee, method)
    prompt = trainee.prompt(1)
    wanted = sum(by_formula(base, one, None if prompt is None else prompt[0]) for one in rows)
    found = float(loss_sum(base, trainee, batch_of(rows, base.device)).detach())
    assert found == pytest.approx(wanted, rel=1e-5)
    whole = float(loss_sum(replace(base, parted=False), trainee, batch_of(rows, base.device)).detach())
    assert whole == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("method", list(TuningMethod))
def test_gradients_reach_what_is_trained_and_nothing_else(base: Base, method: TuningMethod) -> None:
    trainee = make_trainee(job(method), base, 16)
    rows = examples(base, trainee, method)
    loss_sum(base, trainee, batch_of(rows, base.device)).backward()  # type: ignore[no-untyped-call]
    trained = dict(trainee.parameters())
    assert trained
    reached = [name for name, one in trained.items() if one.grad is not None and bool(one.grad.any())]
    wanted = [name for name in trained if "lora_A" not in name]  # B is zero yet, so that A cannot matter
    assert sorted(reached) == sorted(wanted)
    mine = {id(one) for one in trained.values()}
    assert all(one.grad is None for one in base.module.parameters() if id(one) not in mine)


@pytest.mark.parametrize("method", list(TuningMethod))
def test_the_seed_says_how_it_begins(load_tiny: Callable[[], Base], method: TuningMethod) -> None:
    def beginning(seed: int) -> list[torch.Tensor]:
        torch.rand(3)
        return list(make_trainee(replace(job(method), seed=seed), load_tiny(), 16).parameters().values())

    first, again, other = beginning(1), beginning(1), beginning(2)
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, other))


def test_a_soft_prompt_can_begin_as_a_text(base: Base) -> None:
    trainee = make_trainee(job(TuningMethod.SOFT_PROMPT, vectors=5, init_text="the dog"), base)
    tokens = base.vocabulary.encode("the dog", special=False)
    wanted = base.embeds(torch.tensor((tokens * 5)[:5]))
    assert torch.equal(trainee.parameters()["prompt"].data, wanted)


def test_layers_that_are_not_there(base: Base) -> None:
    with pytest.raises(BadRequest, match="target_modules") as found:
        make_trainee(job(TuningMethod.LORA, target_modules=("nothing",)), base)
    assert found.value.param == "target_modules"


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens"])
def test_layers_that_could_not_be_served(base: Base, name: str) -> None:
    with pytest.raises(BadRequest, match="target_modules") as found:
        make_trainee(job(TuningMethod.LORA, target_modules=("q_proj", name)), base)
    assert found.value.param == "target_modules"


def test_a_base_that_takes_no_vectors(base: Base) -> None:
    blind = replace(base, takes_vectors=False)
    for method in (TuningMethod.SOFT_PROMPT, TuningMethod.PROJECTOR):
        with pytest.raises(BadRequest, match="takes no vectors"):
            make_trainee(job(method), blind, 16)


def test_an_encoder_cannot_be_tuned(encoder_dir: Path) -> None:
    with pytest.raises(BadRequest, match="makes no text"):
        load_base(TuningJob("job", TuningMethod.LORA, "bert@1", "", str(encoder_dir), ""), lambda _: None)


def test_the_result_names_the_base_and_no_path(base: Base, tmp_path: Path) -> None:
    trainee = make_trainee(replace(job(TuningMethod.LORA), licence="mit", model_dir="/secret/place"), base)
    names = trainee.save(tmp_path, "{}")
    told = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (told["base_model_name_or_path"], told["terascope_base_digest"]) == ("tiny@1", "d" * 64)
    assert "secret" not in "".join((tmp_path / name).read_text(errors="replace") for name in names)
    assert len(load_file(tmp_path / "adapter_model.safetensors")) == 2 * 2 * 7
