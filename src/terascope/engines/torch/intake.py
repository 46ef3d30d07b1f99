"""From a request on the wire to rows for the loop; everything that can be refused is refused here."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from terascope.core.errors import BadRequest, ContextLengthExceeded, UnsupportedFeature
from terascope.engines.adapter_files import HEADER, AdapterFiles
from terascope.engines.torch.chat import ToolUse, prompt_of, tool_use
from terascope.engines.torch.embeds import VectorForm
from terascope.engines.torch.grammar import Grammar, GrammarMaker
from terascope.engines.torch.lora.weights import Adapter
from terascope.engines.torch.prompt_reader import PromptReader
from terascope.engines.torch.prompts import Prompt, Slots
from terascope.engines.torch.rows import RowPlan
from terascope.engines.torch.sampling import Sampling
from terascope.engines.torch.tools import PlainReader
from terascope.engines.torch.vocabulary import Vocabulary
from terascope.protocol.openai import (
    ChatCompletionRequest,
    CompletionRequest,
    ResponseFormat,
    SamplingFields,
)

_MOST_ROWS = 1024
_RANDOM_SEEDS = 2**53  # so that every JSON reader gets the seed as it is
_LEAST_ANSWER = 1

_PRIORITIES = {"0": 0, "1": 1, "2": 2}
_INTERACTIVE = 1

Applied = dict[str, int | float | str | bool]
"""The sampling that was really applied, for the receipt."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the gateway says of a request beside its body.

    `scope` says with whom prefixes are shared, without one with nobody; `priority` whose turn comes first, and `limits`
    (JSON) the most that a trace may take, as in `EngineCall`. `files` are those of the adapter that is asked for,
    `adapter` is that adapter once it is in memory.
    """

    scope: str | None = None
    priority: int = _INTERACTIVE
    limits: str = ""
    files: AdapterFiles | None = None
    adapter: Adapter | None = None

    @classmethod
    def read(cls, headers: Mapping[str, str]) -> "Terms":
        """Return what `headers` say; a priority that is none of 0, 1 and 2 is that of interactive requests.

        Raises `InternalError` for an adapter that is not named as the gateway does.
        """
        priority = _PRIORITIES.get(headers.get("X-Terascope-Priority", ""), _INTERACTIVE)
        limits, files = headers.get("X-Terascope-Trace-Limits", ""), AdapterFiles.read(headers.get(HEADER, ""))
        return cls(headers.get("X-Terascope-Scope"), priority, limits, files)


_NO_TERMS = Terms()


@dataclass(frozen=True, slots=True)
class Order:
    """A request as the loop takes it. `prompts` are the tokens of each prompt, `texts` what is echoed of them."""

    rows: Sequence[RowPlan]
    prompts: Sequence[Sequence[int]]
    applied: Applied
    n: int = 1
    texts: Sequence[str] = ()
    tools: ToolUse = field(default_factory=lambda: ToolUse([], PlainReader))

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts, each counted once."""
        return sum(map(len, self.prompts))


class Intake:
    """Reads requests for one model. Safe to use from several threads; takes as long as tokenizing takes."""

    def __init__(self, vocabulary: Vocabulary, context_length: int, form: VectorForm | None = None) -> None:
        """`form` is that of vectors in place of tokens, where the model takes them."""
        self._vocabulary = vocabulary
        self._context_length = context_length
        self._reader = PromptReader(vocabulary, self, context_length, form)

    def chat(self, request: ChatCompletionRequest, terms: Terms = _NO_TERMS) -> Order:
        """Return what is to be computed, on the gateway's `terms`.

        Raises `BadRequest`, also as `UnsupportedFeature` or `ContextLengthExceeded`; so do all here.
        """
        if request.top_logprobs is not None and not request.logprobs:
            raise BadRequest("top_logprobs needs logprobs to be true", param="top_logprobs")
        use = tool_use(request, self._vocabulary)
        slots = Slots()
        text = prompt_of(request, self._vocabulary, use.shown, slots)
        prompt = self._reader.chat(request, text, slots)
        logprobs = (request.top_logprobs or 0) if request.logprobs else None
        grammar = use.grammar or self._grammar(request, request.response_format)
        asked = request.max_completion_tokens if request.max_completion_tokens is not None else request.max_tokens
        if asked == 0:
            raise BadRequest("an answer needs at least one token", param="max_tokens")
        return self._order(request, [prompt], asked, logprobs, grammar, terms, use=use)

    def completion(self, request: CompletionRequest, terms: Terms = _NO_TERMS) -> Order:
        """See `chat`."""
        if request.suffix:
            raise UnsupportedFeature("this engine cannot fill in before a suffix", param="suffix")
        if request.best_of is not None and request.best_of != (request.n or 1):
            raise UnsupportedFeature("best_of must equal n; rank answers by their logprobs instead", param="best_of")
        prompts = self._reader.completion(request)
        grammar = self._grammar(request, request.response_format)
        texts = [prompt.text for prompt in prompts] if request.echo else ()
        score = request.logprobs if request.echo else None
        asked, told = request.max_tokens, request.logprobs
        return self._order(request, prompts, asked, told, grammar, terms, score=score, texts=texts)

    def tokens(self, text: str, *, special: bool, param: str) -> list[int]:
        """Return the tokens of `text`. One that is certainly too long is refused before it is read."""
        least = len(text.encode()) // self._vocabulary.longest
        if least > self._context_length:
            raise self._too_long(f"at least {least}", 0, param)
        found = self._vocabulary.encode(text, special=special)
        self.check_tokens(found, param)  # a tokenizer may know more than the model
        return found

    def check_tokens(self, tokens: Sequence[int], param: str) -> None:
        """Refuse tokens that the model does not have."""
        if (most := max(tokens, default=0)) >= self._vocabulary.size:
            raise BadRequest(
                f"{param}: the model has no token {most}; the last is {self._vocabulary.size - 1}", param=param
            )

    def check_length(self, tokens: Sequence[int], param: str) -> None:
        """Refuse what is longer than the model's context."""
        if len(tokens) > self._context_length:
            raise self._too_long(str(len(tokens)), 0, param)

    def room(self, prompt: Sequence[int], asked: int | None, param: str) -> int:
        """Return how many tokens the answer may have: those asked for, or the rest of the context.

        Refuses prompts without a token, and those that do not fit together with the answer.
        """
        if not prompt:
            raise BadRequest(f"{param}: the prompt is empty; it has no token to go on from", param=param)
        least = _LEAST_ANSWER if asked is None else asked
        if len(prompt) + least > self._context_length:
            raise self._too_long(str(len(prompt)), least, param)
        return self._context_length - len(prompt) if asked is None else asked

    def _order(
        self,
        request: SamplingFields,
        prompts: Sequence[Prompt],
        asked: int | None,
        logprobs: int | None,
        grammar: Grammar | None,
        terms: Terms,
        *,
        score: int | None = None,
        texts: Sequence[str] = (),
        use: ToolUse | None = None,
    ) -> Order:
        n = request.n or 1
        if not prompts or len(prompts) * n > _MOST_ROWS:
            raise BadRequest(f"one request makes 1 to {_MOST_ROWS} answers, not {len(prompts) * n}", param="prompt")
        param = "messages" if isinstance(request, ChatCompletionRequest) else "prompt"
        seed = request.seed if request.seed is not None else random.SystemRandom().randrange(_RANDOM_SEEDS)
        stops = tuple([request.stop] if isinstance(request.stop, str) else request.stop or ())
        bias = self._bias(request)
        if request.min_tokens and asked is not None and request.min_tokens > asked:
            raise BadRequest(f"min_tokens is {request.min_tokens}, over the {asked} of max_tokens", param="min_tokens")
        rows = []
        for prompt in prompts:
            room = self.room(prompt.tokens, asked, param)
            for choice in range(n):
                plan = RowPlan(
                    prompt.tokens,
                    _sampling(request, seed, choice, bias, logprobs),
                    room,
                    min(request.min_tokens or 0, room),
                    stops,
                    bool(request.ignore_eos),
                    self._grammars().matcher(grammar) if grammar else None,
                    score if choice == 0 else None,
                    _scope(request, terms),
                    prompt.inserts,
                    reproducible=bool(request.reproducible),
                    priority=terms.priority,
                    adapter=terms.adapter,
                )
                rows.append(plan)
        applied = _applied(request, rows[0], asked, grammar)
        if vectors := sum(prompt.vectors for prompt in prompts):
            applied["vectors"] = vectors
        return Order(rows, [prompt.tokens for prompt in prompts], applied, n, texts, *([use] if use else []))

    def _too_long(self, prompt: str, answer: int, param: str) -> ContextLengthExceeded:
        wanted = f" and {answer} were asked for the answer" if answer > _LEAST_ANSWER else ""
        return ContextLengthExceeded(
            f"this model's maximum context length is {self._context_length} tokens, but the prompt has {prompt} "
            f"tokens{wanted}; shorten the prompt or ask for fewer tokens",
            param=param,
        )

    def _bias(self, request: SamplingFields) -> tuple[tuple[int, float], ...]:
        found = []
        for key, value in (request.logit_bias or {}).items():
            if not key.isdecimal() or len(key) > 10 or int(key) >= self._vocabulary.size:
                raise BadRequest(
                    f"logit_bias: {key[:20]!r} is not a token of the model; ids go to {self._vocabulary.size - 1}",
                    param="logit_bias",
                )
            found.append((int(key), float(value)))
        return tuple(found)

    def _grammar(self, request: SamplingFields, wanted: ResponseFormat | None) -> Grammar | None:
        """The grammar that `response_format` or one of vLLM's fields asks for."""
        asked = dict(request.structured_outputs or {})
        asked |= {
            name: value
            for name in ("json", "regex", "choice", "grammar")
            if (value := getattr(request, f"guided_{name}")) is not None
        }
        if wanted is not None and wanted.type != "text":
            return self._response_format(wanted)
        if not asked:
            return None
        if len(asked) > 1:
            raise BadRequest(f"structured_outputs: choose one of {', '.join(asked)}", param="structured_outputs")
        ((kind, value),) = asked.items()
        return _structured(self._grammars(), kind, value)

    def _response_format(self, wanted: ResponseFormat) -> Grammar:
        if wanted.type == "json_object":
            return self._grammars().json_object()
        if wanted.json_schema is None or wanted.json_schema.json_schema is None:
            raise BadRequest("response_format of type json_schema needs json_schema.schema", param="response_format")
        return self._grammars().json_schema(wanted.json_schema.json_schema, "response_format")

    def _grammars(self) -> GrammarMaker:
        if self._vocabulary.grammars is None:
            raise UnsupportedFeature("grammars cannot be used with this model's tokenizer", param="response_format")
        return self._vocabulary.grammars


def _structured(grammars: GrammarMaker, kind: str, value: object) -> Grammar:
    param = f"structured_outputs.{kind}"
    if kind == "json" and isinstance(value, dict | str):
        return grammars.json_schema(value, param)
    if kind == "regex" and isinstance(value, str):
        return grammars.regex(value, param)
    if kind == "choice" and isinstance(value, list) and all(isinstance(one, str) for one in value):
        return grammars.choice(value, param)
    if kind == "grammar" and isinstance(value, str):
        return grammars.lark(value, param)
    if kind == "json_object" and value is True:
        return grammars.json_object()
    raise BadRequest(f"{param}: must be json (a schema), regex, choice (a list of texts) or grammar", param=param)


def _scope(request: SamplingFields, terms: Terms) -> str | None:
    """With whom prefixes are shared: who has the same adapter, for one.

    What was computed in steps of another shape would not be the same bits.
    """
    if terms.scope is None or request.reproducible:
        return None
    adapter = "" if terms.adapter is None else terms.adapter.digest
    return f"{terms.scope}\0{request.cache_salt or ''}\0{adapter}"


def _sampling(
    request: SamplingFields, seed: int, choice: int, bias: tuple[tuple[int, float], ...], logprobs: int | None
) -> Sampling:
    """OpenAI's defaults, whatever the checkpoint recommends: what is not asked for is not applied."""
    return Sampling(
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        top_k=max(0, request.top_k or 0),
        min_p=request.min_p or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        repetition_penalty=request.repetition_penalty or 1.0,
        seed=seed,
        choice=choice,
        bias=bias,
        logprobs=logprobs,
    )


def _applied(request: SamplingFields, row: RowPlan, asked: int | None, grammar: Grammar | None) -> Applied:
    sampling = row.sampling
    said: Applied = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repetition_penalty": sampling.repetition_penalty,
        "seed": sampling.seed,
        "n": request.n or 1,
        "max_tokens": row.max_tokens,
        "min_tokens": row.min_tokens,
        "ignore_eos": row.ignore_eos,
        "stops": len(row.stops),
        "logit_bias": len(sampling.bias),
        "grammar": grammar.kind if grammar else "none",
        "reproducible": row.reproducible,
    }
    return said
