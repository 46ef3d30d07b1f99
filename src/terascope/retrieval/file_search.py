"""`file_search` in a chat: passages before the last question, the same again for the same versions."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from terascope.core.clock import Clock
from terascope.core.errors import BadRequest
from terascope.fleet.fleet import Fleet
from terascope.inference.searching import Asker
from terascope.protocol.parse import validate
from terascope.protocol.request import FILE_SEARCH, ModelRequest
from terascope.protocol.vector_stores import RESULTS, FileSearchTool
from terascope.retrieval.contract import Found
from terascope.retrieval.embedding import Caller, Embedder
from terascope.retrieval.searching import Answer, Query, Searcher, threshold_of
from terascope.retrieval.stores import Stores
from terascope.store.vector_stores import StoreRow

HEADING = "Passages of files, each with its number and the name of its file:"
"""What stands before the passages; then each with a line `[1] name`, then a line `Question:`, then the question."""
QUESTION = "Question:"
_MOST_QUERY = 8000  # characters of a question that are searched for: its end
_ANSWER_SHARE = 4  # a part of the context is left for an answer that names no length
_BYTES_A_TOKEN = 3
_LIMITS = ("max_completion_tokens", "max_tokens")


@dataclass(frozen=True, slots=True)
class Source:
    """A passage, and the store and version that it was found in."""

    store: StoreRow
    version: int
    found: Found


class FileSearch:
    """Searches for chats; the `Searches` of the one page."""

    def __init__(self, stores: Stores, searcher: Searcher, embedder: Embedder, fleet: Fleet, clock: Clock) -> None:
        self._stores = stores
        self._searcher = searcher
        self._embedder = embedder
        self._fleet = fleet
        self._clock = clock

    async def searched(self, request: ModelRequest, asker: Asker) -> ModelRequest:
        """See `Searches.searched`."""
        tools = request.fields["tools"]
        asked = [one for one in tools if isinstance(one, dict) and one.get("type") == FILE_SEARCH]
        if len(asked) > 1:
            raise BadRequest("there may be one `file_search` in `tools`; name several stores in it", param="tools")
        tool = validate_tool(asked[0])
        bare = _without_tool(request)
        if request.fields.get("tool_choice") == "none":
            return bare
        principal, grant = asker.grant.principal, asker.grant
        caller = Caller(principal, grant.project, grant.qos, asker.deadline_s, asker.gone)
        question = _Question.of(bare.fields.get("messages"))
        answers = await self._answers(tool, question.text, caller)
        sources = _merged(answers, tool.max_num_results or RESULTS)
        fitting, messages = await self._fitted(bare, question, sources, asker, caller)
        return _told(bare, messages, answers, fitting)

    async def _answers(self, tool: FileSearchTool, text: str, caller: Caller) -> list[tuple[StoreRow, Answer]]:
        found: list[tuple[StoreRow, Answer]] = []
        rows = [await self._stores.found(caller.principal, one) for one in dict.fromkeys(tool.vector_store_ids)]
        versions = _versions(tool, rows)
        threshold = threshold_of(tool.ranking_options)
        limit = tool.max_num_results or RESULTS
        for row in rows:
            query = Query((text,), limit, tool.filters, threshold, versions.get(row.id))
            found.append((row, await self._searcher.search(row, query, caller)))
        return found

    async def _fitted(
        self, request: ModelRequest, question: "_Question", sources: Sequence[Source], asker: Asker, caller: Caller
    ) -> tuple[list[Source], list[Any]]:
        """As many passages, the nearest, as the model's context has room for beside conversation and answer."""
        most = self._room(request, asker)

        async def fit(count: int) -> bool:
            messages = question.after(sources[:count])
            length = await self._embedder.length(asker.version.public_name, messages, caller)
            return (len(orjson.dumps(messages)) // _BYTES_A_TOKEN if length is None else length) <= most

        count = len(sources)
        if count and most and not await fit(count):
            count = await _most_that_fit(count - 1, fit)
        kept = list(sources[:count])
        return kept, question.after(kept) if kept else question.messages

    def _room(self, request: ModelRequest, asker: Asker) -> int:
        """Most tokens of the conversation; 0 where the model's context is not known."""
        context = self._fleet.context_length(asker.version.served_as) or asker.version.context_length
        asked = [value for name in _LIMITS if type(value := request.fields.get(name)) is int and value > 0]
        return max(1, context - (asked[0] if asked else context // _ANSWER_SHARE)) if context else 0


@dataclass(frozen=True, slots=True)
class _Question:
    """A conversation, and which of its messages is the user's last."""

    messages: list[Any]
    place: int

    @classmethod
    def of(cls, messages: object) -> "_Question":
        """Find the question. Raises `BadRequest` where there is none."""
        found = messages if isinstance(messages, list) else []
        places = [at for at, one in enumerate(found) if isinstance(one, dict) and one.get("role") == "user"]
        question = cls(found, places[-1]) if places else None
        if question is None or not question.text.strip():
            raise BadRequest("`file_search` needs a message of the user with text in it", param="messages")
        return question

    @property
    def text(self) -> str:
        """What is looked for: the text of the message, or its end where it is long."""
        content = self.messages[self.place].get("content")
        parts = content if isinstance(content, list) else [{"text": content}]
        texts = [one["text"] for one in parts if isinstance(one, dict) and isinstance(one.get("text"), str)]
        return "\n".join(texts)[-_MOST_QUERY:]

    def after(self, sources: Sequence[Source]) -> list[Any]:
        """The conversation with passages before the question, in the same message: templates take turns."""
        message = dict(self.messages[self.place])
        text = passages_text([one.found for one in sources])
        content = message.get("content") or ""
        message["content"] = [{"type": "text", "text": text}, *content] if isinstance(content, list) else text + content
        return [*self.messages[: self.place], message, *self.messages[self.place + 1 :]]


def passages_text(found: Sequence[Found]) -> str:
    """The passages as the model reads them."""
    parts = [f"[{number}] {one.passage.filename}\n{one.passage.text}" for number, one in enumerate(found, 1)]
    return "\n\n".join([HEADING, *parts, QUESTION]) + "\n"


def validate_tool(tool: dict[str, Any]) -> FileSearchTool:
    """Read the tool. Raises `BadRequest` that names the field."""
    try:
        return validate(FileSearchTool, tool)
    except BadRequest as error:
        raise BadRequest(f"{FILE_SEARCH}.{error.message}", param="tools") from None


def _versions(tool: FileSearchTool, rows: Sequence[StoreRow]) -> Mapping[str, int]:
    """The version of each store that one was named for. Raises `BadRequest`."""
    if isinstance(tool.version, int):
        if len(rows) > 1:
            raise BadRequest("several stores have a version each: write `version` as store id to number", param="tools")
        return {rows[0].id: tool.version}
    named = tool.version or {}
    if unknown := sorted(named.keys() - {row.id for row in rows}):
        raise BadRequest(f"`version` names {unknown[0][:60]!r}, which `vector_store_ids` does not", param="tools")
    return named


def _merged(answers: Sequence[tuple[StoreRow, Answer]], limit: int) -> list[Source]:
    """The nearest of all stores; a passage that two stores have comes once."""
    found = [Source(row, answer.version, one) for row, answer in answers for one in answer.found]
    found.sort(key=lambda one: (-one.found.score, one.store.id, one.found.passage.file_id, one.found.passage.index))
    once = {(one.found.passage.file_id, one.found.passage.digest): one for one in reversed(found)}
    return [one for one in found if once[one.found.passage.file_id, one.found.passage.digest] is one][:limit]


async def _most_that_fit(most: int, fit: Callable[[int], Awaitable[bool]]) -> int:
    """The greatest number up to `most` that fits, where a smaller one does whenever a greater one does; else 0."""
    least = 0
    while least < most:
        middle = (least + most + 1) // 2
        if await fit(middle):
            least = middle
        else:
            most = middle - 1
    return least


def _without_tool(request: ModelRequest) -> ModelRequest:
    """The request with what is left of its tools for the engine."""
    fields = dict(request.fields)
    fields["tools"] = [one for one in fields["tools"] if not isinstance(one, dict) or one.get("type") != FILE_SEARCH]
    choice = fields.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") == FILE_SEARCH:
        fields.pop("tool_choice")
    if not fields["tools"]:
        del fields["tools"]
        fields.pop("tool_choice", None)
        fields.pop("parallel_tool_calls", None)
    return replace(request, fields=fields)


def _told(
    request: ModelRequest, messages: list[Any], answers: Sequence[tuple[StoreRow, Answer]], sources: Sequence[Source]
) -> ModelRequest:
    """The request with its passages, and with what record and client are told of them."""
    record = [
        {
            "vector_store": row.id, "version": answer.version, "embedding_model": row.model,
            "passages": [one.found.passage.digest for one in sources if one.store.id == row.id],
        }
        for row, answer in answers
    ]  # fmt: skip
    added = len(orjson.dumps(messages)) - len(orjson.dumps(request.fields.get("messages")))
    return replace(
        request,
        fields=request.fields | {"messages": messages},
        size=request.size + max(0, added),
        labels={**request.labels, FILE_SEARCH: record},
        annotations=tuple(_citation(number, one) for number, one in enumerate(sources, 1)),
        sources=", ".join(f"{row.id}@{answer.version}" for row, answer in answers),
    )


def _citation(number: int, source: Source) -> dict[str, Any]:
    passage = source.found.passage
    cited = {
        "index": number, "file_id": passage.file_id, "filename": passage.filename, "start": passage.start,
        "end": passage.end, "digest": passage.digest, "score": source.found.score,
        "vector_store_id": source.store.id, "version": source.version,
    }  # fmt: skip
    return {"type": "file_citation", "file_citation": cited}
