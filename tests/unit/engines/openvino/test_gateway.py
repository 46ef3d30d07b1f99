"""The openvino engine behind the gateway, asked by the official `openai` package."""

from collections.abc import Iterator

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from terascope.client import Client
from terascope.core.errors import BadRequest
from terascope.protocol.deployments import DeploymentSettings
from terascope.testing.gateway import Served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
_SAY: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def ai(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key=served.key, max_retries=0) as client:
        yield client


def test_a_chat_its_stream_and_its_record(served: Served, ai: openai.OpenAI) -> None:
    raw = ai.chat.completions.with_raw_response.create(model="smol", messages=_SAY, max_tokens=12, temperature=0)
    whole = raw.parse()
    text, usage = whole.choices[0].message.content, whole.usage
    assert text is not None
    assert usage is not None
    assert "Paris" in text
    assert raw.headers["x-terascope-model"] == "smol@1"
    streamed = list(
        ai.chat.completions.create(
            model="smol",
            messages=_SAY,
            max_tokens=12,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(one.choices[0].delta.content or "" for one in streamed if one.choices) == text
    assert streamed[-1].usage == usage
    record = _got(served, f"runs/{raw.headers['x-request-id']}")
    assert (record["model"], record["outcome"]) == ("smol@1", "completed")
    assert str(record["engine"]).startswith("openvino ")
    assert (record["prompt_tokens"], record["completion_tokens"]) == (usage.prompt_tokens, usage.completion_tokens)


def test_completions_of_texts_and_tokens(ai: openai.OpenAI) -> None:
    text = ai.completions.create(model="smol", prompt="The capital of France is", max_tokens=4, temperature=0, n=2)
    assert len({choice.text for choice in text.choices}) == 1
    assert "Paris" in text.choices[0].text
    twice = [ai.completions.create(model="smol", prompt=[[504, 3575], [504]], max_tokens=4, seed=7) for _ in range(2)]
    assert [one.text for one in twice[0].choices] == [one.text for one in twice[1].choices]


@pytest.mark.parametrize(
    "fields", [{"logprobs": True}, {"tools": [{"type": "function", "function": {"name": "x"}}]}, {"reproducible": True}]
)
def test_what_it_cannot_do_is_refused(fields: dict[str, object], ai: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ai.chat.completions.create(model="smol", messages=_SAY, extra_body=fields)
    assert refused.value.code == "unsupported_feature"


def test_its_figures_reach_the_gateway(served: Served) -> None:
    text = httpx.get(f"{served.url}/metrics/engines", headers=served.headers, timeout=30).text
    [replica] = served.services.fleet.ready()
    assert f'replica="{replica.id}"' in text
    assert "terascope_engine_tokens_total" in text


def test_it_is_deployed_while_the_gateway_runs(served: Served) -> None:
    """What would be started is shown with all that was asked for; what the engine does not do is refused."""
    settings = DeploymentSettings(
        model="smol", engine="openvino", dtype="bfloat16", max_batch=8, options={"cache_gib": "2"}
    )
    with Client(served.url, served.key) as client:
        command = " ".join(client.deployments.preview("another", settings).command)
        assert "--dtype bfloat16 --max-batch 8 --cache-gib 2" in command
        wrongs = (
            ({"dtype": "float16"}, "dtype"),
            ({"device": "cuda"}, "CPU"),
            ({"options": {"cache": "2"}}, "cache_gib"),
        )
        for wrong, words in wrongs:
            with pytest.raises(BadRequest, match=words):
                client.deployments.create("another", settings.model_copy(update=wrong))


def _got(served: Served, path: str) -> dict[str, object]:
    answer = httpx.get(f"{served.url}/admin/v1/{path}", headers=served.headers, timeout=30)
    assert answer.status_code == 200, answer.text
    found: dict[str, object] = answer.json()
    return found
