"""A model that answers over HTTP: requests in, news of the pipeline out."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import openvino_genai
from aiohttp import web

from terascope._version import __version__
from terascope.core.errors import BadRequest, ModelNotFound, UnsupportedFeature
from terascope.core.models import Capabilities, Feature
from terascope.engines.contract import EngineInfo
from terascope.engines.openvino.answers import Answer
from terascope.engines.openvino.checkpoint import find
from terascope.engines.openvino.intake import Intake, Order
from terascope.engines.openvino.pipeline import News, Pipeline, open_pipeline
from terascope.engines.openvino.settings import WorkerSettings
from terascope.engines.openvino.words import Words
from terascope.engines.worker.metrics import Metrics
from terascope.engines.worker.replies import (
    applied,
    event_stream,
    id_header,
    ignored,
    json_event,
    json_reply,
    send_events,
)
from terascope.protocol.openai import (
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    SamplingFields,
    TokenizeRequest,
)
from terascope.protocol.parse import parse
from terascope.protocol.sse import DONE

Asked = TypeVar("Asked", ChatCompletionRequest, CompletionRequest)
_CONTEXT_LENGTH = 4096  # of a checkpoint that does not say
_FEATURES = frozenset(map(str, (Feature.SEED, Feature.TOKEN_PROMPTS, Feature.SEVERAL_GREEDY)))


def load(
    settings: WorkerSettings,
    loop: asyncio.AbstractEventLoop,
    crashed: Callable[[BaseException], None],
    metrics: Metrics,
    report: Callable[[str], None],
) -> "Generator":
    """Load the model and start computing; takes seconds, so call it in a thread. Raises `ConfigError`."""
    report("looking at the checkpoint")
    found = find(settings.model_dir)
    report("loading weights")
    pipeline = open_pipeline(settings, str(found.path))
    words = Words(pipeline.get_tokenizer())
    longest = found.context_length or _CONTEXT_LENGTH
    context_length = min(settings.context_length or longest, longest)
    chat = ("chat/completions",) if words.has_template else ()
    details = {
        "served_name": settings.served_name, "openvino_genai": openvino_genai.__version__,
        "threads": settings.threads or len(os.sched_getaffinity(0)), "file": found.path.name,
    }  # fmt: skip
    info = EngineInfo(
        "openvino",
        __version__,
        Capabilities(frozenset((*chat, "completions", "tokenize", "detokenize")), _FEATURES),
        context_length,
        settings.dtype,
        "cpu",
        tuple((name, str(value)) for name, value in details.items()),
        slots=settings.max_batch,
    )
    ends = sorted({pipeline.get_config().eos_token_id, *pipeline.get_config().stop_token_ids} - {-1})
    return Generator(info, settings.served_name, words, ends, Pipeline(pipeline, loop, crashed, metrics))


class Generator:
    """A language model that answers. `httpd.Served`."""

    def __init__(self, info: EngineInfo, served_name: str, words: Words, ends: list[int], pipeline: Pipeline) -> None:
        self.info = info
        self._served_name = served_name
        self._words = words
        self._ends = frozenset(ends)
        self._intake = Intake(words, ends, info.context_length)
        self._pipeline = pipeline

    async def answer(self, endpoint: str, request: web.Request) -> web.StreamResponse:
        """See `Served.answer`."""
        body = await request.read()
        if endpoint == "v1/chat/completions":
            chat = self._named(parse(ChatCompletionRequest, body))
            return await self._generate(request, chat, await asyncio.to_thread(self._intake.chat, chat), chat=True)
        if endpoint == "v1/completions":
            asked = self._named(parse(CompletionRequest, body))
            order = await asyncio.to_thread(self._intake.completion, asked)
            return await self._generate(request, asked, order, chat=False)
        if endpoint == "tokenize":
            return json_reply(self._tokenize(parse(TokenizeRequest, body)), id_header(request))
        if endpoint == "detokenize":
            return json_reply(self._detokenize(parse(DetokenizeRequest, body)), id_header(request))
        raise UnsupportedFeature("the openvino engine answers chats and completions only", param="model")

    def stop(self) -> None:
        """See `Served.stop`."""
        self._pipeline.stop()

    def join(self, timeout_s: float) -> bool:
        """See `Served.join`."""
        return self._pipeline.join(timeout_s)

    def _named(self, asked: Asked) -> Asked:
        self._check_name(asked.model)
        return asked

    def _check_name(self, name: str | None) -> None:
        if name is not None and name != self._served_name:
            raise ModelNotFound(f"this engine serves {self._served_name!r}, not {name[:100]!r}", param="model")

    def _tokenize(self, asked: TokenizeRequest) -> dict[str, object]:
        """OpenVINO's tokenizer does not say which characters its tokens are, so there are never `offsets`."""
        self._check_name(asked.model)
        if asked.messages is not None:
            text, special = self._words.render(asked.messages), bool(asked.add_special_tokens)
        elif asked.prompt is not None:
            text, special = asked.prompt, asked.add_special_tokens is not False
        else:
            raise BadRequest("give either prompt or messages", param="prompt")
        tokens = self._words.encode(text, special=special)
        found: dict[str, object] = {"count": len(tokens), "max_model_len": self.info.context_length, "tokens": tokens}
        return found | ({"token_strs": list(map(self._words.table.name, tokens))} if asked.return_token_strs else {})

    def _detokenize(self, asked: DetokenizeRequest) -> dict[str, object]:
        self._check_name(asked.model)
        return {"prompt": self._words.decode(self._intake.tokens(asked.tokens, "tokens"))}

    async def _generate(
        self, request: web.Request, asked: SamplingFields, order: Order, *, chat: bool
    ) -> web.StreamResponse:
        answer = Answer(order, self._words.table, self._ends, self._served_name, chat)
        headers = id_header(request) | applied(order.applied) | ignored(asked)
        for row in order.rows:
            self._pipeline.submit(row)
        events = _events(order, answer, self._pipeline)
        try:
            first = await anext(events)  # an error before the first token is an answer with its own status
            if asked.stream:
                usage = bool(asked.stream_options and asked.stream_options.include_usage)
                parts = (_told(made, usage=usage) async for made in events)
                return await send_events(
                    request, event_stream(headers), _told(first, usage=usage), parts,
                    lambda: json_event(answer.usage_event()) + DONE if usage else DONE,
                )  # fmt: skip
            async for _ in events:
                pass
            return json_reply(answer.whole(), headers)
        finally:
            for row in order.rows:
                self._pipeline.cancel(row)


async def _events(order: Order, answer: Answer, pipeline: Pipeline) -> AsyncIterator[list[dict[str, object]]]:
    """What each of the rows' news adds, until all of them are finished. Raises the error that ended one."""
    merged: asyncio.Queue[tuple[int, News]] = asyncio.Queue()

    async def follow(index: int) -> None:
        while True:
            news = await order.rows[index].news.get()
            merged.put_nowait((index, news))
            if news.over:
                return

    tasks = [asyncio.ensure_future(follow(index)) for index in range(len(order.rows))]
    try:
        while not answer.over:
            index, news = await merged.get()
            made = answer.push(index, news)
            if answer.finished(index):
                pipeline.cancel(order.rows[index])
            yield made
    finally:
        for task in tasks:
            task.cancel()


def _told(made: list[dict[str, object]], *, usage: bool) -> bytes:
    extra = {"usage": None} if usage else {}
    return b"".join(json_event(one | extra) for one in made)
