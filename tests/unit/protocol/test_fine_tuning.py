"""Requests for fine-tuning jobs: OpenAI's forms and ours."""

from typing import Any

import pytest

from terascope.core.errors import BadRequest
from terascope.core.tuning import DEFAULTS, OWN_SETTINGS, Hyperparameters, TuningMethod
from terascope.protocol.fine_tuning import FineTuningRequest, method_of
from terascope.protocol.parse import validate


def asked(**fields: Any) -> tuple[TuningMethod, Hyperparameters]:
    return method_of(validate(FineTuningRequest, {"model": "m", "training_file": "f", **fields}))


def test_without_a_method_it_is_lora() -> None:
    assert asked() == (TuningMethod.LORA, DEFAULTS[TuningMethod.LORA])
    old = asked(hyperparameters={"n_epochs": 2, "batch_size": "auto", "learning_rate_multiplier": 0.5})
    assert (old[1].n_epochs, old[1].batch_size, old[1].learning_rate) == (2, 8, 1e-4)


@pytest.mark.parametrize("name", ["supervised", "lora"])
def test_supervised_is_lora(name: str) -> None:
    method, settings = asked(method={"type": name, name: {"hyperparameters": {"rank": 4.0, "n_epochs": "auto"}}})
    assert (method, settings.rank, settings.n_epochs) == (TuningMethod.LORA, 4, 3)


def test_settings_of_the_others() -> None:
    given = {"type": "projector", "projector": {"hyperparameters": {"hidden": [], "activation": "tanh"}}}
    assert asked(method=given)[1].hidden == ()
    method, settings = asked(method={"type": "soft_prompt"})
    assert (method, settings) == (TuningMethod.SOFT_PROMPT, DEFAULTS[TuningMethod.SOFT_PROMPT])


@pytest.mark.parametrize("method", list(TuningMethod))
def test_a_method_shows_its_own_settings_and_reads_them_again(method: TuningMethod) -> None:
    shown = DEFAULTS[method].of(method)
    assert set(OWN_SETTINGS[method]) <= set(shown)
    others = {name for one, names in OWN_SETTINGS.items() if one is not method for name in names}
    assert not others & set(shown)
    assert Hyperparameters.read(shown) == DEFAULTS[method]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"n_epochs": 0}, "n_epochs"),
        ({"n_epochs": "many"}, "n_epochs"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"schedule": "steps"}, "schedule"),
        ({"vectors": 3}, "vectors"),
        ({"held_out_share": 0.6}, "held_out_share"),
        ({"target_modules": []}, "target_modules"),
        ({"learning_rate": 1.0, "learning_rate_multiplier": 1.0}, "not both"),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        asked(method={"type": "lora", "lora": {"hyperparameters": given}})


def test_settings_under_another_method_are_refused() -> None:
    with pytest.raises(BadRequest, match="settings for soft_prompt") as found:
        asked(method={"type": "lora", "soft_prompt": {"hyperparameters": {"vectors": 3}}})
    assert found.value.param == "method.soft_prompt"
