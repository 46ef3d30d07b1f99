"""Grammars that an answer must follow, by llguidance: JSON schemas, regular expressions, choices, Lark."""

import math
from dataclasses import dataclass
from typing import Any

import llguidance
import torch
from torch import Tensor

from terascope.core.errors import BadRequest

JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""How JSON is written, as Python's `json` has it: a small model left free here may add spaces for ever."""
_WORD = 32  # bits of one element of a mask


@dataclass(frozen=True, slots=True)
class Grammar:
    """A grammar that has been checked; `kind` is for people, `param` is where the request has it."""

    kind: str
    source: str
    param: str


class GrammarMaker:
    """Checks grammars and makes matchers for one vocabulary. Safe to use from several threads."""

    def __init__(self, tokenizer: llguidance.LLTokenizer) -> None:
        self._tokenizer = tokenizer

    def json_schema(self, schema: dict[str, Any] | str, param: str) -> Grammar:
        """A grammar of JSON that `schema` allows. Raises `BadRequest` naming `param`, as all here do."""
        try:
            source = llguidance.LLMatcher.grammar_from_json_schema(schema, defaults=JSON_STYLE)
        except ValueError as error:
            raise BadRequest(f"{param}: {error}", param=param) from None
        return self._checked("json_schema", source, param)

    def json_object(self) -> Grammar:
        """A grammar of any JSON object."""
        source = llguidance.LLMatcher.grammar_from_json_schema({"type": "object"}, defaults=JSON_STYLE)
        return Grammar("json_object", source, "response_format")

    def regex(self, pattern: str, param: str) -> Grammar:
        """A grammar of what `pattern` matches from end to end."""
        return self._checked("regex", llguidance.LLMatcher.grammar_from_regex(pattern), param)

    def choice(self, words: list[str], param: str) -> Grammar:
        """A grammar of exactly one of `words`."""
        if not words or not all(words):
            raise BadRequest(f"{param}: needs at least one choice, and none may be empty", param=param)
        rules = " | ".join(lark_string(word) for word in words)
        return self.lark(f"start: {rules}", param, kind="choice")

    def lark(self, text: str, param: str, kind: str = "grammar") -> Grammar:
        """A grammar in llguidance's dialect of Lark."""
        return self._checked(kind, llguidance.LLMatcher.grammar_from_lark(text), param)

    def matcher(self, grammar: Grammar) -> "Matcher":
        """Return a new matcher at the beginning of `grammar`. Raises `BadRequest` when that is over the limits."""
        matcher = llguidance.LLMatcher(self._tokenizer, grammar.source, log_level=0)
        matcher.compute_bitmask()  # the first step shows whether the whole can be followed
        if matcher.is_error():
            raise _too_complex(grammar.param)
        return Matcher(matcher, grammar.param)

    def _checked(self, kind: str, source: str, param: str) -> Grammar:
        problem = llguidance.LLMatcher.validate_grammar(source, self._tokenizer)
        if problem and not problem.startswith("WARNING"):
            raise BadRequest(f"{param}: the grammar library cannot use this: {problem.splitlines()[0]}", param=param)
        return Grammar(kind, source, param)


class Matcher:
    """Follows one answer through its grammar."""

    def __init__(self, matcher: llguidance.LLMatcher, param: str) -> None:
        self._matcher = matcher
        self._param = param

    def forbid(self, scores: Tensor) -> None:
        """Set `scores` [vocabulary] to minus infinity where no answer of the grammar goes on, in place.

        Raises `BadRequest` when the grammar turns out to be over the limits; so does `consume`.
        """
        size = scores.shape[-1]
        mask = torch.zeros((size + _WORD - 1) // _WORD, dtype=torch.int32)
        self._matcher.unsafe_compute_mask_ptr(mask.data_ptr(), mask.numel() * mask.element_size())
        if self._matcher.is_error():
            raise _too_complex(self._param)
        bits = (mask[:, None] >> torch.arange(_WORD, dtype=torch.int32)) & 1
        scores.masked_fill_(bits.flatten()[:size].to(scores.device) == 0, -math.inf)

    def consume(self, token: int) -> None:
        """Go on by `token`, one that was not forbidden."""
        if not self._matcher.is_stopped() and not self._matcher.consume_token(token):
            raise _too_complex(self._param)

    @property
    def ended(self) -> bool:
        """True when nothing but the end can come."""
        return bool(self._matcher.is_stopped())


def lark_string(text: str) -> str:
    """`text` as a string of a Lark grammar."""
    escaped = "".join(
        f"\\u{ord(c):04x}" if ord(c) < 0x20 else c for c in text.replace("\\", "\\\\").replace('"', '\\"')
    )
    return f'"{escaped}"'


def _too_complex(param: str) -> BadRequest:
    # the library's own words quote the answer; they are for nobody's log
    return BadRequest(f"{param}: the grammar is too complex to be followed, or matches nothing", param=param)
