"""From what a request has for a prompt (text, tokens, vectors, a soft prompt) to what a row begins with."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from terascope.core.errors import BadRequest, UnsupportedFeature
from terascope.engines.torch.embeds import VectorForm, in_form, read_vectors
from terascope.engines.torch.projector import Projector, Projectors
from terascope.engines.torch.prompts import Prompt, Slots, joined
from terascope.engines.torch.vocabulary import Vocabulary
from terascope.protocol.embeds import PART
from terascope.protocol.openai import CompletionRequest, ContentPart, PromptEmbeds, SamplingFields

Pieces = list[Sequence[int] | Tensor]


class ReadsTokens(Protocol):
    """Reads texts, and refuses tokens that the model does not have."""

    def tokens(self, text: str, *, special: bool, param: str) -> list[int]:
        """Return the tokens of `text`. Raises `BadRequest`."""
        ...

    def check_tokens(self, tokens: Sequence[int], param: str) -> None:
        """Raise `BadRequest` for tokens that there are not."""
        ...


class PromptReader:
    """Reads prompts for one model. Safe to use from several threads. All here raise `BadRequest`."""

    def __init__(
        self, vocabulary: Vocabulary, reader: ReadsTokens, context_length: int, form: VectorForm | None
    ) -> None:
        """`form` is that of vectors in place of tokens, where the model takes them."""
        self._vocabulary = vocabulary
        self._reader = reader
        self._context_length = context_length
        self._form = form
        self._projectors = Projectors()

    def chat(self, request: SamplingFields, text: str, slots: Slots) -> Prompt:
        """Return the prompt of a conversation that a template has written as `text`, vectors in `slots`."""
        projector = self._projector(request)
        pieces = self._soft(request)
        for words, embeds in slots.split(text):
            pieces.append(self._reader.tokens(words, special=False, param="messages"))
            pieces += [self._vectors(embeds, "messages", projector)] if embeds else []
        return joined(pieces)

    def completion(self, request: CompletionRequest) -> list[Prompt]:
        """Return the prompts of a completion."""
        special = request.add_special_tokens is not False
        soft = self._soft(request)
        if request.prompt_embeds is not None:
            if request.prompt:
                raise BadRequest(f"give `prompt` or `{PART}`; parts of `{PART}` can be text, too", param=PART)
            projector = self._projector(request)
            several = _parts_list(request.prompt_embeds)
            return [self._mixed(soft, parts, projector, special=special) for parts in several]
        if request.prompt is None:
            raise BadRequest("prompt: must be given", param="prompt")
        plain = [self._plain(one, special=special, param="prompt") for one in prompt_list(request.prompt)]
        return [joined([*soft, one.tokens], one.text) if soft and one.tokens else one for one in plain]

    def _plain(self, one: str | list[int], *, special: bool, param: str) -> Prompt:
        if isinstance(one, str):
            return Prompt(self._reader.tokens(one, special=special, param=param), text=one)
        self._reader.check_tokens(one, param)
        return Prompt(one, text=self._vocabulary.decode(one))

    def _mixed(
        self, soft: Pieces, parts: Sequence[ContentPart], projector: Projector | None, *, special: bool
    ) -> Prompt:
        """Each text is read for itself; what the tokenizer adds to a text it adds to a first one only."""
        pieces: Pieces = []
        text = ""
        for part in parts:
            given = {"text": part.text, "tokens": part.tokens, PART: part.prompt_embeds}.get(part.type)
            if given is None:
                raise BadRequest(
                    f"{PART}: a part has a `type`, text, tokens or {PART}, and a field of that name", param=PART
                )
            if part.type == PART and part.prompt_embeds is not None:
                pieces.append(self._vectors(part.prompt_embeds, PART, projector))
            else:
                plain = self._plain(given, special=special and not pieces, param=PART)
                pieces.append(plain.tokens)
                text += plain.text
        return joined([*soft, *pieces], text)

    def _soft(self, request: SamplingFields) -> Pieces:
        """The soft prompt that stands before everything, if there is one."""
        return [self._vectors(request.soft_prompt, "soft_prompt", None)] if request.soft_prompt else []

    def _projector(self, request: SamplingFields) -> Projector | None:
        """What the request's own vectors go through."""
        if request.encoder is None:
            return None
        if isinstance(request.encoder, str):
            raise BadRequest("the gateway knows projectors by name, the engine does not", param="encoder")
        form = self._known_form("encoder")
        found = self._projectors.read(request.encoder.data, request.encoder.activation)
        if found.output != form.width:
            raise BadRequest(
                f"the encoder gives {found.output} numbers, but this model takes {form.width}", param="encoder"
            )
        return found

    def _vectors(self, embeds: str, param: str, projector: Projector | None) -> Tensor:
        form = self._known_form(param)
        if projector is None:
            return read_vectors(embeds, form, self._context_length, param)
        own = read_vectors(embeds, VectorForm(projector.width, torch.float32), self._context_length, param)
        return in_form(projector(own), form, param)

    def _known_form(self, param: str) -> VectorForm:
        if self._form is None:
            raise UnsupportedFeature("this model takes no vectors in place of tokens", param=param)
        return self._form


def prompt_list(given: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]) -> list[str | list[int]]:
    """Return the prompts, or inputs, in `given`: texts and lists of tokens."""
    if isinstance(given, str):
        return [given]
    tokens = [one for one in given if isinstance(one, int)]
    if tokens:
        return [tokens]
    return [one if isinstance(one, str) else list(one) for one in given if not isinstance(one, int)]


def _parts_list(given: PromptEmbeds) -> list[list[ContentPart]]:
    """The prompts in `prompt_embeds`, as parts."""
    if isinstance(given, str):
        return [[ContentPart(type=PART, prompt_embeds=given)]]
    parts = [one for one in given if isinstance(one, ContentPart)]
    if parts:
        return [parts]
    return [
        [ContentPart(type=PART, prompt_embeds=one)] if isinstance(one, str) else one
        for one in given
        if not isinstance(one, ContentPart)
    ]
