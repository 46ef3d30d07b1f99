import json
import math

import pytest
import torch

from terascope.core.errors import BadRequest
from terascope.engines.torch.grammar import Grammar, GrammarMaker, lark_string
from terascope.engines.torch.model import CausalModel


@pytest.fixture
def maker(tiny: CausalModel) -> GrammarMaker:
    assert tiny.vocabulary.grammars is not None
    return tiny.vocabulary.grammars


def _takes(tiny: CausalModel, grammar: Grammar, text: str) -> bool:
    """Whether the grammar allows `text`, token by token, and then the end."""
    assert tiny.vocabulary.grammars is not None
    matcher = tiny.vocabulary.grammars.matcher(grammar)
    for token in tiny.vocabulary.encode(text, special=False):
        scores = torch.zeros(tiny.vocabulary.size)
        matcher.forbid(scores)
        if scores[token] == -math.inf:
            return False
        matcher.consume(token)
    scores = torch.zeros(tiny.vocabulary.size)
    matcher.forbid(scores)
    return bool(scores[tiny.vocabulary.ends[0]] == 0)


def test_schema(tiny: CausalModel, maker: GrammarMaker) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    grammar = maker.json_schema(schema, "response_format")
    assert _takes(tiny, grammar, '{"a": 12}')
    assert not _takes(tiny, grammar, '{"a": "12"}')
    assert not _takes(tiny, grammar, '{"a":  12}')
    assert not _takes(tiny, grammar, "{}")


def test_the_style_of_json_is_pythons(tiny: CausalModel, maker: GrammarMaker) -> None:
    assert _takes(tiny, maker.json_object(), json.dumps({"x": [1, 2, {"y": None}], "z": "é\n"}, ensure_ascii=False))
    assert not _takes(tiny, maker.json_object(), "[1]")


def test_a_schema_may_ask_for_another_style(tiny: CausalModel, maker: GrammarMaker) -> None:
    schema = {"type": "object", "x-guidance": {"item_separator": ",", "key_separator": ":"}}
    assert _takes(tiny, maker.json_schema(schema, "p"), '{"a":1,"b":2}')


def test_regex_choice_and_lark(tiny: CausalModel, maker: GrammarMaker) -> None:
    assert _takes(tiny, maker.regex("[0-9]{3}", "p"), "123")
    assert not _takes(tiny, maker.regex("[0-9]{3}", "p"), "12")
    words = ["yes", 'a "b"\n\\c', "日本"]
    grammar = maker.choice(words, "p")
    assert all(_takes(tiny, grammar, word) for word in words)
    assert not _takes(tiny, grammar, "no")
    assert _takes(tiny, maker.lark('start: "a" "b"+', "p"), "abb")


@pytest.mark.parametrize(
    "schema", [{"type": "nonsense"}, {"$ref": "#/nowhere"}, {"enum": []}, {"type": "string", "pattern": "(?=x)"}]
)
def test_what_cannot_be_compiled_is_the_clients_mistake(maker: GrammarMaker, schema: dict[str, object]) -> None:
    with pytest.raises(BadRequest) as caught:
        maker.json_schema(schema, "response_format")
    assert caught.value.param == "response_format"


def test_other_mistakes(maker: GrammarMaker) -> None:
    with pytest.raises(BadRequest):
        maker.json_schema("not json", "p")
    with pytest.raises(BadRequest):
        maker.regex("(", "p")
    with pytest.raises(BadRequest):
        maker.choice(["a", ""], "p")
    with pytest.raises(BadRequest):
        maker.choice([], "p")
    with pytest.raises(BadRequest):
        maker.lark("start: nowhere", "p")


def test_the_end_of_a_grammar_is_seen(tiny: CausalModel, maker: GrammarMaker) -> None:
    matcher = maker.matcher(maker.choice(["xy"], "p"))
    ended = [matcher.ended]
    for token in tiny.vocabulary.encode("xy", special=False):
        matcher.consume(token)
        ended.append(matcher.ended)
    assert ended == [False, False, True]
    matcher.consume(tiny.vocabulary.ends[0])


def test_a_grammar_that_cannot_be_followed_is_the_clients_mistake(tiny: CausalModel, maker: GrammarMaker) -> None:
    with pytest.raises(BadRequest, match="too complex"):
        maker.matcher(maker.lark("start: a\na: a | b\nb: a", "guided_grammar"))
    matcher = maker.matcher(maker.choice(["secret"], "p"))
    with pytest.raises(BadRequest) as caught:
        matcher.consume(tiny.vocabulary.encode("y", special=False)[0])
    assert "secret" not in str(caught.value) + caught.value.detail


def test_lark_strings() -> None:
    assert lark_string('a"b\\c\n') == '"a\\"b\\\\c\\u000a"'
