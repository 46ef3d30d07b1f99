"""One answer in the making: what was decided when it was admitted, and where it stands."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from terascope.core.errors import ServiceError
from terascope.engines.torch.attachment import Attachment, Insert
from terascope.engines.torch.cache import BLOCK, Digests
from terascope.engines.torch.grammar import Matcher
from terascope.engines.torch.layout import Span
from terascope.engines.torch.lora.weights import Adapter
from terascope.engines.torch.sampling import Chooser, Draw, Sampling, TokenInfo
from terascope.engines.torch.vocabulary import Vocabulary
from terascope.engines.worker.text import TextStream

WORST = 2
"""The worst priority that a row can have."""
_LOSSES = 2  # of its blocks, after which a row's priority is one better


class Finish(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class RowPlan:
    """What is decided when a row is admitted; the loop has no special cases beside it.

    A plan is for one row: `matcher` follows that. `score_prompt` asks for the log-probabilities of the prompt,
    with so many rivals each. `scope` says with whom computed prefixes are shared: with rows of the same scope, so it
    must name all that shapes them besides tokens and inserts, such as its adapter; none shares nothing. `inserts` are
    vectors where the prompt has `VECTOR`s, `attachments` see or change what is inside the model, an `adapter` adds its
    terms to it. A `reproducible` row has the same bits at every repeat; it is computed in steps of fixed shape. Rows of
    smaller `priority` (0 urgent, 1 interactive, 2 batch) go first. A `whole` row has its prompt read in one step, and
    shares steps with others of its kind only. `logits_at` are tokens of the prompt whose logits attachments see.
    """

    prompt: Sequence[int]
    sampling: Sampling
    max_tokens: int
    min_tokens: int = 0
    stops: tuple[str, ...] = ()
    ignore_eos: bool = False
    matcher: Matcher | None = None
    score_prompt: int | None = None
    scope: str | None = None
    inserts: tuple[Insert, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    reproducible: bool = False
    priority: int = 1
    whole: bool = False
    logits_at: frozenset[int] = frozenset()
    adapter: Adapter | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """What a step added to the row `index` of its job.

    `prompt` holds log-probabilities of further tokens of the prompt, `tokens` those of the answer whose text
    begins in `text`. With `finish` the row is over, with `error` the whole job. `made` counts the answer's tokens,
    `cached` those of the prompt that were not computed for this row.
    """

    index: int
    text: str = ""
    tokens: Sequence[TokenInfo] = ()
    prompt: Sequence[TokenInfo] = ()
    finish: Finish | None = None
    error: ServiceError | None = None
    made: int = 0
    cached: int = 0


class Row:
    """A row of the batch. Belongs to the loop's thread."""

    def __init__(
        self, index: int, plan: RowPlan, vocabulary: Vocabulary, group: object = None, came: float = 0.0
    ) -> None:
        """`group` is what it has in common with the other rows of its request; `came` is when, in seconds."""
        self.index = index
        self.plan = plan
        self.group = group
        self.tokens = list(plan.prompt)
        self.blocks: list[int] = []
        self.computed = 0  # tokens whose keys and values are in the cache
        self.scored = 0  # tokens of the prompt whose successors' log-probabilities have been told
        self.digests = None if plan.scope is None else Digests(plan.scope, self.tokens, plan.inserts)
        self.published = 0  # blocks that others can find
        self.cached = 0  # tokens of the prompt that were not computed for it
        self.last_round = 0  # when it last had its turn in a step of fixed shape
        self.priority = plan.priority
        self.doubtful = False  # a step was given up that had begun to write to its blocks
        self._losses = 0
        self.came = came
        self.begun = False
        self._table = vocabulary.table
        self._ends = () if plan.ignore_eos else vocabulary.ends
        self._chooser = Chooser(plan.sampling, plan.prompt, vocabulary.ends, plan.matcher)
        self._stream: TextStream[TokenInfo] = TextStream(plan.stops)

    @property
    def pending(self) -> int:
        """Tokens that must be computed before the next one can be chosen."""
        return len(self.tokens) - self.computed

    @property
    def reading(self) -> bool:
        """True while its prompt is read; a reproducible row computes its answer again token by token."""
        return self.computed < len(self.plan.prompt) if self.plan.reproducible else self.pending > 1

    @property
    def made(self) -> int:
        """Tokens of the answer so far."""
        return len(self.tokens) - len(self.plan.prompt)

    @property
    def unscored(self) -> int:
        """Tokens of the prompt whose successors' log-probabilities are still to be told."""
        return 0 if self.plan.score_prompt is None else len(self.plan.prompt) - 1 - self.scored

    def found(self, blocks: int) -> None:
        """Begin after `blocks` blocks that were computed before."""
        self.computed, self.published = blocks * BLOCK, blocks
        if not self.made:
            self.cached = self.computed

    def lost_memory(self) -> None:
        """Begin anew. So that it does not happen to one row forever, it gets a better priority now and then."""
        self.computed = self.published = 0
        self.doubtful = False
        self._losses += 1
        self.priority = max(0, self.plan.priority - self._losses // _LOSSES)

    def draw(self) -> Draw:
        """The row's turn at choosing."""
        return Draw(self._chooser, self.plan.min_tokens)

    def scores(self, span: Span) -> range:
        """The positions in `span` at which the prompt's next token is to be scored."""
        return range(max(span.start, self.scored), min(span.end, self.scored + self.unscored))

    def kept(self, span: Span) -> list[int]:
        """The positions in `span` whose logits are wanted."""
        found = set(self.scores(span)) | {at for at in self.plan.logits_at if span.start <= at < span.end}
        return sorted(found | ({span.end - 1} if span.end == len(self.tokens) else set()))

    def take(self, info: TokenInfo) -> Event | None:
        """Go on by a token; return what there is to tell. Raises `ServiceError` when the grammar fails."""
        self.tokens.append(info.token)
        self._chooser.took(info.token)
        ended = info.token in self._ends
        if not ended:
            piece = self._table.text_bytes(info.token)
            self._stream.push(piece, info, may_stop=self.made >= self.plan.min_tokens)
        finish = self._finish(ended)
        text, infos = self._stream.take()
        if finish is not None:
            rest, more = self._stream.finish()
            text, infos = text + rest, infos + more
        told = infos if self.plan.sampling.logprobs is not None else []
        if not (text or told or finish):
            return None
        return Event(self.index, text, told, finish=finish, made=self.made, cached=self.cached)

    def _finish(self, ended: bool) -> Finish | None:
        matcher = self.plan.matcher
        if ended or self._stream.stopped or (matcher is not None and matcher.ended):
            return Finish.STOP
        return Finish.LENGTH if self.made >= self.plan.max_tokens else None


@dataclass(slots=True)
class Turn:
    """A row's part of one step."""

    row: Row
    span: Span
    fixed: bool = False
    keep: list[int] = field(default_factory=list)

    @property
    def tokens(self) -> list[int]:
        """The tokens that are computed."""
        return self.row.tokens[self.span.start : self.span.end]

    @property
    def last(self) -> bool:
        """True when this is all that was left to compute."""
        return self.span.end == len(self.row.tokens)

    @property
    def chooses(self) -> bool:
        """True when the row gets its next token in this step."""
        return self.last and self.row.plan.max_tokens > 0

    @property
    def of_prompt(self) -> int:
        """How many of the tokens are the prompt's."""
        return max(0, min(self.span.end, len(self.row.plan.prompt)) - self.span.start)
