"""The part of the conformance suite of engines that asks for what cannot be had."""

import orjson

from terascope.testing.engine_subject import Subject, user

_BAD_CHATS: tuple[dict[str, object], ...] = (
    {},
    {"messages": []},
    {"messages": "hello"},
    {"messages": [{"content": "no role"}]},
    {"messages": user("x"), "max_tokens": -1},
    {"messages": user("x"), "temperature": "hot"},
    {"messages": user("x"), "temperature": -1},
    {"messages": user("x"), "top_p": 2},
    {"messages": user("x"), "n": 0},
    {"messages": user("x"), "stop": 5},
    {"messages": user("x"), "top_logprobs": 5000, "logprobs": True},
    {"messages": user("x"), "tool_choice": "required"},
    {"messages": user("x"), "stream": "yes"},
)


async def check_bad_chats(subject: Subject) -> None:
    """What cannot be honoured is refused with a message in OpenAI's shape, also when a stream was asked for."""
    for fields in _BAD_CHATS:
        said = await subject.ask("chat/completions", **fields)
        assert said.status in (400, 422), (fields, said.status, said.body[:200])
        assert said.error
    for body in (b"", b"{", b"[]", b"null", b"\xff", b'{"model": NaN}', b"[" * 5000):
        said = await subject.send("chat/completions", body)
        assert said.status in (400, 422), (body, said.status)
        assert said.error


async def check_bad_prompts(subject: Subject) -> None:
    """Empty and over-long prompts, and token ids that there are not, are refused."""
    prompts: list[object] = ["", [], [[]], [2**31 - 1], 7, None]
    if subject.info.context_length:
        prompts.append(" a" * (subject.info.context_length + 10))
    for prompt in prompts:
        said = await subject.ask("completions", prompt=prompt, max_tokens=1)
        assert said.status in (400, 422), (str(prompt)[:50], said.status, said.body[:200])
        assert said.error


async def check_bad_inputs(subject: Subject) -> None:
    """An embedding of nothing is refused."""
    for given in ([], 7, None, [None]):
        said = await subject.ask("embeddings", input=given)
        assert said.status in (400, 422), (given, said.status)
        assert said.error


async def check_unknown_model(subject: Subject) -> None:
    """Another model's requests are not answered."""
    said = await subject.send("chat/completions", orjson.dumps({"model": "no-such-model", "messages": user("x")}))
    assert said.status in (400, 404)
    assert said.error
