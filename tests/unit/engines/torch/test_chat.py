from typing import Any

import pytest

from terascope.core.errors import BadRequest, UnsupportedFeature
from terascope.engines.torch.chat import prompt_of, tool_use
from terascope.engines.torch.model import CausalModel
from terascope.engines.torch.tools import NamedReader, PlainReader, TaggedReader, WholeReader
from terascope.protocol.openai import ChatCompletionRequest, TokenizeRequest

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}}
USER = {"role": "user", "content": "Hi"}


def _request(*messages: dict[str, Any], **fields: Any) -> ChatCompletionRequest:
    return ChatCompletionRequest.model_validate({"model": "tiny", "messages": list(messages or [USER]), **fields})


def _prompt(model: CausalModel, request: ChatCompletionRequest) -> str:
    use = tool_use(request, model.vocabulary)
    return prompt_of(request, model.vocabulary, use.shown)


def test_the_template_writes_the_prompt(tiny: CausalModel) -> None:
    assert _prompt(tiny, _request(USER)) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_roles_and_parts(tiny: CausalModel) -> None:
    parts = [{"type": "text", "text": " one"}, {"type": "text", "text": "two "}]
    found = _prompt(tiny, _request({"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}))
    assert found.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n one\ntwo <|im_end|>")


def test_the_last_message_can_be_continued(tiny: CausalModel) -> None:
    request = _request(USER, {"role": "assistant", "content": "Hel"}, continue_final_message=True)
    assert _prompt(tiny, request).endswith("<|im_start|>assistant\nHel")
    assert _prompt(tiny, _request(USER, add_generation_prompt=False)).endswith("Hi<|im_end|>\n")
    with pytest.raises(BadRequest):
        _prompt(tiny, _request(USER, continue_final_message=True, add_generation_prompt=True))


def test_pictures_are_refused(tiny: CausalModel) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:"}}
    with pytest.raises(UnsupportedFeature, match="image_url"):
        _prompt(tiny, _request({"role": "user", "content": [part]}))


def test_a_message_without_content_is_empty(tiny: CausalModel) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    assert "assistant\n<|im_end|>" in _prompt(tiny, _request(USER, {"role": "assistant", "tool_calls": [call]}, USER))


def test_arguments_that_are_no_json_are_refused(tiny: CausalModel) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{"}}
    with pytest.raises(BadRequest, match="JSON"):
        _prompt(tiny, _request(USER, {"role": "assistant", "tool_calls": [call]}))


def test_a_template_that_refuses_is_the_clients_mistake(tiny: CausalModel) -> None:
    with pytest.raises(BadRequest, match="no critics") as caught:
        _prompt(tiny, _request({"role": "critic", "content": "x"}))
    assert caught.value.param == "messages"


def test_variables_of_the_template_can_be_set_and_nothing_else(tiny: CausalModel) -> None:
    assert _prompt(tiny, _request(chat_template_kwargs={"shout": True})).startswith("HI<|im_start|>")
    harmless = {"messages": 5, "chat_template": "{{ 1 }}", "tokenize": True, "return_dict": True, "conversation": []}
    assert _prompt(tiny, _request(chat_template_kwargs=harmless)) == _prompt(tiny, _request())


def test_tools_are_shown_by_the_template(tiny: CausalModel) -> None:
    assert '"name": "f"' in _prompt(tiny, _request(tools=[TOOL]))
    assert '"name": "f"' not in _prompt(tiny, _request(tools=[TOOL], tool_choice="none"))


def test_who_reads_the_answer(tiny: CausalModel) -> None:
    named = {"type": "function", "function": {"name": "f"}}
    expected = [("auto", TaggedReader), ("none", PlainReader), ("required", WholeReader), (named, NamedReader)]
    for choice, kind in expected:
        use = tool_use(_request(tools=[TOOL], tool_choice=choice), tiny.vocabulary)
        assert isinstance(use.reader(), kind)
        assert (use.grammar is not None) == (kind in (WholeReader, NamedReader))
    assert isinstance(tool_use(_request(), tiny.vocabulary).reader(), PlainReader)


def test_a_template_without_tools(plain_tiny: CausalModel) -> None:
    with pytest.raises(UnsupportedFeature) as caught:
        tool_use(_request(tools=[TOOL]), plain_tiny.vocabulary)
    assert caught.value.param == "tools"
    prompt = _prompt(plain_tiny, _request(USER, tools=[TOOL], tool_choice="required"))
    assert prompt.startswith("<|im_start|>system\nYou can call these functions:\n{")
    system = {"role": "system", "content": "Be brief."}
    prompt = _prompt(plain_tiny, _request(system, USER, tools=[TOOL], tool_choice="required"))
    assert prompt.startswith("<|im_start|>system\nBe brief.\n\nYou can call")


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_choice": "required"},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        {"tools": [TOOL], "response_format": {"type": "json_object"}},
        {
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "nonsense"}}}],
            "tool_choice": "required",
        },
    ],
)
def test_impossible_tools(tiny: CausalModel, fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        tool_use(_request(**fields), tiny.vocabulary)


def test_tokenize_takes_conversations_too(tiny: CausalModel) -> None:
    request = TokenizeRequest.model_validate({"messages": [USER], "add_generation_prompt": False})
    assert prompt_of(request, tiny.vocabulary) == "<|im_start|>user\nHi<|im_end|>\n"
