"""From a request on the wire to rows for the pipeline; everything that can be refused is refused here."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import openvino_genai

from terascope.core.errors import BadRequest, ContextLengthExceeded, UnsupportedFeature
from terascope.engines.openvino.pipeline import Row
from terascope.engines.openvino.words import Words
from terascope.protocol.openai import ChatCompletionRequest, CompletionRequest, SamplingFields

_MOST_ROWS = 256
_RANDOM_SEEDS = 2**32
_REFUSED = (
    "logprobs", "top_logprobs", "logit_bias", "reproducible", "prompt_embeds", "soft_prompt", "tools", "echo", "suffix",
    "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar",
)  # fmt: skip
"""What the pipeline does not offer, or not as it is asked for (the log-probability of the chosen token only), or what
could end it (grammars)."""


@dataclass(frozen=True, slots=True)
class Order:
    """A request as the pipeline takes it: `n` rows for each prompt, in order."""

    rows: Sequence[Row]
    stops: tuple[str, ...]
    prompt_tokens: int
    applied: dict[str, object]


class Intake:
    """Reads requests for one model. All raise `BadRequest`, also as `UnsupportedFeature` or `ContextLengthExceeded`."""

    def __init__(self, words: Words, ends: Sequence[int], context_length: int) -> None:
        self._words = words
        self._ends = set(ends)
        self._context_length = context_length

    def chat(self, request: ChatCompletionRequest) -> Order:
        """Return what is to be computed for a conversation."""
        if request.tool_choice not in (None, "none", "auto"):
            raise UnsupportedFeature("this engine calls no tools; use the torch engine", param="tool_choice")
        prompted = request.add_generation_prompt is not False and not request.continue_final_message
        prompt = self._encode(self._words.render(request.messages, prompted=prompted), False, "messages")
        asked = request.max_completion_tokens if request.max_completion_tokens is not None else request.max_tokens
        return self._order(request, [prompt], asked, "messages")

    def completion(self, request: CompletionRequest) -> Order:
        """Return what is to be computed for texts or tokens."""
        if request.best_of is not None and request.best_of != (request.n or 1):
            raise UnsupportedFeature("best_of must equal n", param="best_of")
        return self._order(request, self._prompts(request), request.max_tokens, "prompt")

    def tokens(self, tokens: Sequence[int], param: str) -> list[int]:
        """Return `tokens`; refuse those that there are not."""
        if any(not 0 <= one < self._words.size for one in tokens):
            raise BadRequest(f"{param}: the model's tokens go from 0 to {self._words.size - 1}", param=param)
        return list(tokens)

    def _prompts(self, request: CompletionRequest) -> list[list[int]]:
        given = request.prompt
        several = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
        special = request.add_special_tokens is not False
        return [
            self._encode(one, special, "prompt") if isinstance(one, str) else self.tokens(one or [], "prompt")  # type: ignore[arg-type]  # a list of ints
            for one in several
        ]

    def _encode(self, text: str, special: bool, param: str) -> list[int]:
        if len(text) > 64 * self._context_length:
            raise ContextLengthExceeded(f"the prompt is over the context of {self._context_length} tokens", param=param)
        return self._words.encode(text, special=special)

    def _order(self, request: SamplingFields, prompts: list[list[int]], asked: int | None, param: str) -> Order:
        for name in _REFUSED:
            if getattr(request, name, None) not in (None, False, [], {}):
                raise UnsupportedFeature(f"this engine cannot do `{name}`; use the torch engine", param=name)
        count = request.n or 1
        if len(prompts) * count > _MOST_ROWS:
            raise BadRequest(f"one request makes at most {_MOST_ROWS} answers", param=param)
        seed = request.seed if request.seed is not None else random.SystemRandom().randrange(_RANDOM_SEEDS)
        rows = [
            Row(prompt, self._config(request, self._room(prompt, asked, param), seed + choice))
            for prompt in prompts
            for choice in range(count)
        ]
        stops = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
        applied = {"seed": seed, "max_tokens": rows[0].config.max_new_tokens, "n": count}
        applied |= {name: getattr(rows[0].config, name) for name in ("temperature", "top_p", "top_k", "do_sample")}
        return Order(rows, stops, sum(map(len, prompts)), applied)

    def _room(self, prompt: Sequence[int], asked: int | None, param: str) -> int:
        if not prompt:
            raise BadRequest(f"{param}: the prompt is empty; it has no token to go on from", param=param)
        if asked == 0:
            raise BadRequest("an answer needs at least one token", param="max_tokens")
        if len(prompt) + (asked or 1) > self._context_length:
            raise ContextLengthExceeded(
                f"this model's maximum context length is {self._context_length} tokens; the prompt has {len(prompt)}"
                f" and {asked or 1} were asked for: shorten the prompt or ask for fewer",
                param=param,
            )
        return asked or self._context_length - len(prompt)

    def _config(self, request: SamplingFields, room: int, seed: int) -> openvino_genai.GenerationConfig:
        if (request.min_tokens or 0) > room:
            raise BadRequest(f"min_tokens is over the {room} tokens of the answer", param="min_tokens")
        temperature = 1.0 if request.temperature is None else request.temperature
        top_p = 1.0 if request.top_p is None else request.top_p
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.min_new_tokens = room, request.min_tokens or 0
        config.ignore_eos = bool(request.ignore_eos)
        config.stop_token_ids = set() if request.ignore_eos else self._ends
        config.do_sample = temperature > 0 and top_p > 0 and request.top_k != 1
        config.rng_seed = seed % 2**63
        if config.do_sample:
            config.temperature, config.top_p, config.min_p = temperature, top_p, request.min_p or 0.0
            config.top_k = request.top_k if request.top_k and request.top_k > 0 else self._words.size
        config.presence_penalty = request.presence_penalty or 0.0
        config.frequency_penalty = request.frequency_penalty or 0.0
        config.repetition_penalty = request.repetition_penalty or 1.0
        config.structured_output_config = _grammar(request)
        _validate(config)
        return config


def _grammar(request: SamplingFields) -> openvino_genai.StructuredOutputConfig | None:
    """What `response_format` binds the answer to: any JSON object, or nothing.

    A schema that OpenVINO cannot read stops its pipeline for everybody, and there is no way to try one before.
    """
    wanted = request.response_format if isinstance(request, ChatCompletionRequest | CompletionRequest) else None
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type != "json_object":
        raise UnsupportedFeature(
            "this engine knows `json_object` only; for schemas use the torch engine", param="response_format"
        )
    return openvino_genai.StructuredOutputConfig(json_schema='{"type": "object"}')


def _validate(config: openvino_genai.GenerationConfig) -> None:
    try:
        config.validate()
    except RuntimeError as error:
        words = str(error).strip().split("\n")[-1][:300]
        raise BadRequest(f"the engine does not take this: {words}") from None
