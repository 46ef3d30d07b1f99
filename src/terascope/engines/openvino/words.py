"""The model's tokenizer, as OpenVINO has it: text to tokens, tokens to text, conversations to prompts."""

from collections.abc import Sequence
from typing import Any

import openvino_genai

from terascope.core.errors import BadRequest, UnsupportedFeature
from terascope.engines.worker.text import TokenTable
from terascope.protocol.openai import ChatMessage


class Words:
    """Wraps the tokenizer; safe to use from several threads."""

    def __init__(self, tokenizer: openvino_genai.Tokenizer) -> None:
        self._tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        pieces = [b""] * (max(vocabulary.values()) + 1)
        for piece, token in vocabulary.items():
            pieces[token] = piece
        each = [[token] for token in range(len(pieces))]
        shown, named = (tokenizer.decode(each, skip_special_tokens=skip) for skip in (True, False))
        special = [token for token in range(len(pieces)) if named[token] and not shown[token]]
        self.table = TokenTable(pieces, special)
        self.has_template = bool(tokenizer.chat_template)

    @property
    def size(self) -> int:
        """How many tokens there are."""
        return len(self.table)

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Return the tokens of `text`."""
        return (
            [int(one) for one in self._tokenizer.encode(text, add_special_tokens=special).input_ids.data[0]]
            if text
            else []
        )

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of `tokens`, special ones by name."""
        return b"".join(map(self.table.name_bytes, tokens)).decode(errors="replace")

    def render(self, messages: Sequence[ChatMessage], *, prompted: bool = True) -> str:
        """Return the prompt of a conversation. Raises `BadRequest` when the chat template refuses it."""
        if not self.has_template:
            raise UnsupportedFeature("this model has no chat template; use /v1/completions", param="messages")
        try:
            return str(self._tokenizer.apply_chat_template([_message(one) for one in messages], prompted))
        except (RuntimeError, TypeError) as error:
            words = str(error).strip().split("\n")[-1][:200]
            raise BadRequest(f"the model's chat template does not take this: {words}", param="messages") from None


def _message(message: ChatMessage) -> dict[str, Any]:
    content = message.content or ""
    if isinstance(content, list):
        if other := [part.type for part in content if part.type != "text" or part.text is None]:
            raise UnsupportedFeature(f"this model takes text, not parts of type {other[0][:40]!r}", param="messages")
        content = "\n".join(part.text or "" for part in content)
    return {"role": message.role, "content": content}
