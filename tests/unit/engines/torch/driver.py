"""The batching loop without its thread: a test says who comes at which step. And what it is measured against."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from terascope.core.errors import ServiceError
from terascope.engines.torch.attachment import Attachment, Insert, Part
from terascope.engines.torch.jobs import Job
from terascope.engines.torch.loop import BatchLoop, RowJob
from terascope.engines.torch.lora.weights import Adapter
from terascope.engines.torch.model import CausalModel
from terascope.engines.torch.packed import PackedModel
from terascope.engines.torch.rows import Event, Row, RowPlan, Turn
from terascope.engines.torch.sampling import Sampling, exponentials
from terascope.engines.worker.metrics import Metrics


class Asked:
    """A request of the driver, and what came of it."""

    def __init__(self, job: RowJob, rows: Sequence[Row]) -> None:
        self.job = job
        self.rows = rows
        self.events: list[Event] = []

    @property
    def error(self) -> ServiceError | None:
        return next((event.error for event in self.events if event.error is not None), None)

    def tokens(self, index: int = 0) -> list[int]:
        """The answer of a row."""
        row = self.rows[index]
        return row.tokens[len(row.plan.prompt) :]

    def logprobs(self, index: int = 0) -> list[float]:
        """The log-probabilities that were told of it."""
        mine = [event for event in self.events if event.index == index and event.error is None]
        return [info.logprob for event in mine for info in event.tokens if info.logprob is not None]

    @property
    def cached(self) -> list[int]:
        return [row.cached for row in self.rows]


class Driver(BatchLoop):
    """Takes steps when it is told to."""

    def __init__(
        self,
        model: CausalModel,
        cache_tokens: int = 40_000,
        max_batch: int = 32,
        step_tokens: int = 512,
        extra_rows: int = 0,
    ) -> None:
        closed = asyncio.new_event_loop()
        closed.close()  # news are read here instead
        packed = PackedModel(model.packed.module, cache_tokens)
        packed.fixed_rows = model.packed.fixed_rows
        options = {"max_batch": max_batch, "step_tokens": step_tokens, "extra_rows": extra_rows}
        super().__init__(packed, model.vocabulary, closed, _crashed, Metrics(), **options)
        self.steps = 0
        self.computed = 0
        self.together = 0
        self._asked: dict[RowJob, Asked] = {}

    def ask(self, *plans: RowPlan) -> Asked:
        """Begin a request with these rows."""
        job: RowJob = Job("", plans)
        self._begin(job)
        return self._asked[job]

    def _begin(self, job: RowJob) -> None:
        super()._begin(job)
        self._asked[job] = Asked(job, self._rows[job])

    def step(self) -> None:
        if self._arrived():
            self._obey()
        self._step()
        for job, event in self._out:
            self._asked[job].events.append(event)
        self._out.clear()
        self.steps += 1

    def _compute(self, turns: Sequence[Turn], start: float) -> None:
        self.computed += sum(turn.span.count for turn in turns)
        self.together = max(self.together, len(turns))
        super()._compute(turns, start)

    def finish(self, limit: int = 5000) -> None:
        """Take steps until nobody wants any; everything must be in its place then."""
        for _ in range(limit):
            if not (self._rows or self._arrived()):
                break
            self.step()
        pool = self._packed.pool
        pool.check()
        assert (pool.free, len(self._job_of), len(self._followers)) == (pool.blocks, 0, 0)

    def alone(self, plan: RowPlan) -> Asked:
        """The answer to `plan`, which nothing else is computed beside."""
        asked = self.ask(plan)
        self.finish()
        return asked

    @property
    def preemptions(self) -> int:
        return self._schedule.preemptions


def _crashed(error: BaseException) -> None:
    raise error


def plan(
    prompt: Sequence[int],
    most: int = 12,
    *,
    seed: int | None = None,
    temperature: float = 1.0,
    scope: str | None = None,
    inserts: Sequence[Insert] = (),
    attachments: Sequence[Attachment] = (),
    reproducible: bool = False,
    priority: int = 1,
    adapter: Adapter | None = None,
) -> RowPlan:
    """A row that goes on to the end of what it may have; greedy without a seed."""
    sampling = Sampling(temperature=0 if seed is None else temperature, seed=seed or 0, logprobs=0)
    return RowPlan(
        prompt,
        sampling,
        most,
        ignore_eos=True,
        scope=scope,
        inserts=tuple(inserts),
        attachments=tuple(attachments),
        reproducible=reproducible,
        priority=priority,
        adapter=adapter,
    )


def generated(module: PreTrainedModel, prompt: Sequence[int], most: int) -> list[int]:
    """What transformers' own generate answers greedily."""
    settings = GenerationConfig(do_sample=False, max_new_tokens=most, eos_token_id=None, pad_token_id=0)
    tokens = torch.tensor([list(prompt)], device=module.device)
    # without a mask, generate takes every token 0 for padding
    found = module.generate(tokens, attention_mask=torch.ones_like(tokens), generation_config=settings)
    return [int(token) for token in found[0, len(prompt) :]]


@torch.inference_mode()
def computed(
    module: PreTrainedModel,
    prompt: Sequence[int],
    most: int,
    *,
    seed: int | None = None,
    temperature: float = 1.0,
    inserts: Sequence[Insert] = (),
    attachments: Sequence[Attachment] = (),
) -> tuple[list[int], list[float]]:
    """The answer of a plain loop that computes everything again for each token, with its log-probabilities."""
    tokens = list(prompt)
    logprobs = []
    for position in range(most):
        logits = _last_logits(module, tokens, inserts, attachments)
        if seed is None:
            token = int(logits.argmax())
        else:
            token = int((logits / temperature - exponentials(seed, 0, position, len(logits)).log()).argmax())
        logprobs.append(float(logits.log_softmax(-1)[token]))
        tokens.append(token)
    return tokens[len(prompt) :], logprobs


def _last_logits(
    module: PreTrainedModel, tokens: Sequence[int], inserts: Sequence[Insert], attachments: Sequence[Attachment]
) -> Tensor:
    vectors = module.get_input_embeddings()(torch.tensor([list(tokens)], device=module.device)).clone()
    for insert in inserts:
        vectors[0, insert.place : insert.place + len(insert.vectors)] = insert.vectors
    with ExitStack() as stack:
        for one in attachments:
            stack.enter_context(one.attach(module, Part(0, len(tokens), 0)))
        logits: Tensor = module(inputs_embeds=vectors, use_cache=False).logits[0, -1].float().cpu()
    return logits
