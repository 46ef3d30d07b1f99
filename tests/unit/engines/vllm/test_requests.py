"""What is added to a request on its way to vLLM, and what is refused before it gets there."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as some

from terascope.core.errors import BadRequest, UnsupportedFeature
from terascope.engines.contract import EngineCall
from terascope.engines.vllm.requests import body_of

_VALUES = some.recursive(
    some.none() | some.booleans() | some.integers(-(2**53), 2**53) | some.text(),
    lambda inner: some.lists(inner) | some.dictionaries(some.text(), inner),
    max_leaves=10,
)
_ODD = {"prompt_embeds", "soft_prompt", "reproducible", "stream", "cache_salt"}


def call(body: bytes, scope: str = "me", priority: int = 2, endpoint: str = "chat/completions") -> EngineCall:
    return EngineCall("req_1", endpoint, body, scope, priority)


def fields(body: dict[str, Any], **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(body_of(call(orjson.dumps(body), **more)))
    return found


@given(some.dictionaries(some.text().filter(lambda name: name not in _ODD), _VALUES))
def test_the_rest_of_a_request_is_as_it_came(body: dict[str, Any]) -> None:
    found = fields(body)
    assert found.pop("priority") == 2
    assert len(found.pop("cache_salt")) == 32
    assert found == {name: value for name, value in body.items() if name != "priority"}


@given(some.text(min_size=1), some.text(min_size=1))
def test_salts_are_as_different_as_scopes(one: str, other: str) -> None:
    salts = [fields({}, scope=scope)["cache_salt"] for scope in (one, other)]
    assert (salts[0] == salts[1]) == (one == other)
    assert all(salt.isalnum() for salt in salts)


def test_a_client_cannot_choose_its_turn() -> None:
    assert fields({"priority": -100}) == fields({})
    assert fields({}, scope="") == {"priority": 2, "cache_salt": None}


@given(some.text(), some.text(), some.text(), some.text())
def test_a_client_s_salt_divides_its_scope(scope: str, own: str, other_scope: str, other: str) -> None:
    """And never leads into another's."""
    one = fields({"cache_salt": own}, scope=scope)["cache_salt"]
    two = fields({"cache_salt": other}, scope=other_scope)["cache_salt"]
    assert (one == two) == ((scope, own) == (other_scope, other))


def test_a_salt_that_is_none_is_vllm_s_to_refuse() -> None:
    assert fields({"cache_salt": 7}) == {"cache_salt": 7, "priority": 2}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b'"stream":"', b"[" * 5000, b" { "])
def test_what_is_no_object_is_vllm_s_to_refuse(body: bytes) -> None:
    assert body_of(call(body)) == body


def test_words_are_counted_without_terms() -> None:
    assert body_of(call(b'{"prompt":"x"}', endpoint="tokenize")) == b'{"prompt":"x"}'
    assert json.loads(body_of(call(b"{ } \n"))) == fields({})


@pytest.mark.parametrize("name", ["prompt_embeds", "soft_prompt", "reproducible"])
def test_what_vllm_would_pass_over(name: str) -> None:
    with pytest.raises(UnsupportedFeature, match=name):
        body_of(call(orjson.dumps({"messages": [], name: "AAAA"})))
    assert name in fields({name: None})
    assert fields({"messages": [{"role": "user", "content": f'"{name}"'}]})["priority"] == 2


@pytest.mark.parametrize("stream", ["yes", "", 1, 0])
def test_what_vllm_would_take_for_a_stream(stream: object) -> None:
    with pytest.raises(BadRequest, match="stream"):
        body_of(call(orjson.dumps({"stream": stream})))
    assert fields({"stream": True})["stream"] is True
