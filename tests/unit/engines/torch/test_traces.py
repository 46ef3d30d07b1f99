"""`POST /v1/traces` over a socket."""

import asyncio
import base64
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from transformers import BertModel

from terascope.engines.torch.encoder import Encoder, load_encoder
from terascope.engines.torch.model import CausalModel
from terascope.engines.torch.respond import Generator
from terascope.engines.torch.settings import WorkerSettings
from terascope.engines.torch.tracing.route import Traces
from terascope.internals.limits import Cost
from terascope.protocol.trace_results import TraceResult, TraceRowEvent

from .conftest import NAN_TOKEN, Client
from .plans import prompt_of, where
from .reference import Interpreter, Llama

KINDS = {"F32": "<f4", "I32": "<i4", "F16": "<f2"}


def array(value: Any) -> Any:
    found = np.frombuffer(base64.b64decode(value["data"]), KINDS[value["dtype"]])
    return found.reshape(value["shape"])


def named(*prompts: Any) -> list[dict[str, Any]]:
    return [{"name": name, "tokens": tokens} for name, tokens in zip("abcdefgh", prompts, strict=False)]


async def trace(client: Client, *prompts: Any, **body: Any) -> Any:
    return await client.ask("v1/traces", prompts=named(*prompts), **body)


def seen(llama: Llama, tokens: list[int], site: str) -> Any:
    found: dict[str, Any] = {}
    llama(tokens, lambda name, x: found.setdefault(name, x))
    return found[site].numpy()


async def test_captures_of_several_prompts(client: Client, llama: Llama) -> None:
    first, second = prompt_of(1, 9), prompt_of(2, 30)
    capture = {"capture": ["blocks.*.residual.post", "logits"], "tokens": [-1, 2]}
    answer = await trace(client, first, second, operations=[capture])
    TraceResult.model_validate(answer)
    assert [row["name"] for row in answer["rows"]] == ["a", "b"]
    for row, tokens in zip(answer["rows"], (first, second), strict=True):
        assert (row["tokens"], row["text"], row["finish_reason"]) == (tokens, "", "length")
        assert len(row["pieces"]) == len(tokens)
        for site in ("blocks.0.residual.post", "blocks.1.residual.post", "logits"):
            np.testing.assert_allclose(array(row["arrays"][site]), seen(llama, tokens, site)[[-1, 2]], atol=2e-3)
    size = 2 * 2 * (64 + 64 + 418) * 4
    usage = {"prompt_tokens": 39, "completion_tokens": 0, "total_tokens": 39, "gradient_tokens": 0}
    assert answer["usage"] == usage | {"captured_bytes": size}


async def test_a_patch_is_what_the_other_prompt_has_after_its_own_operations(
    client: Client, llama: Llama, tiny: CausalModel
) -> None:
    first, second = prompt_of(1, 12), prompt_of(2, 12)
    site = "blocks.0.residual.post"
    operations = [
        {"scale": site, "by": 2.0, "tokens": "last", "in": "b"},
        {"patch": site, "from": "b", "in": "a", "tokens": [3, -1], "from_tokens": [4, -1]},
        {"capture": "logits", "tokens": "last", "name": "out"},
    ]
    answer = await trace(client, first, second, operations=operations, max_tokens=3)
    given = seen(llama, second, site)
    given[-1] *= 2

    def patched(name: str, x: torch.Tensor) -> torch.Tensor:
        if name == site:
            x = x.clone()
            x[3], x[11] = torch.tensor(given[4]), torch.tensor(given[11])
        return x

    right = llama(first, patched)[-1]
    row = answer["rows"][0]
    np.testing.assert_allclose(array(row["arrays"]["out"])[0], right, atol=2e-3)
    assert row["output_tokens"][0] == int(right.argmax())
    assert len(array(row["arrays"]["out"])) == 3


async def test_text_and_steps_in_an_answer(client: Client, llama: Llama, tiny: CausalModel) -> None:
    """What is changed where an answer says something, changes it from there on."""
    from terascope.internals.plan import Capture, Intervention, Scale

    from .plans import trace as plan_of

    prompt = prompt_of(4, 10)
    plain = (await trace(client, prompt, max_tokens=8, ignore_eos=True))["rows"][0]
    word = tiny.vocabulary.table.text_bytes(plain["output_tokens"][2]).decode()
    operations = [
        {"scale": "blocks.1.mlp.output", "by": -3.0, "tokens": {"text": word}, "steps": "generated"},
        {"capture": "blocks.1.mlp.output", "tokens": "all", "steps": [1, 4], "name": "seen"},
    ]
    row = (await trace(client, prompt, operations=operations, max_tokens=8, ignore_eos=True))["rows"][0]
    right = Interpreter(
        llama,
        plan_of(
            Intervention(where("blocks.1.mlp.output", {"text": word}, "generated"), Scale(-3.0)),
            Capture("seen", where("blocks.1.mlp.output", "all", [1, 4])),
            most=8,
        ),
        prompt,
        tiny.vocabulary.table,
    ).run()
    assert row["output_tokens"] == right.tokens != plain["output_tokens"]
    assert row["output_tokens"][:3] == plain["output_tokens"][:3]
    np.testing.assert_allclose(array(row["arrays"]["seen"]), right.captured["seen"], atol=3e-3, rtol=1e-3)


async def test_messages_texts_and_sampling(client: Client) -> None:
    body = {
        "prompts": ["the quick brown", {"name": "chat", "messages": [{"role": "user", "content": "hello"}]}],
        "operations": [{"capture": "norm", "tokens": "last", "reduce": "norm"}],
        "max_tokens": 5,
        "temperature": 1.0,
        "seed": 7,
        "ignore_eos": True,
    }
    first, second = [await client.ask("v1/traces", **body) for _ in range(2)]
    assert first["rows"] == second["rows"]
    assert [len(row["output_tokens"]) for row in first["rows"]] == [5, 5]
    completion = await client.ask(
        "v1/completions", prompt="the quick brown", max_tokens=5, temperature=1.0, seed=7, ignore_eos=True
    )
    assert first["rows"][0]["text"] == completion["choices"][0]["text"]


async def test_gradients_over_the_wire(client: Client, llama: Llama) -> None:
    prompt = prompt_of(3, 12)
    gradient = {"of": {"logit": 7, "minus": 9}, "with_respect_to": ["blocks.0.residual.post"]}
    rows = (await trace(client, prompt, prompt_of(4, 5), gradient=gradient))["rows"]
    held: list[torch.Tensor] = []

    def see(name: str, x: torch.Tensor) -> torch.Tensor:
        if name == "blocks.0.residual.post":
            held.append(x.detach().requires_grad_())
            return held[0]
        return x

    logits = llama(prompt, see)[-1]
    value = logits[7] - logits[9]
    (right,) = torch.autograd.grad(value, held)
    arrays = rows[0]["arrays"]
    assert float(array(arrays["gradient/value"])) == pytest.approx(float(value.detach()), abs=1e-3)
    np.testing.assert_allclose(array(arrays["gradient/blocks.0.residual.post"]), right, atol=2e-3)


@pytest.mark.parametrize("method", ["attribution_patching", "integrated_gradients", "direct_logit"])
async def test_attributions_over_the_wire(client: Client, method: str) -> None:
    gradient: dict[str, Any] = {"of": {"logit": 7}, "with_respect_to": ["blocks.*.mlp.output"], "method": method}
    gradient |= {} if method == "direct_logit" else {"from": "b"}
    gradient |= {"steps": 3} if method == "integrated_gradients" else {}
    answer = await trace(client, prompt_of(1, 10), prompt_of(2, 10), gradient=gradient)
    assert "arrays" in answer["rows"][0], answer["rows"][0].get("error")
    assert array(answer["rows"][0]["arrays"]["gradient/blocks.1.mlp.output"]).shape == (10,)
    passes = {"direct_logit": 0, "attribution_patching": 1, "integrated_gradients": 6}[method]
    assert answer["usage"]["gradient_tokens"] == passes * 10


async def raw(client: Client, **body: Any) -> tuple[int, bytes, dict[str, str]]:
    async with client.session.post("http://engine/v1/traces", json={"model": "tiny", **body}) as got:
        return got.status, await got.read(), {name.lower(): value for name, value in got.headers.items()}


PLAN = {"operations": [{"capture": "blocks.*.residual.post", "name": "x"}], "dtype": "F16"}


async def test_a_file_has_what_json_has(client: Client) -> None:
    prompts = named(prompt_of(1, 9), prompt_of(2, 20))
    status, data, headers = await raw(client, prompts=prompts, format="safetensors", max_tokens=2, **PLAN)
    assert (status, int(headers["content-length"])) == (200, len(data))
    arrays = safetensors.numpy.load(data)
    answer = await client.ask("v1/traces", prompts=prompts, max_tokens=2, **PLAN)
    for row in answer["rows"]:
        for name, value in row["arrays"].items():
            assert np.array_equal(arrays.pop(f"{row['name']}/{name}"), array(value))
    assert not arrays
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    assert json.loads(metadata["axes"])["a/x/blocks.0.residual.post"] == ["token", "channel"]
    rows = [{key: value for key, value in row.items() if key != "arrays"} for row in answer["rows"]]
    assert json.loads(metadata["rows"]) == rows
    assert json.loads(headers["x-terascope-usage"]) == answer["usage"] == json.loads(metadata["usage"])


@pytest.fixture
async def flowing(tiny: CausalModel, start: Callable[..., Any]) -> Client:
    """A server that sends files while they are made, however small they are."""
    client: Client = await start(tiny)
    served = client.server.shell.served
    assert isinstance(served, Generator)
    assert served._traces is not None
    served._traces = Traces("tiny", served._traces._tools, kept_bytes=0)
    return client


async def test_a_file_sent_while_it_is_made(flowing: Client) -> None:
    prompts = [{"name": str(n), "tokens": prompt_of(n, 5 + n)} for n in range(90)]
    status, data, headers = await raw(flowing, prompts=prompts, format="safetensors", **PLAN)
    assert (status, int(headers["content-length"])) == (200, len(data))
    arrays = safetensors.numpy.load(data)
    assert bytes(arrays.pop("errors")).decode().strip() == "{}"
    answer = await flowing.ask("v1/traces", prompts=prompts, **PLAN)
    for row in answer["rows"]:
        for name, value in row["arrays"].items():
            np.testing.assert_allclose(arrays.pop(f"{row['name']}/{name}"), array(value), atol=0.02, rtol=0.02)
    assert not arrays


async def test_a_row_that_fails_in_a_file_that_has_begun(flowing: Client) -> None:
    operations = [*PLAN["operations"], {"scale": "blocks.0.mlp.output", "by": 1e38, "in": "b"}]
    body = {"prompts": named(prompt_of(1, 9), prompt_of(2, 9)), "operations": operations, "format": "safetensors"}
    status, data, _ = await raw(flowing, **body)
    arrays = safetensors.numpy.load(data)
    assert status == 200
    assert np.isfinite(arrays["a/x/blocks.1.residual.post"]).all()
    assert np.isnan(arrays["b/x/blocks.1.residual.post"]).all()
    failed = json.loads(bytes(arrays["errors"]))
    assert list(failed) == ["b"]
    assert "infinite" in failed["b"]


async def test_rows_as_events(client: Client) -> None:
    prompts = named(prompt_of(1, 9), prompt_of(2, 20))
    events = await client.events("v1/traces", prompts=prompts, max_tokens=3, **PLAN)
    assert events.pop() == "[DONE]"
    whole = await client.ask("v1/traces", prompts=prompts, max_tokens=3, **PLAN)
    assert events.pop()["usage"] == whole["usage"]
    for one, row in zip(events, whole["rows"], strict=True):
        TraceRowEvent.model_validate(one)
        assert one["object"] == "trace.row"
        assert one["row"] == row
    assert [one["usage"]["completion_tokens"] for one in events] == [3, 6]
    assert events[1]["usage"] == whole["usage"]


async def test_a_row_that_fails_among_events(client: Client) -> None:
    """Its error is the row's: at the top of the event it would be one of the whole stream."""
    operations = [{"scale": "blocks.0.mlp.output", "by": 1e38, "in": "a"}, *PLAN["operations"]]
    body = {"prompts": named(prompt_of(1, 9), prompt_of(2, 9)), "operations": operations}
    events = await client.events("v1/traces", **body)
    assert events[-1] == "[DONE]"
    assert not any("error" in one for one in events[:-1])
    failed, fine = events[0]["row"], events[1]["row"]
    assert (failed["name"], failed["error"]["code"]) == ("a", "engine_nan")
    assert (fine["name"], "error" in fine) == ("b", False)
    assert np.isfinite(array(fine["arrays"]["x/blocks.1.residual.post"])).all()


async def test_what_makes_numbers_infinite_harms_nobody_else(client: Client) -> None:
    tokens = prompt_of(1, 20)
    capture = {"capture": "blocks.1.residual.post", "name": "x"}
    alone = await trace(client, tokens, operations=[capture], max_tokens=4)
    bad = [
        {"scale": "blocks.0.residual.post", "by": 1e39, "in": "b", "tokens": [2]},
        {"scale": "blocks.0.mlp.input", "by": 1e30, "in": "d", "tokens": [-1]},  # finite itself, but not what follows
        capture,
    ]
    many, plain = await asyncio.gather(
        trace(client, tokens, tokens, tokens, tokens, operations=bad, max_tokens=4),
        client.text(tokens, max_tokens=4, temperature=0),
    )
    for row in many["rows"]:
        if row["name"] in "bd":
            assert row["error"]["code"] == "engine_nan"
            assert "`blocks.0." in row["error"]["message"]
            assert row.get("arrays", {}) == {}
        else:
            np.testing.assert_allclose(
                array(row["arrays"]["x"]), array(alone["rows"][0]["arrays"]["x"]), atol=1e-4, rtol=1e-4
            )
            assert row["text"] == alone["rows"][0]["text"] == plain


async def test_a_model_that_is_broken_itself(broken_tiny: CausalModel, start: Callable[..., Any]) -> None:
    client: Client = await start(broken_tiny)
    body = {"model": "tiny", "prompts": named([NAN_TOKEN, 3]), "operations": []}
    status, answer, _ = await client.post("v1/traces", body)
    assert (status, answer["error"]["code"]) == (500, "engine_nan")
    assert "after the changes" not in answer["error"]["message"]


async def test_who_takes_from_a_prompt_that_failed(client: Client) -> None:
    operations = [
        {"scale": "blocks.0.residual.post", "by": 1e38, "in": "a"},
        {"patch": "blocks.0.residual.post", "from": "a", "in": "b"},
    ]
    answer = await trace(client, prompt_of(1, 5), prompt_of(2, 5), prompt_of(3, 5), operations=operations)
    codes = [(row.get("error") or {}).get("code") for row in answer["rows"]]
    assert codes == ["engine_nan", "invalid_request", None]
    assert "`a`" in answer["rows"][1]["error"]["message"]


async def test_how_long_it_will_take(client: Client) -> None:
    """Known from what was seen, and only then."""
    backward = {"of": {"logit": 7}, "with_respect_to": ["norm"]}
    before = await trace(client, prompt_of(1, 10), dry_run=True, **PLAN)
    assert before["estimate"]["seconds"] is None
    await trace(client, prompt_of(1, 10), max_tokens=5, ignore_eos=True, gradient=backward, **PLAN)
    pace = client.server.loop.pace
    one, two, answer, back = [
        (await trace(client, prompt_of(1, 10), *more, dry_run=True, **PLAN, **fields))["estimate"]["seconds"]
        for more, fields in (
            ((), {}),
            ((prompt_of(2, 10),), {}),
            ((), {"max_tokens": 5}),
            ((), {"gradient": backward}),
        )
    ]
    assert 0 < one < answer < 60
    assert two == pytest.approx(2 * one)
    assert back > one
    assert pace.seconds(Cost(gradient_tokens=10)) == pytest.approx(back - one)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"captured_bytes": 2559}, "2,560 captured bytes, and 2,559 are allowed; capture fewer"),
        ({"prompts": 0}, "0"),
        ({"prompt_tokens": 9}, "10 prompt tokens, and 9 are allowed"),
        ({"operations": 1}, "1"),
        ({"memory_bytes": 100}, "memory bytes, and 100 are allowed"),
    ],
)
async def test_the_gateways_limits_are_kept(client: Client, limits: dict[str, int], words: str) -> None:
    body = {"model": "tiny", "prompts": named(prompt_of(1, 10)), **PLAN, "dry_run": True}
    told = {"X-Terascope-Trace-Limits": json.dumps(limits)}
    status, answer, _ = await client.post("v1/traces", body, headers=told)
    assert (status, answer["error"]["code"]) == (400, "invalid_request")
    assert words in answer["error"]["message"]
    assert answer["error"]["param"]


async def test_what_is_kept_as_a_whole_needs_the_memory(client: Client) -> None:
    """JSON is there three times before it goes out; what flows or streams is there a row at a time."""
    prompts = [{"tokens": prompt_of(n, 60)} for n in range(20)]
    size = 20 * 60 * 2 * 64 * 2
    kinds: dict[str, dict[str, Any]] = {"json": {}, "events": {"stream": True}, "file": {"format": "safetensors"}}
    needs = {
        name: (await client.ask("v1/traces", prompts=prompts, dry_run=True, **PLAN, **fields))["estimate"]
        for name, fields in kinds.items()
    }
    assert {one["captured_bytes"] for one in needs.values()} == {size}
    assert needs["events"]["memory_bytes"] == size // 20
    assert needs["file"]["memory_bytes"] == size // 20 + size
    assert needs["json"]["memory_bytes"] >= size // 20 + 3 * size


async def test_the_cost_without_the_work(client: Client) -> None:
    answer = await trace(client, prompt_of(1, 10), dry_run=True, **PLAN)
    assert answer["estimate"]["captured_bytes"] == 2 * 10 * 64 * 2
    assert answer["estimate"]["prompt_tokens"] == 10
    assert "rows" not in answer


def data_of(values: list[float]) -> dict[str, Any]:
    """An array as bytes."""
    data = np.asarray(values, "<f4").tobytes()
    return {"dtype": "F32", "shape": [len(values)], "data": base64.b64encode(data).decode()}


def file_of(**arrays: list[float]) -> str:
    """A safetensors file in base64."""
    made = safetensors.numpy.save({name: np.asarray(values, "<f4") for name, values in arrays.items()})
    return base64.b64encode(made).decode()


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "site": ({"operations": [{"capture": "blocks.0.residul.post"}]}, "operations[0].capture", "residual.post"),
    "layer": ({"operations": [{"capture": "blocks.7.residual.post"}]}, "operations[0].capture", "layers 0 to 1"),
    "token": ({"operations": [{"capture": "norm", "tokens": 9}]}, "", "tokens 0 to 3"),
    "width": ({"operations": [{"add": "norm", "value": [1, 2]}]}, "operations[0].value", "[2]"),
    "field": ({"operation": []}, "", "operations"),
    "length": ({"max_tokens": 600}, "prompts[0]", "maximum context length"),
    "word": ({"gradient": {"of": {"logit": "two words"}, "with_respect_to": ["norm"]}}, "gradient.of", "tokens ("),
    "cycle": (
        {"operations": [{"patch": "norm", "from": "a", "in": "a"}]},
        "operations",
        "takes from itself",
    ),
    "circle": (
        {
            "prompts": named([5, 6], [7, 8]),
            "operations": [
                {"patch": "blocks.0.residual.post", "from": "a", "in": "b"},
                {"patch": "blocks.1.residual.post", "from": "b", "in": "a"},
            ],
        },
        "operations",
        "wait for each other",
    ),
    "nan": ({"operations": [{"add": "norm", "value": data_of([float("nan")] * 64)}]}, "operations[0].value", "finite"),
    "infinite": (
        {"operations": [{"set": "norm", "value": "v"}], "safetensors": file_of(v=[float("inf")] * 64)},
        "safetensors",
        "finite",
    ),
    "large": ({"operations": [{"add": "norm", "value": [1e39] * 64}]}, "operations[0].value", "not finite"),
    "tokens": ({"prompts": [{"tokens": [5] * 300_000}]}, "prompts[0]", "maximum context length"),
    "text": ({"prompts": ["word " * 190_000]}, "prompts[0]", "maximum context length"),
    "bytes": (
        {"prompts": [{"tokens": [5] * 500}] * 600, "operations": [{"capture": "blocks.*.attention.probabilities"}]},
        "operations",
        "memory bytes",
    ),
    "file": ({"safetensors": base64.b64encode(b"\x80\x04]q\x00.").decode()}, "safetensors", "not a safetensors file"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_refused(client: Client, name: str) -> None:
    body, param, words = REFUSED[name]
    error = await client.refused("v1/traces", **({"prompts": named([5, 6, 7, 8])} | body))
    assert words in error["message"]
    assert (error["param"] or "").startswith(param)


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


async def test_nothing_is_ever_unpickled(client: Client, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb"
    pickle.loads(pickle.dumps(Hostile(bomb)))  # noqa: S301 - it is our own: it shows that it would go off
    bomb.unlink()
    checkpoint = io.BytesIO()
    torch.save(Hostile(bomb), checkpoint)
    for data in (pickle.dumps(Hostile(bomb)), checkpoint.getvalue()):
        text = base64.b64encode(data).decode()
        error = await client.refused("v1/traces", prompts=named([5, 6]), safetensors=text)
        assert error["code"] == "invalid_request"
        value = {"dtype": "U8", "shape": [len(data)], "data": text}
        error = await client.refused(
            "v1/traces", prompts=named([5, 6]), operations=[{"set": "norm", "value": "v"}], arrays={"v": value}
        )
        assert error["code"] == "invalid_request"
    assert not bomb.exists()


@pytest.mark.parametrize("fields", [{"format": "safetensors"}, {"stream": True}])
async def test_a_client_that_leaves_in_the_middle_of_results(flowing: Client, fields: dict[str, Any]) -> None:
    """The work ends, and those who come after find everything as it was."""
    prompts = [{"tokens": prompt_of(n, 400)} for n in range(300)]
    body = {"model": "tiny", "prompts": prompts, **PLAN, **fields}
    async with flowing.session.post("http://engine/v1/traces", json=body) as answer:
        assert await answer.content.readany()
    loop = flowing.server.loop
    steps = 0
    while await loop.between_steps(lambda: len(loop._rows)):
        steps += 1
    assert steps < 150  # all rows would have taken more
    assert (await flowing.ask("v1/traces", prompts=named(prompt_of(1, 9)), **PLAN))["rows"][0].get("error") is None


async def test_a_value_that_does_not_fit_fails_its_row(client: Client) -> None:
    operations = [{"add": "norm", "value": [[0.0] * 64] * 3, "in": "a"}]
    answer = await trace(client, prompt_of(1, 5), prompt_of(2, 5), operations=operations)
    assert "values for 3 tokens, but 5" in answer["rows"][0]["error"]["message"]
    assert answer["rows"][1].get("error") is None


async def test_a_client_that_leaves_ends_the_work(client: Client) -> None:
    body = {
        "model": "tiny",
        "prompts": [{"tokens": prompt_of(n, 30)} for n in range(20)],
        "operations": [{"capture": "blocks.*.residual.post"}],
        "max_tokens": 400,
        "ignore_eos": True,
    }
    task = asyncio.create_task(client.post("v1/traces", body))
    loop = client.server.loop
    while not await loop.between_steps(lambda: len(loop._schedule.running)):
        pass
    task.cancel()
    steps = 0
    while await loop.between_steps(lambda: len(loop._rows)):
        steps += 1
    assert steps < 200  # the answers would have taken more
    assert await client.text("the", max_tokens=1) is not None
    served = client.server.shell.served
    assert isinstance(served, Generator)
    assert served._traces is not None
    assert not served._traces._tools.bench.taps._open


async def test_the_sites_of_a_model(client: Client) -> None:
    answer = await client.ask("v1/traces/sites")
    listed = {one["site"]: one for one in answer["sites"]}
    assert listed["blocks.1.attention.k"]["axes"] == [{"name": "kv_head", "size": 2}, {"name": "channel", "size": 16}]
    assert answer["modules"]["model.layers.0.mlp"] == [64, 64]
    assert (answer["dtype"], answer["shape"]["layers"]) == ("F32", 2)


@pytest.fixture(scope="module")
def encoder(encoder_dir: Any) -> Encoder:
    return load_encoder(WorkerSettings(encoder_dir, "tiny"), lambda _: None)


async def test_encoders_can_be_looked_into(encoder: Encoder, encoder_dir: Any, start: Callable[..., Any]) -> None:
    client: Client = await start(encoder)
    first, second = [2, 5, 6, 7, 8, 3], [2, 9, 3]
    operations = [
        {"scale": "blocks.0.attention.heads", "heads": 1, "by": 0.0, "in": "a"},
        {"capture": ["blocks.*.residual.post", "blocks.*.attention.probabilities", "blocks.1.mlp.neurons"]},
    ]
    gradient = {"of": {"dot": {"site": "blocks.1.residual.post", "direction": [1.0] * 32}}}
    gradient["with_respect_to"] = ["embeddings"]  # type: ignore[assignment]
    rows = (await trace(client, first, second, operations=operations, gradient=gradient))["rows"]
    plain = BertModel.from_pretrained(encoder_dir, attn_implementation="eager").eval()
    held: list[torch.Tensor] = []

    def embedded(_: Any, __: Any, x: torch.Tensor) -> torch.Tensor:
        held[:] = [x.detach().requires_grad_()]
        return held[0]

    def ablated(_: Any, given: tuple[torch.Tensor, ...]) -> Any:
        x = given[0].clone()
        x[..., 8:16] = 0
        return (x, *given[1:])

    plain.embeddings.register_forward_hook(embedded)
    for row, tokens in zip(rows, (first, second), strict=True):
        dense = plain.encoder.layer[0].attention.output.dense
        handle = dense.register_forward_pre_hook(ablated) if row["name"] == "a" else None
        ids = torch.tensor([tokens])
        told = plain(input_ids=ids, output_hidden_states=True, output_attentions=True)
        arrays = row["arrays"]
        for layer in (0, 1):
            found = array(arrays[f"blocks.{layer}.residual.post"])
            np.testing.assert_allclose(found, told.hidden_states[layer + 1][0].detach(), atol=1e-4)
            found = array(arrays[f"blocks.{layer}.attention.probabilities"])
            np.testing.assert_allclose(found, told.attentions[layer][0].transpose(0, 1).detach(), atol=1e-5)
        (right,) = torch.autograd.grad(told.hidden_states[-1][0, -1].sum(), held)
        np.testing.assert_allclose(array(arrays["gradient/embeddings"]), right[0], atol=1e-4)
        if handle is not None:
            handle.remove()


async def test_in_sixteen_bits(half_tiny: CausalModel, start: Callable[..., Any], llama: Llama) -> None:
    """Captures have the model's own type; what is reduced or asked for in 32 bits has those."""
    client: Client = await start(half_tiny)
    prompt = prompt_of(1, 12)
    operations = [
        {"capture": "blocks.1.residual.post", "name": "whole"},
        {"capture": "blocks.1.residual.post", "name": "norm", "reduce": "norm"},
    ]
    gradient = {"of": {"logit": 7}, "with_respect_to": ["blocks.0.residual.post"]}
    row = (await trace(client, prompt, operations=operations, gradient=gradient))["rows"][0]
    kinds = {name: value["dtype"] for name, value in row["arrays"].items()}
    assert kinds.pop("gradient/value") == kinds.pop("norm") == "F32"
    assert set(kinds.values()) == {"BF16"}
    whole = (await trace(client, prompt, operations=operations[:1], dtype="F32"))["rows"][0]["arrays"]["whole"]
    right = seen(llama, prompt, "blocks.1.residual.post")
    assert np.linalg.norm(array(whole) - right) < 0.05 * np.linalg.norm(right)
    np.testing.assert_allclose(array(row["arrays"]["norm"]), np.linalg.norm(array(whole), axis=-1), rtol=1e-3)


@pytest.mark.slow
async def test_what_a_real_model_thinks_of_france(smol: CausalModel, start: Callable[..., Any]) -> None:
    """The lens at the last layer is what the model says, and embeddings of earlier layers know less."""
    client: Client = await start(smol)
    prompt = "The capital of France is"
    lens = {"capture": "blocks.*.residual.post", "name": "x", "tokens": "last", "reduce": {"logit_lens": 3}}
    gradient = {"of": {"log_probability": " Paris"}, "with_respect_to": ["blocks.10.residual.post"]}
    answer = await client.ask("v1/traces", prompts=[prompt], operations=[lens], gradient=gradient)
    arrays = answer["rows"][0]["arrays"]
    told = await client.ask("v1/completions", prompt=prompt, max_tokens=1, temperature=0, logprobs=3)
    last = array(arrays["x/blocks.29.residual.post.log_probabilities"])[0]
    words = told["choices"][0]["logprobs"]["top_logprobs"][0]
    np.testing.assert_allclose(last, sorted(words.values(), reverse=True)[:3], atol=1e-3)
    paris = smol.vocabulary.encode(" Paris", special=False)
    assert array(arrays["x/blocks.29.residual.post.tokens"])[0][0] == paris[0]
    assert array(arrays["x/blocks.2.residual.post.tokens"])[0][0] != paris[0]
    assert float(array(arrays["gradient/value"])) == pytest.approx(float(last[0]), abs=1e-3)
