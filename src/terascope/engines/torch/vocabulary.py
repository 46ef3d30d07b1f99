"""A model's tokenizer: text to tokens, tokens to text, conversations to prompts."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import jinja2.meta
import llguidance
import llguidance.hf
from transformers import PreTrainedTokenizerBase

from terascope.core.errors import BadRequest
from terascope.engines.torch.grammar import GrammarMaker
from terascope.engines.worker.text import TokenTable

_BYTE_255 = ("\u00ff", "<0xFF>")  # how byte-level and SentencePiece vocabularies write it


class Vocabulary:
    """Wraps a transformers tokenizer; safe to use from several threads."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, size: int, ends: Sequence[int]) -> None:
        """`size` is the width of the model's logits, `ends` are the tokens that end an answer."""
        self.size = size
        self.ends = tuple(ends)
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._fast = getattr(tokenizer, "backend_tokenizer", None)
        if self._fast is not None:  # files may ask for what only training wants: never cut, never fill up
            self._fast.no_truncation()
            self._fast.no_padding()
        parser = self._parser()
        self.grammars = GrammarMaker(parser) if parser else None
        self.table = TokenTable(self._pieces(parser), _special(tokenizer))
        self.longest = max((len(self.table.name_bytes(i)) for i in range(len(self.table))), default=1)
        self.template_names = _names(tokenizer.chat_template)

    @property
    def has_template(self) -> bool:
        """True when the model can take conversations."""
        return bool(self._tokenizer.chat_template)

    @property
    def template(self) -> str:
        """The source of the default chat template."""
        template = self._tokenizer.chat_template
        return str(template.get("default", "")) if isinstance(template, dict) else template or ""

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Return the tokens of `text`; `special` adds what the tokenizer adds to a text, such as a beginning."""
        if self._fast is not None:
            return list(self._fast.encode(text, add_special_tokens=special).ids)
        with self._lock:
            return list(self._tokenizer.encode(text, add_special_tokens=special))

    def offsets(self, text: str, *, special: bool) -> list[tuple[int, int]] | None:
        """Which characters of `text` its tokens are, as `encode` has them; None where the tokenizer cannot say."""
        if self._fast is None:
            return None
        return list(self._fast.encode(text, add_special_tokens=special).offsets)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of `tokens`, special ones by name."""
        with self._lock:
            return str(self._tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))

    def names(self, tokens: Sequence[int]) -> list[str]:
        """Return how the tokenizer's own files write `tokens`."""
        with self._lock:
            return [str(name) for name in self._tokenizer.convert_ids_to_tokens(list(tokens))]

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """Return the text of each of `tokens` alone; bytes that are no whole character become U+FFFD."""
        return [self.table.name_bytes(token).decode(errors="replace") for token in tokens]

    def render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, **options: Any) -> str:
        """Return the prompt of a conversation. Raises `BadRequest` when the chat template refuses it."""
        try:
            prompt = self._tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, **options)
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            words = str(error).split("\n", 1)[0][:300]
            raise BadRequest(f"the model's chat template does not take this: {words}", param="messages") from None
        return str(prompt)

    def _parser(self) -> llguidance.LLTokenizer | None:
        if self._fast is None:
            return None
        try:
            return llguidance.hf.from_tokenizer(self._tokenizer, n_vocab=self.size, eos_token=list(self.ends) or None)
        except ValueError:
            return None  # a kind of tokenizer that the grammar library does not know: then there are no grammars

    def _pieces(self, parser: llguidance.LLTokenizer | None) -> list[bytes]:
        known = range(min(len(self._tokenizer), self.size))
        if parser is None:
            return [self._after_another(token).encode() for token in known]
        pieces = [bytes(parser.decode_bytes([token])) for token in known]
        for token, name in enumerate(self.names(known)):
            if name in _BYTE_255:  # the one byte that the grammar library keeps for itself
                pieces[token] = b"\xff"
        return pieces

    def _after_another(self, token: int) -> str:
        """The text that `token` adds to a text; the first of a text may lose a space that belongs to it."""
        anchor = next(iter(self._tokenizer.encode("a", add_special_tokens=False)), token)
        before, both = self.decode([anchor]), self.decode([anchor, token])
        return both[len(before) :] if both.startswith(before) else self.decode([token])


def _special(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    added: Mapping[int, Any] = tokenizer.added_tokens_decoder
    return {*tokenizer.all_special_ids, *(token for token, about in added.items() if about.special)}


def _names(template: str | dict[str, str] | None) -> frozenset[str]:
    """The variables that a chat template uses; `tools` is among them when it can show tools to the model."""
    found: set[str] = set()
    for source in template.values() if isinstance(template, dict) else [template] if template else []:
        try:
            environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])  # noqa: S701 - only parsed here
            found |= jinja2.meta.find_undeclared_variables(environment.parse(_without_generation(source)))
        except jinja2.TemplateError:
            found |= {"tools"} if "tools" in source else set()
    return frozenset(found)


def _without_generation(source: str) -> str:
    """Take out the one tag that transformers adds to Jinja."""
    return source.replace("{% generation %}", "").replace("{% endgeneration %}", "")
