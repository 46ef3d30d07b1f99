"""OpenAI's API over HTTP, answered by the tiny model."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from transformers import LlamaForCausalLM

from terascope.engines.torch.model import CausalModel
from terascope.protocol.openai import (
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    DetokenizeResponse,
    ErrorBody,
    TokenizeResponse,
)

from .conftest import Client

USER = [{"role": "user", "content": "Tell me about Paris 😀"}]
CHAT, TEXT = "v1/chat/completions", "v1/completions"
END = 2  # <|im_end|>
NO_END = {str(END): -100}


def _finishes(events: list[Any]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for event in events[:-1]:
        for choice in event["choices"]:
            if choice["finish_reason"]:
                found.setdefault(choice["index"], []).append(choice["finish_reason"])
    return found


def _streamed(events: list[Any], index: int = 0) -> str:
    pieces = [choice for event in events[:-1] for choice in event["choices"] if choice["index"] == index]
    return "".join(piece["text"] if "text" in piece else piece["delta"].get("content") or "" for piece in pieces)


async def test_a_chat(client: Client) -> None:
    body = {"model": "tiny", "messages": USER, "max_tokens": 5, "seed": 1, "logit_bias": NO_END, "user": "u"}
    status, answer, headers = await client.post(CHAT, body, headers={"X-Request-Id": "req_1"})
    assert status == 200
    found = ChatCompletion.model_validate(answer)
    assert found.choices[0].finish_reason == "length"
    assert found.choices[0].message.role == "assistant"
    assert found.usage.completion_tokens == 5
    assert found.usage.total_tokens == found.usage.prompt_tokens + 5
    assert found.usage.prompt_tokens_details is not None
    assert headers["x-request-id"] == "req_1"
    assert json.loads(headers["x-terascope-applied"])["seed"] == 1
    assert "x-terascope-ignored" not in headers


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("seed", range(4))
async def test_a_stream_says_the_same_as_the_whole(client: Client, path: str, seed: int) -> None:
    asked: dict[str, Any] = {"messages": USER} if path == CHAT else {"prompt": "Paris "}
    asked |= {"max_tokens": 40, "seed": seed, "temperature": 1.5}
    whole = await client.ask(path, **asked)
    events = await client.events(path, **asked, stream_options={"include_usage": True})
    assert events[-1] == "[DONE]"
    kind = ChatCompletionChunk if path == CHAT else Completion
    for event in events[:-1]:
        kind.model_validate(event)
    choice = whole["choices"][0]
    assert _streamed(events) == (choice["message"]["content"] if path == CHAT else choice["text"])
    assert _finishes(events) == {0: [choice["finish_reason"]]}
    assert events[-2]["choices"] == []
    assert events[-2]["usage"] == whole["usage"]
    assert all(event["usage"] is None for event in events[:-2])
    assert len({event["id"] for event in events[:-1]}) == 1
    if path == CHAT:
        assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}


async def test_usage_is_told_only_when_asked(client: Client) -> None:
    events = await client.events(CHAT, messages=USER, max_tokens=2, logit_bias=NO_END)
    assert all("usage" not in event for event in events[:-1])


async def test_noise_is_never_broken_utf8(client: Client) -> None:
    """A hot random model makes every kind of broken character; pieces may hold only what the whole holds."""
    for seed in range(5):
        asked = {"prompt": "日本", "max_tokens": 100, "seed": seed, "temperature": 3.0, "logit_bias": NO_END}
        events = await client.events(TEXT, **asked, logprobs=0)
        tokens = [t for event in events[:-1] for t in event["choices"][0]["logprobs"]["tokens"]]
        raw = b"".join(_bytes(token) for token in tokens)
        assert _streamed(events) == raw.decode(errors="replace")
        assert len(tokens) == 100


def _bytes(name: str) -> bytes:
    if not name.startswith("bytes:"):
        return b"" if name.startswith("<|") else name.encode()
    return bytes(int(part, 16) for part in name[6:].split("\\x")[1:])


async def test_choices_and_prompts_are_numbered(client: Client) -> None:
    asked = {"max_tokens": 8, "seed": 5, "temperature": 2.0, "logit_bias": NO_END}
    whole = await client.ask(TEXT, prompt=["One", "Two"], n=3, **asked)
    texts = [choice["text"] for choice in whole["choices"]]
    assert [choice["index"] for choice in whole["choices"]] == list(range(6))
    assert len(set(texts)) == 6
    assert whole["usage"]["completion_tokens"] == 48
    one = await client.ask(TEXT, prompt="One", **asked)
    assert one["choices"][0]["text"] == texts[0]
    assert whole["usage"]["prompt_tokens"] == 2 * one["usage"]["prompt_tokens"]
    events = await client.events(TEXT, prompt=["One", "Two"], n=3, **asked)
    assert [_streamed(events, index) for index in range(6)] == texts
    assert _finishes(events) == {index: ["length"] for index in range(6)}


async def test_seeds(client: Client) -> None:
    asked = {"prompt": "x", "max_tokens": 20, "logit_bias": NO_END}
    first = await client.text(seed=7, **asked)
    assert await client.text(seed=7, **asked) == first
    assert await client.text(seed=8, **asked) != first
    assert await client.text(seed=-(2**63), **asked) == await client.text(seed=-(2**63), **asked)
    status, answer, headers = await client.post(TEXT, {"model": "tiny", **asked})
    assert status == 200
    again = await client.text(seed=json.loads(headers["x-terascope-applied"])["seed"], **asked)
    assert answer["choices"][0]["text"] == again
    assert await client.text(**asked) != await client.text(**asked)


@pytest.mark.parametrize("seed", range(6))
async def test_stops_that_straddle_tokens(client: Client, seed: int) -> None:
    asked = {"prompt": "x", "max_tokens": 40, "seed": seed, "logit_bias": NO_END}
    free = await client.ask(TEXT, **asked, logprobs=0)
    text = free["choices"][0]["text"]
    offsets = free["choices"][0]["logprobs"]["text_offset"]
    cut = offsets[20]  # between two tokens: a stop string around it straddles them
    stop = text[cut - 2 : cut + 2]
    found = await client.ask(TEXT, **asked, stop=["never this", stop], logprobs=0)
    choice = found["choices"][0]
    assert choice["text"] == text[: text.index(stop)]
    assert choice["finish_reason"] == "stop"
    assert found["usage"]["completion_tokens"] <= 25
    assert all(offset < max(1, len(choice["text"])) for offset in choice["logprobs"]["text_offset"])
    events = await client.events(TEXT, **asked, stop=stop)
    assert _streamed(events) == choice["text"]
    assert _finishes(events) == {0: ["stop"]}


async def test_the_end_and_how_to_go_past_it(client: Client) -> None:
    asked: dict[str, Any] = {"prompt": "x", "max_tokens": 6, "temperature": 0, "logit_bias": {str(END): 100}}
    ended = await client.ask(TEXT, **asked)
    assert (ended["choices"][0]["text"], ended["choices"][0]["finish_reason"]) == ("", "stop")
    assert ended["usage"]["completion_tokens"] == 1
    later = await client.ask(TEXT, **asked, min_tokens=3)
    assert (later["usage"]["completion_tokens"], later["choices"][0]["finish_reason"]) == (4, "stop")
    never = await client.ask(TEXT, **asked, ignore_eos=True)
    assert (never["usage"]["completion_tokens"], never["choices"][0]["finish_reason"]) == (6, "length")


async def test_an_answer_goes_to_the_end_of_the_context(client: Client, tiny: CausalModel) -> None:
    prompt = [5] * (tiny.context_length - 10)
    found = await client.ask(TEXT, prompt=prompt, logit_bias=NO_END)
    assert found["usage"]["completion_tokens"] == 10
    assert found["choices"][0]["finish_reason"] == "length"


def _logprobs(directory: Path, tokens: list[int]) -> torch.Tensor:
    """What plain transformers says: log-probabilities [tokens, vocabulary]."""
    module = LlamaForCausalLM.from_pretrained(directory, attn_implementation="eager")
    with torch.inference_mode():
        logits: torch.Tensor = module.eval()(input_ids=torch.tensor([tokens])).logits[0]
        return logits.log_softmax(-1)


async def test_logprobs_of_a_chat(client: Client, tiny: CausalModel, tiny_dir: Path) -> None:
    asked = {"messages": USER, "max_tokens": 12, "seed": 3, "logprobs": True, "top_logprobs": 4, "logit_bias": NO_END}
    whole = await client.ask(CHAT, **asked)
    content = whole["choices"][0]["logprobs"]["content"]
    assert len(content) == 12
    raw = b"".join(bytes(one["bytes"]) for one in content)
    assert raw.decode(errors="replace") == whole["choices"][0]["message"]["content"]
    prompt = (await client.ask("tokenize", messages=USER))["tokens"]
    pieces = {tiny.vocabulary.table.name_bytes(i): i for i in range(len(tiny.vocabulary.table))}
    tokens = [pieces[bytes(one["bytes"])] for one in content]
    expected = _logprobs(tiny_dir, prompt + tokens)[len(prompt) - 1 : -1]
    for token, one, right in zip(tokens, content, expected, strict=True):
        assert one["logprob"] == pytest.approx(float(right[token]), abs=1e-4)
        top = right.topk(4)
        assert [rival["logprob"] for rival in one["top_logprobs"]] == pytest.approx(top.values.tolist(), abs=1e-4)
        assert [pieces[bytes(rival["bytes"])] for rival in one["top_logprobs"]] == top.indices.tolist()
    events = await client.events(CHAT, **asked)
    told = [t for event in events[:-1] for c in event["choices"] for t in (c["logprobs"] or {}).get("content", [])]
    assert [one["token"] for one in told] == [one["token"] for one in content]


async def test_logprobs_of_zero_rivals(client: Client) -> None:
    asked = {"messages": USER, "max_tokens": 2, "logit_bias": NO_END, "logprobs": True}
    content = (await client.ask(CHAT, **asked))["choices"][0]["logprobs"]["content"]
    assert [one["top_logprobs"] for one in content] == [[], []]
    assert (await client.ask(CHAT, **asked | {"logprobs": False}))["choices"][0]["logprobs"] is None


@pytest.mark.parametrize("length", [1, 2, 150])
@pytest.mark.parametrize("stream", [False, True])
async def test_echo_scores_the_prompt(
    client: Client, tiny: CausalModel, tiny_dir: Path, length: int, stream: bool
) -> None:
    prompt = [(7 * i) % 200 + 10 for i in range(length)]
    asked = {"prompt": prompt, "max_tokens": 3, "echo": True, "logprobs": 2, "temperature": 0, "logit_bias": NO_END}
    if stream:
        events = await client.events(TEXT, **asked)
        text = _streamed(events)
        parts = [event["choices"][0]["logprobs"] for event in events[:-1]]
        told = {key: [value for part in parts for value in part[key]] for key in parts[0]}
    else:
        choice = (await client.ask(TEXT, **asked))["choices"][0]
        text, told = choice["text"], choice["logprobs"]
    pieces = {tiny.vocabulary.table.name(i): i for i in range(len(tiny.vocabulary.table))}
    tokens = prompt + [pieces[name] for name in told["tokens"][length:]]
    assert text.startswith(tiny.vocabulary.decode(prompt))
    assert len(told["token_logprobs"]) == len(told["text_offset"]) == len(told["top_logprobs"]) == length + 3
    assert told["token_logprobs"][0] is None
    assert told["top_logprobs"][0] is None
    expected = _logprobs(tiny_dir, tokens)
    right = [float(expected[i, token]) for i, token in enumerate(tokens[1:])]
    assert told["token_logprobs"][1:] == pytest.approx(right, abs=1e-4)
    best = [max(rivals.values()) for rivals in told["top_logprobs"][1:]]
    assert best == pytest.approx(expected[:-1].amax(-1).tolist(), abs=1e-4)
    assert told["text_offset"] == sorted(told["text_offset"])


async def test_echo_alone(client: Client) -> None:
    prompt = "  Leading spaces, 日本 "
    assert await client.text(prompt, echo=True, max_tokens=0) == prompt
    found = await client.ask(TEXT, prompt=prompt, echo=True, max_tokens=0, logprobs=0, n=2)
    assert [choice["text"] for choice in found["choices"]] == [prompt, prompt]
    assert found["usage"]["completion_tokens"] == 0
    assert [choice["finish_reason"] for choice in found["choices"]] == ["length", "length"]
    longer = await client.text(prompt, echo=True, max_tokens=4, seed=1)
    assert longer == prompt + await client.text(prompt, max_tokens=4, seed=1)
    events = await client.events(TEXT, prompt=prompt, echo=True, max_tokens=4, seed=1)
    assert _streamed(events) == longer


async def test_tokens_as_prompts(client: Client) -> None:
    tokens = (await client.ask("tokenize", prompt="Hello Paris"))["tokens"]
    asked = {"max_tokens": 10, "seed": 1}
    expected = await client.text("Hello Paris", **asked)
    assert await client.text(tokens, **asked) == expected
    assert await client.text([tokens], **asked) == expected
    assert len((await client.ask(TEXT, prompt=[tokens, [9]], **asked))["choices"]) == 2


async def test_tokenize_and_detokenize(client: Client, tiny: CausalModel) -> None:
    text = "Hello, 日本語 😀!"
    found = await client.ask("tokenize", prompt=text, return_token_strs=True)
    TokenizeResponse.model_validate(found)
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert found["max_model_len"] == tiny.context_length
    back = await client.ask("detokenize", tokens=found["tokens"])
    assert DetokenizeResponse.model_validate(back).prompt == text
    assert (await client.ask("detokenize", tokens=[1, 2]))["prompt"] == "<|im_start|><|im_end|>"
    assert (await client.ask("tokenize", prompt=""))["tokens"] == []


SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "maximum": 200}},
    "required": ["n", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("seed", range(3))
async def test_json_schemas_bind(client: Client, seed: int) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
    asked = {"messages": USER, "response_format": wanted, "seed": seed, "max_tokens": 150}
    found = await client.ask(CHAT, **asked)
    jsonschema.validate(json.loads(found["choices"][0]["message"]["content"]), SCHEMA)
    assert found["choices"][0]["finish_reason"] == "stop"
    events = await client.events(CHAT, **asked)
    assert _streamed(events) == found["choices"][0]["message"]["content"]


async def test_other_grammars_bind(client: Client) -> None:
    asked: dict[str, Any] = {"prompt": "x", "seed": 4, "max_tokens": 60}
    assert (await client.text(structured_outputs={"regex": "[0-9]{5}"}, **asked)).isdecimal()
    assert await client.text(guided_choice=["yes", "no"], **asked) in ("yes", "no")
    assert await client.text(structured_outputs={"grammar": 'start: "a" "b"'}, **asked) == "ab"
    assert isinstance(json.loads(await client.text(guided_json={"type": "boolean"}, **asked)), bool)
    begun = await client.text(response_format={"type": "json_object"}, **asked)
    assert begun.startswith("{")


TOOLS = [
    {"type": "function", "function": {"name": "find", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "stop"}},
]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "find"}}])
async def test_tool_calls_bind(client: Client, choice: Any) -> None:
    asked = {"messages": USER, "tools": TOOLS[:1], "tool_choice": choice, "seed": 2}
    asked |= {"parallel_tool_calls": False}
    found = (await client.ask(CHAT, **asked))["choices"][0]
    assert found["finish_reason"] == "tool_calls"
    assert found["message"]["content"] is None
    (call,) = found["message"]["tool_calls"]
    assert call["function"]["name"] == "find"
    jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMA)
    events = await client.events(CHAT, **asked)
    deltas = [d for event in events[:-1] for d in event["choices"][0]["delta"].get("tool_calls", [])]
    assert "".join(delta["function"]["arguments"] for delta in deltas) == call["function"]["arguments"]
    assert [delta["id"] for delta in deltas if "id" in delta] == [deltas[0]["id"]]
    assert _finishes(events) == {0: ["tool_calls"]}


async def test_a_tool_without_parameters_takes_none(client: Client) -> None:
    asked = {"messages": USER, "tools": TOOLS[1:], "tool_choice": "required", "parallel_tool_calls": False}
    found = (await client.ask(CHAT, **asked, seed=1))["choices"][0]
    assert found["message"]["tool_calls"][0]["function"] == {"name": "stop", "arguments": "{}"}


async def test_unknown_fields_are_ignored_and_told(client: Client) -> None:
    body = {"model": "tiny", "prompt": "x", "max_tokens": 1, "whatever": {"a": 1}, "bad\r\nname: x": 1, "é": 2}
    status, _, headers = await client.post(TEXT, body)
    assert status == 200
    assert headers["x-terascope-ignored"] == "whatever,bad%0D%0Aname%3A%20x,%C3%A9"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt"),
        ({"prompt": [512]}, "prompt"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": None}, "prompt"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 1e300}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"n": 2.5}, "n"),
        ({"seed": 2**64}, "seed"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 5, "min_tokens": 6}, "min_tokens"),
        ({"stop": [""]}, "stop[0]"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"logprobs": 21}, "logprobs"),
        ({"logit_bias": {"512": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"word": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 1000}}, "logit_bias.1"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 5}, "best_of"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"structured_outputs": {"nonsense": 1}}, "structured_outputs.nonsense"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"guided_regex": "("}, "structured_outputs.regex"),
        ({"stream": "yes"}, "stream"),
    ],
)
async def test_what_cannot_be_done_is_refused(client: Client, fields: dict[str, Any], param: str) -> None:
    error = await client.refused(TEXT, **{"prompt": "x", "max_tokens": 8, **fields})
    ErrorBody.model_validate({"error": error})
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert error["request_id"].startswith("req_")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "critic", "content": "x"}]}, "messages"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_tokens"),
        ({"tool_choice": "required"}, "tool_choice"),
    ],
)
async def test_impossible_chats_are_refused(client: Client, fields: dict[str, Any], param: str) -> None:
    assert (await client.refused(CHAT, **{"messages": USER, **fields}))["param"] == param


async def test_prompts_at_the_limit(client: Client, tiny: CausalModel) -> None:
    limit = tiny.context_length
    assert (await client.ask(TEXT, prompt=[5] * (limit - 1)))["usage"]["total_tokens"] == limit
    assert (await client.ask(TEXT, prompt=[5] * limit, max_tokens=0))["usage"]["total_tokens"] == limit
    for prompt, asked in ((limit, 1), (limit - 3, 4), (limit + 1, 0), (3, limit), (5000, 1)):
        error = await client.refused(TEXT, prompt=[5] * prompt, max_tokens=asked)
        assert error["code"] == "context_length_exceeded"
        assert str(limit) in error["message"]
        assert str(prompt) in error["message"]
    error = await client.refused(CHAT, messages=[{"role": "user", "content": "word " * 200_000}])
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")


async def test_other_models_and_places(client: Client) -> None:
    for path, body in ((CHAT, {"messages": USER}), (TEXT, {"prompt": "x"}), ("tokenize", {"prompt": "x"})):
        status, answer, _ = await client.post(path, {"model": "other", **body})
        assert (status, answer["error"]["code"], answer["error"]["param"]) == (404, "model_not_found", "model")
    status, answer, _ = await client.post("v1/nowhere", {})
    assert (status, answer["error"]["code"]) == (404, "not_found")
    async with client.session.get(f"http://engine/{CHAT}") as response:
        assert response.status == 405
        ErrorBody.model_validate(await response.json())


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"nonsense", b'{"model": "\xff"}', b'{"n": NaN}', b"[" * 100_000])
async def test_bodies_that_are_no_request(client: Client, body: bytes) -> None:
    async with client.session.post(f"http://engine/{CHAT}", data=body) as response:
        assert response.status == 400
        ErrorBody.model_validate(await response.json())


async def test_figures(client: Client) -> None:
    await client.text("hello", max_tokens=4, logit_bias=NO_END)
    async with client.session.get("http://engine/metrics") as response:
        text = await response.text()
    assert 'terascope_engine_tokens_total{kind="completion"} 4.0' in text
    assert 'terascope_engine_requests_total{endpoint="v1/completions",status="200"} 1.0' in text
    prompt = len((await client.ask("tokenize", prompt="hello"))["tokens"])
    assert f'terascope_engine_tokens_total{{kind="prompt"}} {prompt}.0' in text
