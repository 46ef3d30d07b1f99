"""How answers leave the worker: whole, or as server-sent events; and the models behind them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from aiohttp import web

from terascope.core.errors import ModelNotFound, ServiceError, UnsupportedFeature
from terascope.engines.contract import EngineInfo
from terascope.engines.torch.answers import Answer, ChatAnswer, CompletionAnswer
from terascope.engines.torch.chat import prompt_of
from terascope.engines.torch.embed_loop import EmbedLoop
from terascope.engines.torch.embedding import Embeddings, RowComputer, TextComputer
from terascope.engines.torch.embeds import VectorForm
from terascope.engines.torch.encoder import Encoder
from terascope.engines.torch.intake import Intake, Order, Terms
from terascope.engines.torch.jobs import Job
from terascope.engines.torch.loop import BatchLoop, RowJob
from terascope.engines.torch.lora.shelf import Shelf
from terascope.engines.torch.lora.weights import Adapter
from terascope.engines.torch.model import CausalModel
from terascope.engines.torch.rows import Event
from terascope.engines.torch.tracing.route import Traces
from terascope.engines.torch.tracing.tools import for_decoder, for_encoder
from terascope.engines.torch.vectors import VectorModel
from terascope.engines.torch.vocabulary import Vocabulary
from terascope.engines.worker.httpd import REQUEST_ID
from terascope.engines.worker.replies import Headers, applied, event_stream, id_header, ignored, json_event, json_reply
from terascope.engines.worker.text import TokenTable
from terascope.protocol.errors import error_body
from terascope.protocol.openai import (
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    SamplingFields,
    TokenizeRequest,
)
from terascope.protocol.parse import parse
from terascope.protocol.sse import DONE, event
from terascope.protocol.traces import SitesRequest

TRACES = ("v1/traces", "v1/traces/sites")


class _Model:
    """What language models and embedding models have in common."""

    def __init__(
        self,
        served_name: str,
        info: EngineInfo,
        vocabulary: Vocabulary,
        context_length: int,
        form: VectorForm | None = None,
    ) -> None:
        self.info = info
        self._served_name = served_name
        self._vocabulary = vocabulary
        self._context_length = context_length
        self._intake = Intake(vocabulary, context_length, form)
        self._traces: Traces | None = None
        self._embeddings: Embeddings | None = None
        self._shelf: Shelf[Adapter] | None = None

    @property
    def takes_traces(self) -> bool:
        """True when the model can be looked into."""
        return self._traces is not None

    @asynccontextmanager
    async def _terms(self, request: web.Request) -> AsyncIterator[Terms]:
        """The terms of a request, with its adapter, which stays in memory until the block ends."""
        terms = Terms.read(request.headers)
        if terms.files is None:
            yield terms
            return
        if self._shelf is None:
            raise UnsupportedFeature("this model takes no adapters on this engine", param="model")
        async with self._shelf.lease(terms.files) as adapter:
            yield replace(terms, adapter=adapter)

    async def _words(self, endpoint: str, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        find = self._tokenize if endpoint == "tokenize" else self._detokenize
        return json_reply(await asyncio.to_thread(find, body), id_header(request))

    def _tokenize(self, body: bytes) -> dict[str, object]:
        asked = parse(TokenizeRequest, body)
        self._check_name(asked.model)
        if asked.messages is not None:
            text = prompt_of(asked, self._vocabulary, asked.tools or ())
            special = bool(asked.add_special_tokens)
        else:
            text, special = asked.prompt or "", asked.add_special_tokens is not False
        tokens = self._vocabulary.encode(text, special=special)
        found: dict[str, object] = {"count": len(tokens), "max_model_len": self._context_length, "tokens": tokens}
        if asked.return_offsets:
            found["offsets"] = self._vocabulary.offsets(text, special=special)
        return found | ({"token_strs": self._vocabulary.names(tokens)} if asked.return_token_strs else {})

    def _detokenize(self, body: bytes) -> dict[str, object]:
        asked = parse(DetokenizeRequest, body)
        self._check_name(asked.model)
        self._intake.check_tokens(asked.tokens, "tokens")
        found: dict[str, object] = {"prompt": self._vocabulary.decode(asked.tokens)}
        return found | ({"pieces": self._vocabulary.pieces(asked.tokens)} if asked.return_pieces else {})

    async def _embed(self, request: web.Request) -> web.StreamResponse:
        if self._embeddings is None:
            raise UnsupportedFeature("this engine sees no hidden states of this model", param="model")
        if Terms.read(request.headers).files is not None:
            raise UnsupportedFeature("embeddings are of a model without adapters; name its base", param="model")
        asked = await asyncio.to_thread(self._read_embedding, await request.read())
        return await self._embeddings.answer(request, asked)

    def _read_embedding(self, body: bytes) -> EmbeddingRequest:
        asked = parse(EmbeddingRequest, body)
        self._check_name(asked.model)
        return asked

    async def _trace(self, endpoint: str, request: web.Request) -> web.StreamResponse:
        traces = self._traces
        if traces is None:
            raise UnsupportedFeature("this engine cannot look into this model", param="model")
        body = await request.read()
        if endpoint == "v1/traces/sites":
            self._check_name(parse(SitesRequest, body).model)
            return json_reply(traces.sites(), id_header(request))
        order = await asyncio.to_thread(traces.read, body, Terms.read(request.headers).limits)
        self._check_name(order.plan.model)
        try:
            async with self._terms(request) as terms:
                return await traces.answer(request, order, request[REQUEST_ID], terms)
        except ConnectionResetError:
            return web.Response()  # the client has left

    def _check_name(self, name: str | None) -> None:
        if name is not None and name != self._served_name:
            raise ModelNotFound(f"this engine serves {self._served_name!r}, not {name[:100]!r}", param="model")


class Generator(_Model):
    """A language model that answers. `httpd.Served`."""

    def __init__(
        self,
        served_name: str,
        info: EngineInfo,
        model: CausalModel,
        loop: BatchLoop,
        shelf: Shelf[Adapter] | None = None,
    ) -> None:
        """Without a `shelf` adapters are refused."""
        super().__init__(served_name, info, model.vocabulary, model.context_length, model.form)
        self._loop = loop
        self._shelf = shelf
        self._fingerprint = f"{info.engine}-{info.version}-{info.dtype}"
        tools = for_decoder(model, self._intake, loop)
        self._traces = None if tools is None else Traces(served_name, tools)
        if model.shows_states:
            layers = 0 if tools is None else tools.shape.layers
            vectors = VectorModel(
                model.vocabulary, model.context_length, model.width, layers, "lasttoken", normalize=True
            )
            self._embeddings = Embeddings(served_name, vectors, RowComputer(model.packed, loop))

    async def answer(self, endpoint: str, request: web.Request) -> web.StreamResponse:
        """See `Served.answer`."""
        if endpoint == "v1/chat/completions":
            async with self._terms(request) as terms:
                asked, order = await asyncio.to_thread(self._read_chat, await request.read(), terms)
                return await self._generate(request, asked, order, ChatAnswer(*self._parts(order)))
        if endpoint == "v1/completions":
            async with self._terms(request) as terms:
                text_asked, order = await asyncio.to_thread(self._read_completion, await request.read(), terms)
                return await self._generate(request, text_asked, order, CompletionAnswer(*self._parts(order)))
        if endpoint in ("tokenize", "detokenize"):
            return await self._words(endpoint, request)
        if endpoint in TRACES:
            return await self._trace(endpoint, request)
        return await self._embed(request)

    def stop(self) -> None:
        """See `Served.stop`."""
        self._loop.stop()

    def join(self, timeout_s: float) -> bool:
        """See `Served.join`."""
        return self._loop.join(timeout_s)

    def _parts(self, order: Order) -> tuple[Order, TokenTable, str, str]:
        return order, self._vocabulary.table, self._served_name, self._fingerprint

    def _read_chat(self, body: bytes, terms: Terms) -> tuple[ChatCompletionRequest, Order]:
        asked = parse(ChatCompletionRequest, body)
        self._check_name(asked.model)
        return asked, self._intake.chat(asked, terms)

    def _read_completion(self, body: bytes, terms: Terms) -> tuple[CompletionRequest, Order]:
        asked = parse(CompletionRequest, body)
        self._check_name(asked.model)
        return asked, self._intake.completion(asked, terms)

    async def _generate(
        self, request: web.Request, asked: SamplingFields, order: Order, answer: Answer
    ) -> web.StreamResponse:
        job: RowJob = Job(request[REQUEST_ID], order.rows)
        headers = id_header(request) | _told(asked, order)
        self._loop.submit(job)
        try:
            news = News(job)
            first = await news.next()  # an error before the first token is an answer with its own status
            if asked.stream:
                usage = bool(asked.stream_options and asked.stream_options.include_usage)
                return await _stream(request, headers, first, news, answer, usage=usage)
            answer.push(first)
            while not news.over:
                answer.push(await news.next())
            return json_reply(answer.whole(), headers)
        finally:
            self._loop.cancel(job)


class Embedder(_Model):
    """An embedding model that answers. `httpd.Served`."""

    def __init__(self, served_name: str, info: EngineInfo, encoder: Encoder, loop: EmbedLoop) -> None:
        super().__init__(served_name, info, encoder.vocabulary, encoder.context_length)
        self._loop = loop
        tools = for_encoder(encoder, self._intake, loop)
        self._traces = None if tools is None else Traces(served_name, tools)
        vectors = VectorModel(
            encoder.vocabulary,
            encoder.context_length,
            encoder.width,
            encoder.layers,
            encoder.pooling,
            encoder.normalize,
            encoder.matryoshka,
        )
        self._embeddings = Embeddings(served_name, vectors, TextComputer(loop))

    async def answer(self, endpoint: str, request: web.Request) -> web.StreamResponse:
        """See `Served.answer`."""
        if endpoint == "v1/embeddings":
            return await self._embed(request)
        if endpoint in ("tokenize", "detokenize"):
            return await self._words(endpoint, request)
        if endpoint in TRACES:
            return await self._trace(endpoint, request)
        raise UnsupportedFeature("this model makes embeddings; it answers no chats or completions", param="model")

    def stop(self) -> None:
        """See `Served.stop`."""
        self._loop.stop()

    def join(self, timeout_s: float) -> bool:
        """See `Served.join`."""
        return self._loop.join(timeout_s)


class News:
    """The events of a job, until all its rows are finished."""

    def __init__(self, job: RowJob) -> None:
        self._job = job
        self._left = len(job.work)

    @property
    def over(self) -> bool:
        """True when all rows are finished."""
        return self._left == 0

    @property
    def waiting(self) -> bool:
        """True when `next` would return at once."""
        return not self._job.news.empty()

    async def next(self) -> Event:
        """Return the next event. Raises the error that ended the job."""
        found = await self._job.news.get()
        if found.error is not None:
            raise found.error
        self._left -= found.finish is not None
        return found


async def _stream(
    request: web.Request, headers: Headers, first: Event, news: News, answer: Answer, *, usage: bool
) -> web.StreamResponse:
    response = event_stream(headers)
    try:
        await response.prepare(request)
        await _events(request, response, first, news, answer, usage=usage)
        await response.write_eof()
    except ConnectionResetError:
        pass  # the client has left
    return response


async def _events(
    request: web.Request, response: web.StreamResponse, first: Event, news: News, answer: Answer, *, usage: bool
) -> None:
    """Write the events; those that are there at once go out together. An error takes the place of `[DONE]`."""
    extra = {"usage": None} if usage else {}
    out = [json_event(one | extra) for one in answer.push(first)]
    try:
        while not news.over:
            if not news.waiting:
                await response.write(b"".join(out))
                out.clear()
            out += [json_event(one | extra) for one in answer.push(await news.next())]
        out += [json_event(answer.usage_event()), DONE] if usage else [DONE]
    except ServiceError as error:
        out.append(event(error_body(error, request[REQUEST_ID])))
    await response.write(b"".join(out))


def _told(asked: SamplingFields, order: Order) -> Headers:
    return applied(order.applied) | ignored(asked)
