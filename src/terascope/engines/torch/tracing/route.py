"""`POST /v1/traces`: from a request to an answer."""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace

import orjson
from aiohttp import web

from terascope.core.errors import BadRequest, UnsupportedFeature
from terascope.engines.torch import memory
from terascope.engines.torch.chat import prompt_of
from terascope.engines.torch.intake import Terms
from terascope.engines.torch.tracing import answers
from terascope.engines.torch.tracing.call import Call, RowResult
from terascope.engines.torch.tracing.places import Chosen
from terascope.engines.torch.tracing.tools import Tools
from terascope.internals.limits import Cost, Limits, cost_of
from terascope.internals.outputs import capture_outputs, gradient_outputs
from terascope.internals.packing import Spec
from terascope.internals.plan import Format, Prompt, RowTrace, TracePlan
from terascope.internals.reading import read_plan
from terascope.internals.shape import Kind
from terascope.internals.sites import MEANINGS, all_sites, axes, is_writable
from terascope.protocol.openai import ChatMessage, TokenizeRequest
from terascope.protocol.parse import parse
from terascope.protocol.traces import TraceRequest

_MEMORY_SHARE = 4  # of what is available, one call may take a quarter
_KEPT = {Format.SAFETENSORS: 1.0, Format.JSON: 11 / 3}
"""What an answer that is made as a whole takes for each byte of results: them, as JSON also their base64, twice."""
_SEEDS = 2**53


@dataclass(frozen=True, slots=True)
class Order:
    """A request as it is carried out: the plan, the tokens of its prompts by name, what it costs at most."""

    plan: TracePlan
    prompts: Mapping[str, Sequence[int]]
    cost: Cost
    flows: bool
    """Whether results are sent while others are made: then they are too many to be kept."""


class Traces:
    """Answers the traces of one model."""

    def __init__(self, served_name: str, tools: Tools, kept_bytes: int = 64 << 20) -> None:
        """Of a safetensors file up to `kept_bytes` is made before it is sent; a larger one is sent meanwhile."""
        self._served_name, self._tools, self._kept_bytes = served_name, tools, kept_bytes

    def read(self, body: bytes, limits: str = "") -> Order:
        """Return what a request asks. Takes as long as reading its arrays and tokenizing its prompts.

        `limits` is JSON: those of `Limits` that are not the usual ones.

        Raises `BadRequest`, also as `ContextLengthExceeded`, for all that can be known before it is computed.
        """
        asked = parse(TraceRequest, body)
        most = Limits.of(_object(limits))
        plan = read_plan(asked, self._tools.shape, most)
        prompts = {row.name: self._tokens(row, number) for number, row in enumerate(plan.rows)}
        lengths = {name: len(tokens) for name, tokens in prompts.items()}
        cost = cost_of(plan, self._tools.shape, lengths, self._tools.dtype)
        known = plan.format is Format.SAFETENSORS and not any(row.generation.max_tokens for row in plan.rows)
        flows = known and cost.captured_bytes > self._kept_bytes
        kept = 0 if flows or plan.stream else int(cost.captured_bytes * _KEPT[plan.format])
        order = Order(plan, prompts, replace(cost, memory_bytes=cost.memory_bytes + kept), flows)
        self._check(order, most)
        return order

    async def answer(self, request: web.Request, order: Order, request_id: str, terms: Terms) -> web.StreamResponse:
        """Carry `order` out. When the client leaves, the work ends.

        Raises `UnsupportedFeature` for gradients of a model with an adapter.
        """
        if terms.adapter is not None and any(row.gradient is not None for row in order.plan.rows):
            raise UnsupportedFeature("gradients are computed without adapters; ask the base model", param="model")
        headers = {"X-Request-Id": request_id}
        if order.plan.dry_run:
            about = self._about(order, request_id)
            nothing = dict.fromkeys(about.usage, 0)
            told = asdict(order.cost) | {"seconds": self._tools.thread.pace.seconds(order.cost)}
            return _json(about.whole(estimate=told, usage=nothing), headers)
        seed = random.SystemRandom().randrange(_SEEDS)
        call = Call(order.plan, order.prompts, self._tools, request_id, terms=terms, seed=seed)
        specs = {name: self._specs(order, name) for name in call.order}
        sizes = {name: sum(spec.nbytes for spec in own) for name, own in specs.items()}
        async with aclosing(call.results(sizes)) as results:
            return await self._send(request, headers, order, specs, results)

    def sites(self) -> dict[str, object]:
        """Return the model's sites: of each its name, the axes of what it holds for a token, what that means."""
        shape = self._tools.shape
        listed = [
            {
                "site": str(site),
                "axes": [{"name": axis.name, "size": axis.size} for axis in axes(site, shape)],
                "writable": is_writable(site),
                "meaning": MEANINGS[site.place],
            }
            for site in all_sites(shape)
        ]
        modules = {path: list(widths) for path, widths in shape.modules.items()}
        about = {name: one for name, one in asdict(shape).items() if name != "modules"}
        dtype = self._tools.dtype
        return {"model": self._served_name, "dtype": dtype, "shape": about, "sites": listed, "modules": modules}

    async def _send(
        self,
        request: web.Request,
        headers: dict[str, str],
        order: Order,
        specs: Mapping[str, Sequence[Spec]],
        results: AsyncIterator[RowResult],
    ) -> web.StreamResponse:
        about, plan = self._about(order, headers["X-Request-Id"]), order.plan
        if order.flows:
            told = [RowResult(row.name, order.prompts[row.name]) for row in plan.rows]
            return await answers.stream_file(request, headers, about, specs, told, results)
        if plan.stream:
            return await answers.stream_events(request, headers, about, results)
        found = [one async for one in results]
        if len(found) == 1 and found[0].error is not None:
            raise found[0].error
        if plan.format is Format.JSON:
            body = await asyncio.to_thread(answers.as_json, about, plan, found)
            return web.Response(body=body, content_type="application/json", headers=headers)
        layout, arrays = answers.as_file(about, plan, found)
        about = replace(about, usage=about.used(found))
        return await answers.send_file(request, headers, about, layout, arrays)

    def _about(self, order: Order, request_id: str) -> answers.About:
        cost = order.cost
        usage = {
            "prompt_tokens": cost.prompt_tokens,
            "completion_tokens": 0,
            "total_tokens": cost.prompt_tokens,
            "gradient_tokens": cost.gradient_tokens,
            "captured_bytes": cost.captured_bytes,
        }
        return answers.About(request_id, self._served_name, self._tools.bench.table, usage)

    def _check(self, order: Order, limits: Limits) -> None:
        """Refuse what would not fit."""
        room = memory.available() // _MEMORY_SHARE
        replace(limits, memory_bytes=min(limits.memory_bytes, room)).check(order.cost)
        for name in order.prompts:
            self._specs(order, name)

    def _specs(self, order: Order, name: str) -> list[Spec]:
        """What a row gives, if it makes no answer. Raises `BadRequest` for tokens that its prompt does not have."""
        row, tokens = order.plan.row(name), order.prompts[name]
        pieces = [self._tools.bench.table.text_bytes(token) for token in tokens]
        dtype, shape, keys = order.plan.dtype or self._tools.dtype, self._tools.shape, len(tokens)
        found: list[Spec] = []
        for capture in row.captures:
            found += capture_outputs(capture, shape, len(Chosen(capture.where, pieces).of_prompt), keys, dtype)
        if row.gradient is not None:
            counts = [len(Chosen(where, pieces).of_prompt) for where in row.gradient.sites]
            found += gradient_outputs(row.gradient, shape, counts, keys, dtype)
        return found

    def _tokens(self, row: RowTrace, number: int) -> list[int]:
        """The tokens of a row's prompt, which fit into the context together with its answer."""
        param, intake = f"prompts[{number}]", self._tools.intake
        prompt = row.prompt
        if prompt.tokens is not None:
            tokens = list(prompt.tokens)
            intake.check_tokens(tokens, param)
        else:
            text = self._text(prompt)
            tokens = intake.tokens(text, special=prompt.messages is None, param=param)
        if self._tools.shape.kind is Kind.ENCODER:
            if not tokens:
                raise BadRequest(f"{param} is empty", param=param)
            intake.check_length(tokens, param)
        else:
            intake.room(tokens, row.generation.max_tokens, param)
        return tokens

    def _text(self, prompt: Prompt) -> str:
        if prompt.messages is None:
            return prompt.text or ""
        messages = [ChatMessage(role=one.role, content=one.content) for one in prompt.messages]
        return prompt_of(TokenizeRequest(messages=messages), self._tools.vocabulary)


def _object(text: str) -> dict[str, object]:
    found = orjson.loads(text) if text else {}
    return found if isinstance(found, dict) else {}


def _json(value: object, headers: dict[str, str]) -> web.Response:
    return web.json_response(value, headers=headers)
