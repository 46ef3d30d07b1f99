"""What happens inside a real model, asked through the whole gateway."""

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import safetensors.torch
import torch

from terascope.client import AsyncClient, Client
from terascope.client.operations import capture, gradient, scale, set_
from terascope.core.errors import BadRequest, EngineError, EngineNan, NotAllowed
from terascope.core.prices import formula
from terascope.testing.gateway import Served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
MODEL = "smollm2-135m-instruct"
EIFFEL, COLOSSEUM = "The Eiffel Tower is in", "The Colosseum is in"


@pytest.fixture
def client(gateway: Served) -> Iterator[Client]:
    with Client(gateway.url, gateway.key) as one:
        yield one


@pytest.fixture
def http(gateway: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, headers=gateway.headers, timeout=60) as one:
        yield one


def tensor(data: Any) -> torch.Tensor:
    assert data.dtype == "F32"
    return torch.frombuffer(bytearray(base64.b64decode(data.data)), dtype=torch.float32).reshape(data.shape)


def test_the_logits_are_those_that_answers_are_made_of(client: Client, http: httpx.Client) -> None:
    [row] = client.traces.run(MODEL, [EIFFEL], [{"capture": "logits", "tokens": "last"}]).rows
    inside = tensor(row.arrays["logits"])[0].log_softmax(-1)
    asked = {"model": MODEL, "prompt": EIFFEL, "max_tokens": 1, "temperature": 0, "logprobs": 1}
    said = http.post("/v1/completions", json=asked).json()["choices"][0]["logprobs"]
    assert inside.max().item() == pytest.approx(said["token_logprobs"][0], abs=1e-3)


def test_a_patch_carries_what_one_prompt_means_into_another(client: Client) -> None:
    prompts = [{"name": "clean", "text": EIFFEL}, {"name": "other", "text": COLOSSEUM}]
    capture = {"capture": "logits", "tokens": "last"}
    patch = {"patch": "blocks.-1.residual.post", "in": "clean", "from": "other", "tokens": -1}
    alone = {row.name: tensor(row.arrays["logits"]) for row in client.traces.run(MODEL, prompts, [capture]).rows}
    mixed = {row.name: tensor(row.arrays["logits"]) for row in client.traces.run(MODEL, prompts, [patch, capture]).rows}
    assert torch.allclose(mixed["clean"], alone["other"], atol=1e-3)  # after the last block nothing else is left
    assert torch.allclose(mixed["other"], alone["other"], atol=1e-3)
    assert not torch.allclose(alone["clean"], alone["other"], atol=1.0)


def test_a_gradient_is_what_a_small_step_shows(client: Client) -> None:
    wanted = {"of": {"logit": " Paris"}, "with_respect_to": ["blocks.20.residual.post"]}
    [row] = client.traces.run(MODEL, [EIFFEL], gradient=wanted).rows
    gradient = tensor(row.arrays["gradient/blocks.20.residual.post"])[-1]
    step = gradient / gradient.norm() * 0.05
    changed = {"add": "blocks.20.residual.post", "tokens": -1, "value": step.tolist()}
    capture = {"capture": "logits", "tokens": "last"}
    before, after = (
        tensor(client.traces.run(MODEL, [EIFFEL], [*changes, capture]).rows[0].arrays["logits"])[0]
        for changes in ([], [changed])
    )
    token = _token(client, " Paris")
    assert (after - before)[token].item() == pytest.approx(gradient.norm().item() * 0.05, rel=0.1)


def _token(client: Client, text: str) -> int:
    return client.traces.run(MODEL, [text], [{"capture": "norm"}]).rows[0].tokens[-1]


def test_a_file_of_tensors_is_read_by_the_library(http: httpx.Client) -> None:
    plan = {"model": MODEL, "prompts": [EIFFEL, COLOSSEUM], "operations": [{"capture": "blocks.*.residual.post"}]}
    answer = http.post("/v1/traces", json=plan | {"format": "safetensors"})
    found = safetensors.torch.load(answer.content)
    assert len(found) == 60
    assert found["0/blocks.7.residual.post"].shape == (6, 576)
    assert len(answer.content) == int(answer.headers["content-length"])
    size = sum(one.nbytes for one in found.values())
    assert len(answer.content) <= 1.02 * size
    whole = http.post("/v1/traces", json=plan).json()["rows"][0]["arrays"]["blocks.7.residual.post"]
    data = torch.frombuffer(bytearray(base64.b64decode(whole["data"])), dtype=torch.float32).reshape(whole["shape"])
    assert torch.allclose(found["0/blocks.7.residual.post"], data, atol=1e-4)


def test_steering_while_it_answers_and_streams(http: httpx.Client) -> None:
    plan = {"model": MODEL, "prompts": [EIFFEL], "max_tokens": 6, "stream": True}
    steer = {"add": "blocks.3.residual.post", "value": [3.0] * 576, "steps": "all"}
    texts = []
    for operations in ([], [steer]):
        answer = http.post("/v1/traces", json=plan | {"operations": operations})
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.text.rstrip().endswith("data: [DONE]")
        texts.append(answer.text.partition('"text":"')[2].partition('"')[0])
    assert texts[0]
    assert texts[0] != texts[1]


def test_a_prompt_that_fails_in_a_stream_harms_no_other(http: httpx.Client) -> None:
    operations = [
        {"scale": "blocks.3.mlp.output", "by": 1e38, "in": "0"},
        {"capture": "blocks.5.residual.post", "name": "x", "tokens": "last"},
    ]
    plan = {"model": MODEL, "prompts": [EIFFEL, COLOSSEUM], "operations": operations, "stream": True}
    answer = http.post("/v1/traces", json=plan)
    *events, done = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    failed, fine, last = [json.loads(one) for one in events]
    assert done == "[DONE]"
    assert (failed["row"]["name"], failed["row"]["error"]["code"]) == ("0", "engine_nan")
    assert (fine["row"]["name"], list(fine["row"]["arrays"])) == ("1", ["x"])
    assert last["usage"]["captured_bytes"] == 576 * 4
    [run] = http.get("/admin/v1/runs?limit=1").json()["data"]
    assert (run["outcome"], run["prompt_tokens"]) == ("completed", last["usage"]["prompt_tokens"])


def test_what_it_costs(client: Client, http: httpx.Client) -> None:
    capture = [{"capture": "blocks.3.residual.post"}]
    estimate = client.traces.run(MODEL, [EIFFEL], capture, dry_run=True).estimate
    assert estimate is not None
    assert estimate.captured_bytes == 6 * 576 * 4
    client.traces.run(MODEL, [EIFFEL], capture)
    used, dry = http.get("/admin/v1/runs?limit=2").json()["data"]
    assert (dry["endpoint"], dry["service_units"], dry["outcome"]) == ("traces", 0, "completed")
    price = formula(134_515_008)
    assert used["service_units"] == pytest.approx((price.cost(6, 0) + -(-estimate.captured_bytes // 4096)) / 1e6)


def test_who_may_not_look_inside(gateway: Served, client: Client) -> None:
    key = client.keys.create("reader", ["query", "embed"]).key
    with Client(gateway.url, key) as reader, pytest.raises(NotAllowed, match="internals"):
        reader.traces.run(MODEL, [EIFFEL], [{"capture": "logits"}])


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        ({"capture": "blocks.99.residual.post"}, "there is no layer 99"),
        ({"capture": "blocks.3.residual.pots"}, "did you mean"),
        ({"add": "blocks.3.residual.post", "value": [1.0, 2.0]}, "576"),
        ({"scale": "blocks.3.residual.post", "by": 1.0, "tokens": 77}, "77"),
        ({"patch": "blocks.3.residual.post", "from": "0", "in": "0"}, "takes from itself"),
        ({"add": "norm", "value": {"dtype": "F32", "shape": [1], "data": "AADAfw=="}}, "finite"),
    ],
)
def test_what_cannot_be_is_told_with_what_can(client: Client, operation: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest, match=words) as refused:
        client.traces.run(MODEL, [EIFFEL], [operation])
    assert refused.value.code == "invalid_request"


@pytest.mark.parametrize(("count", "words"), [(1, "maximum context length"), (123, "captured bytes, and")])
def test_captures_of_a_million_tokens(http: httpx.Client, count: int, words: str) -> None:
    prompts = [{"tokens": [5] * (1_000_000 if count == 1 else 8192)}] * count
    plan = {"model": MODEL, "prompts": prompts, "operations": [{"capture": "blocks.*.residual.post"}]}
    error = http.post("/v1/traces", json=plan).json()["error"]
    assert re.search(words, error["message"])
    assert (error["type"], bool(error["param"])) == ("invalid_request_error", True)


def test_the_sites_of_a_model(client: Client) -> None:
    found = client.traces.sites(MODEL)
    sites = {one.site: [axis.size for axis in one.axes] for one in found.sites}
    assert sites["blocks.29.attention.heads"] == [9, 64]
    assert sites["logits"] == [49152]


def test_the_sdk_gives_arrays_with_names(client: Client) -> None:
    operations = [
        capture("blocks.*.residual.post", in_="clean"),
        capture("blocks.3.attention.probabilities", name="attention", in_="other"),
    ]
    prompts = {"clean": EIFFEL, "other": COLOSSEUM}
    found = client.trace(MODEL, prompts, operations, gradient=gradient({"loss": "all"}, "embeddings"))
    stream = found["clean"].stack("blocks.*.residual.post")
    assert (stream.axes, stream.shape) == (("layer", "token", "channel"), (30, 6, 576))
    raw = client.traces.run(MODEL, [EIFFEL], [{"capture": "blocks.7.residual.post"}]).rows[0]
    assert torch.allclose(stream.torch()[7], tensor(raw.arrays["blocks.7.residual.post"]), atol=1e-4)
    attention = found["other"]["attention"].xarray()
    assert attention.dims == ("token", "head", "key")
    assert "".join(attention.key_text.values) == COLOSSEUM
    assert attention.sum("key").values == pytest.approx(1.0, abs=1e-5)
    assert found["clean"]["gradient/value"].item() > 0
    assert found.about.usage["prompt_tokens"] == 12


def test_the_sdk_sends_arrays_of_numpy_and_torch_and_of_results(client: Client) -> None:
    """Setting what was captured back into its place changes nothing; half of it does."""
    last = capture("logits", tokens="last")
    before = client.trace(MODEL, EIFFEL, [capture("blocks.9.residual.post", name="x"), last])[0]
    whole = before["x"]
    given = {"own": whole, "torch": whole.torch(), "numpy": whole.numpy(), "half": whole.numpy() / 2}
    sets = [set_("blocks.9.residual.post", value, in_=name) for name, value in given.items()]
    after = client.trace(MODEL, dict.fromkeys(given, EIFFEL), [*sets, last])
    for name in ("own", "torch", "numpy"):
        assert torch.allclose(after[name]["logits"].torch(), before["logits"].torch(), atol=1e-3)
    assert not torch.allclose(after["half"]["logits"].torch(), before["logits"].torch(), atol=1e-1)


def test_the_sdk_reads_16_bits(client: Client) -> None:
    kept = {
        dtype: client.trace(MODEL, EIFFEL, [capture("blocks.3.residual.post")], dtype=dtype)[0][
            "blocks.3.residual.post"
        ]
        for dtype in ("F32", "BF16")
    }
    assert kept["BF16"].torch().dtype is torch.bfloat16
    assert kept["BF16"].numpy("float32") == pytest.approx(kept["F32"].numpy(), rel=2**-7)


def test_the_sdk_streams_prompts_and_one_that_fails_harms_no_other(client: Client) -> None:
    operations = [scale("blocks.3.mlp.output", 1e38, in_="0"), capture("norm", name="x", tokens="last")]
    with client.trace(MODEL, [EIFFEL, COLOSSEUM], operations, stream=True) as prompts:
        failed, fine = prompts
    with pytest.raises(EngineNan):
        failed["x"]
    assert fine["x"].axes == ("token", "channel")
    assert prompts.about.usage["captured_bytes"] == 576 * 4
    whole = client.trace(MODEL, [EIFFEL, COLOSSEUM], operations)
    with pytest.raises(EngineNan):
        whole["0"]["x"]
    assert whole["1"]["x"].numpy() == pytest.approx(fine["x"].numpy(), abs=1e-4)


async def test_the_sdk_can_be_awaited(gateway: Served) -> None:
    async with AsyncClient(gateway.url, gateway.key) as client:
        whole = await client.trace(MODEL, [EIFFEL, COLOSSEUM], [capture("norm")])
        async with client.trace(MODEL, [EIFFEL, COLOSSEUM], [capture("norm")], stream=True) as prompts:
            rows = {row.name: row["norm"].numpy() async for row in prompts}
        estimate = await client.traces.estimate(MODEL, [EIFFEL, COLOSSEUM], [capture("norm")])
    assert {name: one.shape for name, one in rows.items()} == {"0": (6, 576), "1": (6, 576)}
    assert whole["1"]["norm"].numpy() == pytest.approx(rows["1"], abs=1e-3)
    assert estimate.captured_bytes == whole.about.usage["captured_bytes"]


def test_a_file_that_is_sent_while_it_is_made(client: Client) -> None:
    """More than the worker keeps: it flows, and a prompt that fails is known only at its end."""
    prompts = {f"row-{number}": EIFFEL * 20 for number in range(12)}
    operations = [scale("blocks.3.mlp.output", 1e38, in_="row-5"), capture("blocks.*.residual.post")]
    found = client.trace(MODEL, prompts, operations)
    size = found.about.usage["captured_bytes"]
    assert size > 64 << 20
    assert sum(one.array.nbytes for name in found if name != "row-5" for one in found[name].values()) == size * 11 // 12
    with pytest.raises(EngineError, match="infinite"):
        found["row-5"]["blocks.3.residual.post"]


def test_the_sites_of_a_model_are_shown(client: Client) -> None:
    assert "blocks.29.attention.heads" in client.traces.sites(MODEL)._repr_html_()


def test_tokens_and_their_texts(client: Client) -> None:
    tokens = client.words.tokens(MODEL, EIFFEL).tokens
    found = client.words.texts(MODEL, tokens)
    assert found.prompt == EIFFEL
    assert found.pieces == ["The", " E", "iffel", " Tower", " is", " in"]
