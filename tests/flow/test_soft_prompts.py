"""Soft prompts and projectors through the whole gateway, with the real model."""

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
import safetensors.torch
import torch

from terascope.client import Client
from terascope.core.errors import BadRequest, Conflict, NotAllowed, NotFound
from terascope.testing.gateway import Served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
MODEL = "smollm2-135m-instruct"
BEGINNING, REST = "Once upon a time, in a village by the sea,", " there lived"
OPTIONS: dict[str, Any] = {"max_tokens": 12, "temperature": 0, "logprobs": 1}


@pytest.fixture(scope="module")
def root(gateway: Served) -> Iterator[Client]:
    with Client(gateway.url, gateway.key) as one:
        yield one


@pytest.fixture(scope="module")
def http(gateway: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, headers=gateway.headers, timeout=60) as one:
        yield one


@pytest.fixture(scope="module")
def rows(root: Client) -> torch.Tensor:
    """The rows of the embedding table that the beginning's tokens have."""
    [row] = root.traces.run(MODEL, [BEGINNING], [{"capture": "embeddings"}]).rows
    data = row.arrays["embeddings"]
    return torch.frombuffer(bytearray(base64.b64decode(data.data)), dtype=torch.float32).reshape(data.shape)


def file_of(**arrays: torch.Tensor) -> bytes:
    return safetensors.torch.save({name.replace("_", "."): one.contiguous() for name, one in arrays.items()})


def ask(http: httpx.Client, **fields: Any) -> Any:
    answer = http.post("/v1/completions", json={"model": MODEL, **OPTIONS, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def same(found: Any, expected: Any) -> None:
    assert found["choices"][0]["text"] == expected["choices"][0]["text"]
    told, right = (one["choices"][0]["logprobs"]["token_logprobs"] for one in (found, expected))
    assert told == pytest.approx(right, abs=1e-3)
    assert found["usage"]["prompt_tokens"] == expected["usage"]["prompt_tokens"]


def test_a_soft_prompt_is_what_its_vectors_mean(http: httpx.Client, root: Client, rows: torch.Tensor) -> None:
    made = root.artefacts.add("softprompt", "local", "tale", MODEL, file_of(a=rows), note="a beginning")
    assert (made.shape, made.project, len(made.version)) == ([len(rows), 576], "local", 12)
    expected = ask(http, prompt=BEGINNING + REST)
    for name in ("tale", f"tale@{made.version}", "local/tale"):
        same(ask(http, model=f"{MODEL}+{name}", prompt=REST), expected)
    again = ask(http, model=f"{MODEL}+tale", prompt=REST)
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0 or len(rows) < 16
    with pytest.raises(Conflict):
        root.artefacts.add("softprompt", "local", "tale", MODEL, file_of(a=rows))


def test_the_record_names_it(http: httpx.Client, root: Client) -> None:
    answer = http.post("/v1/completions", json={"model": f"{MODEL}+tale", "prompt": REST, **OPTIONS})
    record = http.get(f"/admin/v1/runs/{answer.headers['x-request-id']}").json()
    [one] = root.artefacts.show("softprompt", "local", "tale").data
    assert record["parameters"]["softprompt"] == f"local/tale@{one.version}"
    assert record["model"].startswith(f"{MODEL}@")


def test_with_the_openai_client(gateway: Served) -> None:
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key)
    messages: Any = [{"role": "user", "content": "Go on."}]
    stream = client.chat.completions.create(model=f"{MODEL}+tale", messages=messages, max_tokens=5, stream=True)
    plain = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=5)
    soft = client.chat.completions.create(model=f"{MODEL}+tale", messages=messages, max_tokens=5)
    assert sum(bool(chunk.choices) for chunk in stream) > 2
    assert plain.usage
    assert soft.usage
    assert soft.usage.prompt_tokens > plain.usage.prompt_tokens


def test_a_projector_maps_ones_own_vectors(http: httpx.Client, root: Client, rows: torch.Tensor) -> None:
    """Vectors of 600 numbers, of which the last 24 mean nothing, through two layers that together leave the others."""
    widening = torch.cat([torch.eye(576), -torch.eye(576)])
    first, second = torch.cat([widening, torch.zeros(1152, 24)], 1), widening.T
    data = file_of(**{"0_weight": first, "1_weight": second, "1_bias": torch.zeros(576)})
    made = root.artefacts.add("projector", "local", "mine", MODEL, data, activation="relu")
    assert (made.shape, made.activation) == ([600, 1152, 576], "relu")
    own = torch.cat([rows, torch.ones(len(rows), 24)], 1)
    sent = base64.b64encode(file_of(a=own)).decode()
    parts = [{"type": "prompt_embeds", "prompt_embeds": sent}, {"type": "text", "text": REST}]
    same(ask(http, prompt_embeds=parts, encoder="mine"), ask(http, prompt=BEGINNING + REST))
    refused = http.post("/v1/completions", json={"model": MODEL, "prompt_embeds": sent, **OPTIONS}).json()["error"]
    assert "576" in refused["message"]
    refused = http.post("/v1/completions", json={"model": MODEL, "prompt_embeds": sent, "encoder": "no"}).json()[
        "error"
    ]
    assert (refused["param"], "no projector 'no'" in refused["message"]) == ("encoder", True)


def test_projects_share_what_is_theirs(http: httpx.Client, gateway: Served, root: Client) -> None:
    for name in ("sea", "sky"):
        root.projects.create(name, pi="ada")
        root.projects.allow(name, "*", ["query", "embed"], ["interactive"])
        root.allocations.grant(name, None)
    keys = {name: root.keys.create("k", ["query", "embed"], user="ada", project=name).key for name in ("sea", "sky")}
    only_query = root.keys.create("q", ["query"], user="ada", project="sea").key

    def status(key: str, model: str) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {key}"}
        answer = http.post("/v1/completions", json={"model": model, "prompt": REST, "max_tokens": 1}, headers=headers)
        return answer.status_code, str(answer.json().get("error", {}).get("message", ""))

    assert status(keys["sea"], f"{MODEL}+tale")[0] == 404
    [one] = root.artefacts.share("softprompt", "local", "tale", ("sea",)).data
    assert one.shared_with == ["sea"]
    assert status(keys["sea"], f"{MODEL}+tale")[0] == 200
    assert status(keys["sky"], f"{MODEL}+tale")[0] == 404
    assert status(only_query, f"{MODEL}+tale")[0] == 403
    with Client(gateway.url, keys["sea"]) as ada:
        assert [row.name for row in ada.artefacts.list("softprompt").data] == ["tale"]
        with pytest.raises((NotAllowed, NotFound)):
            ada.artefacts.remove("softprompt", "local", "tale")
    with Client(gateway.url, keys["sky"]) as ada, pytest.raises((NotAllowed, NotFound)):
        ada.artefacts.add("softprompt", "local", "mine", MODEL, file_of(a=torch.ones(1, 576)))
    root.artefacts.share("softprompt", "local", "tale", ())
    assert status(keys["sea"], f"{MODEL}+tale")[0] == 404


def test_what_was_made_for_another_model(http: httpx.Client, root: Client) -> None:
    answer = http.post("/v1/completions", json={"model": "echo+tale", "prompt": "a"})
    assert (answer.status_code, "was made for smollm2" in answer.json()["error"]["message"]) == (400, True)
    root.artefacts.add("softprompt", "local", "loud", "echo", file_of(a=torch.ones(2, 4)))
    answer = http.post("/v1/completions", json={"model": "echo+loud", "prompt": "a"})
    assert answer.json()["error"]["code"] == "unsupported_feature"
    with pytest.raises(BadRequest, match="finite"):
        root.artefacts.add("softprompt", "local", "x", MODEL, file_of(a=torch.full((2, 576), torch.nan)))
    for model, path in ((f"{MODEL}+", "completions"), (f"{MODEL}+tale", "embeddings")):
        refused = http.post(f"/v1/{path}", json={"model": model, "prompt": "a", "input": "a"})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")


def test_what_is_removed_is_gone(http: httpx.Client, root: Client) -> None:
    root.artefacts.remove("softprompt", "local", "tale")
    answer = http.post("/v1/completions", json={"model": f"{MODEL}+tale", "prompt": "a"})
    assert answer.status_code == 404
    with pytest.raises(NotFound):
        root.artefacts.show("softprompt", "local", "tale")
