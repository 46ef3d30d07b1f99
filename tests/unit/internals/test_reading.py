"""From a request to a plan: what becomes of it, and what is said of what cannot be run."""

import base64
import dataclasses
import pickle
import struct
from typing import Any

import pytest

from terascope.core.errors import BadRequest
from terascope.internals.arrays import Array, DType
from terascope.internals.limits import Limits
from terascope.internals.packing import pack
from terascope.internals.plan import Capture, Format, Generation, Intervention, Message, Patch, Set, Where
from terascope.internals.reading import read_plan
from terascope.internals.reductions import LogitLens, Max, Mean, Norm, Over, TopK, TunedLens
from terascope.internals.sites import Place, Site
from terascope.internals.tokens import ALL_STEPS, PROMPT, AllTokens, LastToken, Positions, Steps, TokenText

from .asking import read, refusal, request
from .shapes import BERT, DEEPSEEK, LLAMA

POST = "blocks.1.residual.post"
SITE = Site(Place.RESIDUAL_POST, 1)


def captures(*operations: dict[str, Any], **fields: Any) -> tuple[Capture, ...]:
    return read(*operations, **fields).row("clean").captures


def test_a_plan_as_people_write_it() -> None:
    plan = read(
        {"capture": "blocks.*.residual.post", "tokens": "last", "reduce": {"logit_lens": 5}},
        {"patch": POST, "in": "clean", "from": "other", "tokens": -1},
        gradient={"of": {"logit": " Paris"}, "with_respect_to": ["embeddings"]},
    )
    clean, other = plan.rows
    assert [one.name for one in clean.captures] == [f"blocks.{layer}.residual.post" for layer in range(4)]
    assert {one.reduction for one in clean.captures} == {LogitLens(5)}
    there = Where(SITE, Positions((-1,)), PROMPT)
    assert clean.interventions == (Intervention(there, Patch("other", there)),)
    assert other.interventions == ()
    assert clean.sources == {"other"}
    assert not other.sources
    assert plan.taken_from("other") == (there,)
    assert clean.gradient == other.gradient is not None
    assert clean.needs_gradient
    assert (plan.format, plan.stream, plan.dry_run, clean.generation) == (Format.JSON, False, False, Generation())


def test_prompts_are_texts_tokens_or_messages() -> None:
    plan = read(prompts=["a", {"tokens": [1, 2]}, {"name": "talk", "messages": [{"role": "user", "content": "Hi"}]}])
    assert [row.name for row in plan.rows] == ["0", "1", "talk"]
    assert plan.row("0").prompt.text == "a"
    assert plan.row("1").prompt.tokens == (1, 2)
    assert plan.row("talk").prompt.messages == (Message("user", "Hi"),)


def test_captures_are_called_by_their_site_or_as_they_are_told() -> None:
    assert [one.name for one in captures({"capture": POST})] == [POST]
    assert [one.name for one in captures({"capture": POST, "name": "here"})] == ["here"]
    several = captures({"capture": ["norm", "logits"], "name": "end"})
    assert [one.name for one in several] == ["end/norm", "end/logits"]
    assert "give one capture a `name`" in refusal({"capture": POST}, {"capture": "blocks.*.residual.post"}).message
    assert refusal({"capture": POST, "name": "gradient"}).param == "operations[0].name"


def test_positions_are_of_the_prompt_and_the_rest_goes_on_in_the_answer() -> None:
    expected: list[tuple[Any, Any, Steps]] = [
        ("all", AllTokens(), ALL_STEPS),
        ("last", LastToken(), ALL_STEPS),
        ({"text": "Paris"}, TokenText("Paris"), ALL_STEPS),
        ([0, -1], Positions((0, -1)), PROMPT),
    ]
    for value, tokens, steps in expected:
        (one,) = captures({"capture": POST, "tokens": value}, max_tokens=4)
        assert (one.where.tokens, one.where.steps) == (tokens, steps)
    (one,) = captures({"capture": POST, "steps": [0, 3]}, max_tokens=4)
    assert one.where.steps == Steps(prompt=True, generated=(3,))


def test_heads_and_units_are_counted_from_0() -> None:
    (one,) = captures({"capture": "blocks.0.attention.q", "heads": [-1, 0], "units": 1})
    assert (one.where.heads, one.where.units) == ((5, 0), (1,))


@pytest.mark.parametrize(
    ("reduce", "expected"),
    [
        ("mean", Mean(Over.TOKENS)),
        ({"mean": "units"}, Mean(Over.UNITS)),
        ("max", Max(Over.TOKENS)),
        ("norm", Norm()),
        ({"top_k": 3}, TopK(3)),
        ({"logit_lens": 50}, LogitLens(50)),
    ],
)
def test_reductions(reduce: Any, expected: object) -> None:
    assert captures({"capture": POST, "reduce": reduce})[0].reduction == expected


def test_a_tuned_lens_has_a_translator_for_each_site() -> None:
    weight = [[[float(site)] * 12] * 12 for site in (1, 2)]
    lens = {"tuned_lens": {"k": 2, "weight": weight, "bias": [[1.0] * 12, [2.0] * 12]}}
    found = captures({"capture": "blocks.0-1.residual.post", "reduce": lens})
    for number, one in enumerate(found, 1):
        assert isinstance(one.reduction, TunedLens)
        assert one.reduction.bias is not None
        assert set(one.reduction.weight.numbers()) == set(one.reduction.bias.numbers()) == {number}


def test_arrays_are_given_by_name_as_numbers_bytes_or_a_file() -> None:
    values = struct.pack("<12f", *range(12))
    file = base64.b64encode(pack({"filed": Array(DType.F32, (12,), values)})).decode()
    said = {"dtype": "F32", "shape": [12], "data": base64.b64encode(values).decode()}
    arrays = {"listed": list(range(12)), "said": said}
    for value in ("listed", "said", "filed", list(range(12)), said):
        plan = read({"set": POST, "value": value}, arrays=arrays, safetensors=file)
        (one,) = plan.rows[0].interventions
        assert isinstance(one.change, Set)
        assert one.change.value.numbers() == list(range(12))


def test_an_operation_is_for_the_prompts_it_names() -> None:
    plan = read({"scale": POST, "by": 0.5, "in": ["other"]}, {"ablate": POST})
    assert [len(row.operations) for row in plan.rows] == [1, 2]
    assert plan.rows[0].operations[0] is plan.rows[1].operations[1]


def test_sites_of_one_kind_share_their_arrays() -> None:
    found = read({"add": "blocks.*.residual.post", "value": [1.0] * 12}).rows[0].interventions
    assert len({id(one.change) for one in found}) == 1


@pytest.mark.parametrize(
    ("operation", "param", "said"),
    [
        ({"capture": "blocks.1.residual.pots"}, "capture", "did you mean `blocks.1.residual.post`"),
        ({"capture": ["norm", "blocks.9.mlp.input"]}, "capture[1]", "layers 0 to 3"),
        ({"capture": POST, "in": "claen"}, "in", "there is no prompt `claen`; did you mean `clean`?"),
        ({"capture": POST, "tokens": "first"}, "tokens", "`first` is not a choice of tokens"),
        ({"capture": POST, "steps": "never"}, "steps", "`never` is not a choice of steps"),
        ({"capture": POST, "steps": "generated"}, "steps", "with `max_tokens` 0 the last step is 0"),
        ({"capture": POST, "steps": [1]}, "steps", "the last step is 0"),
        ({"capture": POST, "tokens": "1:2", "steps": "all"}, "steps", "positions and slices are of the prompt"),
        ({"capture": POST, "heads": 0}, "heads", "has no heads"),
        ({"capture": "blocks.0.attention.k", "heads": 2}, "heads", "there are 0 to 1 (or -2 to -1)"),
        ({"capture": POST, "units": [1, -11]}, "units", "there twice"),
        ({"capture": "module:a:input", "units": -1}, "units", "the width is not known"),
        ({"capture": "blocks.0.attention.probabilities", "units": 1}, "units", "cannot be chosen"),
        ({"capture": POST, "reduce": {"mean": "heads"}}, "reduce", "no heads to reduce over"),
        ({"capture": POST, "reduce": {"top_k": 13}}, "reduce.top_k", "only 12, not 13"),
        ({"capture": POST, "units": [1, 2], "reduce": {"logit_lens": 1}}, "reduce.logit_lens", "leave `units` out"),
        ({"capture": "blocks.0.mlp.neurons", "reduce": {"logit_lens": 1}}, "reduce.logit_lens", "residual stream"),
        ({"capture": POST, "reduce": {"logit_lens": 51}}, "reduce.logit_lens", "only 50"),
        ({"capture": "blocks.0.attention.probabilities", "reduce": {"top_k": 1}}, "reduce", "mean, max or norm"),
        ({"capture": POST, "reduce": {"project": {"directions": [1.0]}}}, "reduce.project.directions", "[any, 12]"),
        (
            {"capture": POST, "reduce": {"project": {"directions": [1.0] * 12, "center": [1.0]}}},
            "reduce.project.center",
            "it must be [12]",
        ),
        (
            {"capture": POST, "reduce": {"tuned_lens": {"k": 1, "weight": [[1.0]]}}},
            "reduce.tuned_lens.weight",
            "it must be [12, 12]",
        ),
        ({"set": POST, "value": [1.0] * 11}, "value", "does not broadcast to [any, 12]"),
        ({"set": POST, "value": [[[1.0] * 12]]}, "value", "does not broadcast"),
        ({"add": POST, "value": "dir"}, "value", "there is no array `dir`"),
        ({"project_out": POST, "directions": [[1.0] * 12, [0.0] * 12]}, "directions", "is zero"),
        ({"clamp": POST}, "min", "needs `min`, `max` or both"),
        ({"clamp": POST, "min": 2.0, "max": 1.0}, "min", "`min` is 2, above `max`, 1"),
        ({"ablate": POST, "with": "resample"}, "from", '"resample" needs `from`'),
        ({"ablate": POST, "from": "other"}, "from", 'goes with "resample"'),
        ({"ablate": "blocks.0.attention.probabilities", "with": "mean"}, "", "no mean over tokens"),
        ({"patch": POST, "from": "third"}, "from", "there is no prompt `third`"),
        ({"patch": POST, "from": "other", "steps": "all"}, "steps", "acts in the prompt"),
        ({"patch": POST, "from": "other", "from_site": "blocks.*.mlp.input"}, "from_site", "this is 4"),
        ({"patch": POST, "from": "other", "from_site": "logits"}, "from_site", "[tokens, 12]"),
        ({"patch": "blocks.0.attention.q", "from": "other", "from_heads": 0}, "from_heads", "[tokens, 1, 2]"),
        ({"patch": "blocks.0.attention.q", "from": "other", "from_heads": 6}, "from_heads", "there is no 6"),
    ],
    ids=repr,
)
def test_what_does_not_fit_is_refused_by_its_field(operation: dict[str, Any], param: str, said: str) -> None:
    error = refusal(operation)
    assert error.param == f"operations[0].{param}".rstrip(".")
    assert said in error.message


def test_what_a_router_chose_can_only_be_read() -> None:
    experts = "blocks.1.router.experts"
    assert "can be read, not written" in refusal({"set": experts, "value": 1.0}, shape=DEEPSEEK).message
    assert "cannot be reduced" in refusal({"capture": experts, "reduce": "mean"}, shape=DEEPSEEK).message


def test_patches_may_come_from_elsewhere() -> None:
    operation = {"patch": "blocks.0.attention.q", "in": "clean", "from": "other", "heads": [0], "tokens": "1:3"}
    plan = read(operation | {"from_site": "blocks.2.attention.heads", "from_heads": -1, "from_tokens": "last"})
    (one,) = plan.rows[0].interventions
    assert isinstance(one.change, Patch)
    assert one.change.where == Where(Site(Place.ATTENTION_HEADS, 2), LastToken(), PROMPT, (5,), None)


def test_resampling_is_a_patch_from_the_same_tokens() -> None:
    (one,) = read({"ablate": POST, "with": "resample", "from": "other", "tokens": [1]}).rows[0].interventions
    assert one.change == Patch("other", one.where)


def test_rows_that_wait_for_each_other_are_refused() -> None:
    forth, back = ({"patch": POST, "in": one, "from": other} for one, other in (("clean", "other"), ("other", "clean")))
    assert "wait for each other" in refusal(forth, back).message
    assert "takes from itself" in refusal(forth | {"from": "clean"}).message


AUTOENCODER = {"encoder": [[1.0] * 7] * 12, "encoder_bias": [0.0] * 7, "decoder": [[1.0] * 12] * 7}


@pytest.mark.parametrize(
    ("autoencoder", "fields", "param", "said"),
    [
        ({}, {}, "to", "exactly one of `to`, `plus` and `times`"),
        ({}, {"to": 1.0, "plus": 1.0}, "to", "exactly one"),
        ({}, {"to": 1.0, "feature": 7}, "feature", "there are 0 to 6"),
        ({"decoder": None}, {"to": 1.0}, "autoencoder.decoder", "with a `decoder`"),
        ({"encoder": [[1.0]] * 11}, {"to": 1.0}, "autoencoder.encoder", "it must be [12, any]"),
        ({"encoder_bias": [1.0]}, {"to": 1.0}, "autoencoder.encoder_bias", "it must be [7]"),
        ({"decoder": [[1.0] * 7] * 12}, {"to": 1.0}, "autoencoder.decoder", "it must be [7, 12]"),
        ({"activation": "jump_relu"}, {"to": 1.0}, "autoencoder", "`threshold`"),
        ({"activation": "top_k"}, {"to": 1.0}, "autoencoder", "`k`"),
    ],
)
def test_autoencoders_must_fit(autoencoder: Any, fields: Any, param: str, said: str) -> None:
    operation = {"edit_feature": POST, "autoencoder": AUTOENCODER | autoencoder, "feature": 0} | fields
    error = refusal(operation)
    assert error.param == f"operations[0].{param}"
    assert said in error.message


def test_an_autoencoder_that_fits_encodes_and_edits() -> None:
    edit = {"edit_feature": POST, "autoencoder": AUTOENCODER, "feature": 6, "times": 0.0}
    encode = {"capture": "norm", "reduce": {"encode": {"autoencoder": AUTOENCODER, "k": 7}}}
    assert len(read(edit, encode).rows[0].operations) == 2
    too_many = {"capture": "norm", "reduce": {"encode": {"autoencoder": AUTOENCODER, "k": 8}}}
    assert refusal(too_many).param == "operations[0].reduce.encode.k"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(("dtype", "code"), [("F32", "<f"), ("F64", "<d"), ("F16", "<e")])
def test_numbers_that_are_none_are_refused(bad: float, dtype: str, code: str) -> None:
    data = base64.b64encode(struct.pack(code, bad)).decode()
    error = refusal(arrays={"steer": {"dtype": dtype, "shape": [1], "data": data}})
    assert error.param == "arrays.steer"
    assert "NaN or infinite" in error.message


@pytest.mark.parametrize(
    ("array", "said"),
    [
        ({"dtype": "I32", "shape": [1], "data": "AAAAAA=="}, "send floats"),
        ({"dtype": "F32", "shape": [0], "data": ""}, "no element"),
        ({"dtype": "F32", "shape": [2], "data": "AAAAAA=="}, "asks for others"),
    ],
)
def test_other_arrays_are_refused(array: dict[str, Any], said: str) -> None:
    assert said in refusal(arrays={"a": array}).message


def test_a_pickle_is_no_file_of_arrays() -> None:
    error = refusal(safetensors=base64.b64encode(pickle.dumps({"a": [1.0]})).decode())
    assert (error.param, "not a safetensors file" in error.message) == ("safetensors", True)
    assert refusal(safetensors="*").param == "safetensors"


@pytest.mark.parametrize(
    ("prompts", "param"),
    [
        ([{"name": "a", "text": "x"}, {"name": "a", "text": "y"}], "prompts[1].name"),
        (["x", {"name": "0", "text": "y"}], "prompts[1].name"),
        ([{"tokens": [1, 50]}], "prompts[0].tokens"),
    ],
)
def test_prompts_that_cannot_be(prompts: list[Any], param: str) -> None:
    assert refusal(prompts=prompts).param == param


def test_an_encoder_writes_nothing() -> None:
    assert refusal(shape=BERT, max_tokens=1).param == "max_tokens"
    assert read({"capture": "blocks.*.residual.post"}, shape=BERT).rows[0].captures


def test_plans_without_end_are_refused_before_they_are_made() -> None:
    with pytest.raises(BadRequest, match="8 operations, and 7 are allowed") as caught:
        read_plan(request(operations=[{"capture": "blocks.*.mlp.input"}]), LLAMA, Limits(operations=7))
    assert caught.value.param == "operations"
    with pytest.raises(BadRequest, match="2 prompts, and 1 are allowed"):
        read_plan(request(operations=[{"capture": "norm"}]), LLAMA, Limits(prompts=1))


def test_paths_of_modules_are_checked_where_they_are_known() -> None:
    shape = dataclasses.replace(LLAMA, modules={"lm_head": (12, 50)})
    assert captures({"capture": "module:lm_head:input", "units": -1}, shape=shape)[0].where.units == (11,)
    assert (
        "no module `lm_hed`; did you mean `lm_head`?"
        in refusal({"capture": "module:lm_hed:input"}, shape=shape).message
    )
