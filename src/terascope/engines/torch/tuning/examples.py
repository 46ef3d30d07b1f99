"""From a line to what is computed: tokens, vectors among them, and which tokens are learned."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from terascope.core.errors import BadRequest
from terascope.engines.torch.attachment import VECTOR
from terascope.engines.torch.chat import prompt_of
from terascope.engines.torch.embeds import VectorForm, read_vectors
from terascope.engines.torch.prompts import Slots
from terascope.engines.torch.tuning.base import Base
from terascope.engines.torch.tuning.lines import Line
from terascope.protocol.embeds import PART
from terascope.protocol.fine_tuning import ChatLine, CompletionLine, is_learned
from terascope.protocol.openai import ChatMessage, TokenizeRequest


@dataclass(frozen=True, slots=True)
class Example:
    """A row. `tokens` has `VECTOR` where the rows of `vectors` [n, width] stand; `learned` says which are learned."""

    tokens: Sequence[int]
    learned: Sequence[bool]
    vectors: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(slots=True)
class _Draft:
    """An example that is being put together."""

    tokens: list[int] = field(default_factory=list)
    learned: list[bool] = field(default_factory=list)
    vectors: list[Tensor] = field(default_factory=list)

    def add(self, tokens: Sequence[int], *, learned: bool) -> None:
        self.tokens += tokens
        self.learned += [learned] * len(tokens)

    def insert(self, vectors: Tensor) -> None:
        self.vectors.append(vectors)
        self.add([VECTOR] * len(vectors), learned=False)


class _Marks(Slots):
    """Marks that stay the same when the beginning of a conversation is written again."""

    def __init__(self) -> None:
        super().__init__()
        self._given: list[str] = []
        self._next = 0

    def again(self) -> "_Marks":
        self._next = 0
        return self

    def mark(self, embeds: str) -> str:
        self._next += 1
        if self._next > len(self._given):
            self._given.append(super().mark(embeds))
        return self._given[self._next - 1]


class ExampleReader:
    """Reads lines for one base. All here raise `BadRequest`."""

    def __init__(self, base: Base, before: int = 0, vector_width: int = 0) -> None:
        """`before` vectors stand before every row; vectors in lines have `vector_width` numbers, 0: none are there."""
        self._base = base
        self._before = before
        self._form = VectorForm(vector_width, torch.float32)
        self._most = base.context_length - before

    def read(self, line: Line) -> Example:
        """Return the example of a line. Nothing is cut: one that is longer than the context is refused."""
        draft = self._chat(line) if isinstance(line, ChatLine) else self._completion(line)
        if len(draft.tokens) > self._most:
            raise BadRequest(f"it has {len(draft.tokens)} tokens; the context takes {self._most}, and nothing is cut")
        if not self._before and draft.learned:
            draft.learned[0] = False  # nothing stands before it that it could be learned from
        if not any(draft.learned):
            raise BadRequest("it has no token that can be learned")
        return Example(draft.tokens, draft.learned, torch.cat(draft.vectors) if draft.vectors else None)

    def _completion(self, line: CompletionLine) -> _Draft:
        draft = _Draft()
        if isinstance(line.prompt_embeds, str):
            draft.insert(self._vectors(line.prompt_embeds))
        for part in line.prompt_embeds if isinstance(line.prompt_embeds, list) else ():
            if part.type == PART and part.prompt_embeds is not None:
                draft.insert(self._vectors(part.prompt_embeds))
            elif part.type == "text" and part.text is not None:
                draft.add(self._base.vocabulary.encode(part.text, special=not draft.tokens), learned=False)
            else:
                raise BadRequest(f"a part of `{PART}` has a `type`, text or {PART}, and a field of that name")
        if line.prompt is not None:
            draft.add(self._base.vocabulary.encode(line.prompt, special=True), learned=False)
        end = [] if self._base.end is None else [self._base.end]
        draft.add([*self._base.vocabulary.encode(line.completion, special=False), *end], learned=True)
        return draft

    def _chat(self, line: ChatLine) -> _Draft:
        """What the template writes up to an answer is read for itself, as it is when an answer is asked for."""
        draft = _Draft()
        marks = _Marks()
        for text, learned in self._stretches(line, marks):
            for words, embeds in _split(marks, text):
                draft.add(self._base.vocabulary.encode(words, special=False), learned=learned)
                if embeds:
                    draft.insert(self._vectors(embeds))
        return draft

    def _stretches(self, line: ChatLine, marks: _Marks) -> Iterator[tuple[str, bool]]:
        """The conversation as the template writes it, in pieces that are learned and pieces that are not."""
        whole, done = self._written(line, len(line.messages), marks, asking=False), 0
        marks.split(whole)
        for index, message in enumerate(line.messages):
            if is_learned(message):
                before = self._written(line, index, marks, asking=True)
                after = self._written(line, index + 1, marks, asking=False)
                if not (whole.startswith(after) and after.startswith(before)):
                    raise BadRequest(
                        f"messages[{index}]: the model's chat template writes what stands before this answer "
                        "differently once more follows; give it the weight 0, or a line of its own"
                    )
                yield whole[done : len(before)], False
                yield after[len(before) :], True
                done = len(after)

    def _written(self, line: ChatLine, count: int, marks: _Marks, *, asking: bool) -> str:
        messages: list[ChatMessage] = [*line.messages[:count]]
        request = TokenizeRequest.model_construct(messages=messages, add_generation_prompt=asking)
        return prompt_of(request, self._base.vocabulary, line.tools or (), marks.again())

    def _vectors(self, embeds: str) -> Tensor:
        return read_vectors(embeds, self._form, self._most, PART)


def _split(marks: _Marks, text: str) -> list[tuple[str, str]]:
    """As `marks.split`, for a part of the conversation, in which only some marks are."""
    part = Slots({mark: embeds for mark, embeds in marks.embeds.items() if mark in text})
    return part.split(text)
