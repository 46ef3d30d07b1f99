"""The official `openai` package, as our users have it, against the whole gateway."""

import json
from collections.abc import Iterator

import numpy as np
import openai
import pytest
from openai.types.chat import (
    ChatCompletionFunctionToolParam,
    ChatCompletionMessageParam,
    ChatCompletionNamedToolChoiceParam,
)

from terascope.testing.gateway import Served

SAY: list[ChatCompletionMessageParam] = [{"role": "user", "content": "the quick brown fox"}]


@pytest.fixture
def client(echo: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{echo.url}/v1", api_key=echo.key, max_retries=0) as client:
        yield client


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["echo"]
    assert client.models.retrieve("echo").id == "echo"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("ekko")


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="echo", messages=SAY)
    assert answer.choices[0].message.content == "the quick brown fox"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model.startswith("echo@")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_chat_stream_is_the_whole_answer(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="echo", messages=SAY, stream=True)
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "the quick brown fox"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]
    assert all(chunk.usage is None for chunk in chunks)


def test_chat_stream_with_usage(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="echo", messages=SAY, stream_options={"include_usage": True}) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "the quick brown fox"
    assert final.usage is not None
    assert final.usage.completion_tokens == 4


def test_several_choices_stop_and_length(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="echo", messages=SAY, n=3, max_tokens=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert {choice.finish_reason for choice in answer.choices} == {"length"}
    answer = client.chat.completions.create(model="echo", messages=SAY, stop=" brown")
    assert answer.choices[0].message.content == "the quick"


def test_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="echo", messages=SAY, logprobs=True, top_logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(token.token for token in logprobs.content) == "the quick brown fox"
    assert all(token.logprob <= 0 for token in logprobs.content)


def test_tools(client: openai.OpenAI) -> None:
    tool: ChatCompletionFunctionToolParam = {
        "type": "function",
        "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
    }
    choice: ChatCompletionNamedToolChoiceParam = {"type": "function", "function": {"name": "weather"}}
    answer = client.chat.completions.create(model="echo", messages=SAY, tools=[tool], tool_choice=choice)
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    call = calls[0]
    assert call.type == "function"
    assert call.function.name == "weather"
    assert isinstance(json.loads(call.function.arguments), dict)


def test_structured_output(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="echo", messages=SAY, response_format={"type": "json_object"})
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="echo", prompt="hello there")
    assert answer.choices[0].text
    streamed = client.completions.create(model="echo", prompt="hello there", stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == answer.choices[0].text


def test_embeddings_in_both_encodings(client: openai.OpenAI) -> None:
    packed = client.embeddings.create(model="echo", input=["a", "b"])  # the client asks for base64 by itself
    plain = client.embeddings.create(model="echo", input=["a", "b"], encoding_format="float")
    assert [row.index for row in packed.data] == [0, 1]
    assert np.allclose([row.embedding for row in packed.data], [row.embedding for row in plain.data], atol=1e-6)


def test_errors_are_the_clients_own(echo: Served, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="none", messages=SAY)
    assert missing.value.code == "model_not_found"
    assert missing.value.request_id
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="echo", messages=[])
    wrong = openai.OpenAI(base_url=f"{echo.url}/v1", api_key="wrong", max_retries=0)
    with wrong, pytest.raises(openai.AuthenticationError):
        wrong.models.list()


async def test_async_streams_side_by_side(echo: Served) -> None:
    import asyncio

    async with openai.AsyncOpenAI(base_url=f"{echo.url}/v1", api_key=echo.key) as client:

        async def ask(text: str) -> str:
            messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": text}]
            stream = await client.chat.completions.create(model="echo", messages=messages, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        texts = [f"text number {number}" for number in range(50)]
        assert await asyncio.gather(*(ask(text) for text in texts)) == texts


def test_raw_headers(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="echo", messages=SAY)
    assert raw.headers["x-terascope-model"].startswith("echo@")
    assert raw.headers["x-request-id"].startswith("req_")
