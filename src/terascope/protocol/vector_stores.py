"""The wire of `/v1/vector_stores`: OpenAI's, with the embedding model, versions and places besides."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

MOST_FILES = 2000
"""Files that are asked for at once."""
MOST_RESULTS = 50
RESULTS = 10
"""Passages that are found, where nobody says how many."""
_MOST_DEPTH = 8  # filters within filters


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not have NUL characters in it")
    return text


Text = Annotated[str, AfterValidator(_no_nul)]
Key = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_no_nul)]
Word = Annotated[str, Field(max_length=512), AfterValidator(_no_nul)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Value = bool | Number | Word
Attributes = Annotated[dict[Key, Value], Field(max_length=16)]
Labels = Annotated[dict[Key, Word], Field(max_length=16)]
FileId = Annotated[str, Field(min_length=1, max_length=60), AfterValidator(_no_nul)]


class Asked(BaseModel):
    """Base of requests: what is misspelt is refused, `"1"` and `true` are not numbers."""

    model_config = ConfigDict(extra="forbid", strict=True)


# filters


class ComparisonFilter(Asked):
    """Compares an attribute with a value, or with several for `in` and `nin`."""

    type: Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]
    key: Key
    value: Value | Annotated[list[Value], Field(max_length=1000)]


class CompoundFilter(Asked):
    """Files that all of the filters want, or any of them."""

    type: Literal["and", "or"]
    filters: Annotated[list["Filter"], Field(min_length=1, max_length=100)]


Filter = ComparisonFilter | CompoundFilter


def _shallow(wanted: Filter | None) -> Filter | None:
    level, depth = [wanted] if wanted else [], 0
    while level := [inner for one in level if isinstance(one, CompoundFilter) for inner in one.filters]:
        depth += 1
        if depth > _MOST_DEPTH:
            raise ValueError(f"filters may stand in filters {_MOST_DEPTH} deep")
    return wanted


Filters = Annotated[Filter | None, AfterValidator(_shallow)]
CompoundFilter.model_rebuild()


# requests


class ExpiresAfter(Asked):
    """When a store expires: so many days after it was last used."""

    anchor: Literal["last_active_at"] = "last_active_at"
    days: Annotated[int, Field(ge=1, le=365)]


class StaticSizes(Asked):
    """Tokens of a passage, and how many of them two share."""

    max_chunk_size_tokens: int = Field(description="100 to 4096, and what the embedding model reads.")
    chunk_overlap_tokens: int = Field(description="At most half of it.")


class AutoStrategy(Asked):
    """800 tokens, 400 shared, or what the embedding model reads if that is less."""

    type: Literal["auto"]


class StaticStrategy(Asked):
    """Passages of a size of one's own."""

    type: Literal["static"]
    static: StaticSizes


Strategy = Annotated[AutoStrategy | StaticStrategy, Field(discriminator="type")]
FileIds = Annotated[list[FileId], Field(max_length=MOST_FILES)]


class CreateStore(Asked):
    """`POST /v1/vector_stores`; `embedding_model` is ours."""

    name: Annotated[str, Field(max_length=256), AfterValidator(_no_nul)] | None = None
    description: Annotated[str, Field(max_length=512), AfterValidator(_no_nul)] | None = None
    file_ids: FileIds | None = None
    expires_after: ExpiresAfter | None = None
    chunking_strategy: Strategy | None = Field(None, description="Of `file_ids`.")
    metadata: Labels | None = None
    embedding_model: Annotated[str, Field(max_length=256)] | None = Field(
        None, description="What makes the vectors; by default as `retrieval.embedding_model` says. Pinned for good."
    )


class ModifyStore(Asked):
    """`POST /v1/vector_stores/{id}`: what is not named stays; null takes it away."""

    name: Annotated[str, Field(max_length=256), AfterValidator(_no_nul)] | None = None
    expires_after: ExpiresAfter | None = None
    metadata: Labels | None = None

    @model_serializer(mode="wrap")
    def _what_was_named(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in write(self).items() if name in self.model_fields_set}


class AddFile(Asked):
    """`POST /v1/vector_stores/{id}/files`."""

    file_id: FileId
    attributes: Attributes | None = None
    chunking_strategy: Strategy | None = None


class SetAttributes(Asked):
    """`POST /v1/vector_stores/{id}/files/{file_id}`."""

    attributes: Attributes | None


class AddBatch(Asked):
    """`POST /v1/vector_stores/{id}/file_batches`: `file_ids`, or `files` with attributes of their own."""

    file_ids: FileIds | None = None
    files: Annotated[list[AddFile], Field(max_length=MOST_FILES)] | None = None
    attributes: Attributes | None = None
    chunking_strategy: Strategy | None = None


class RankingOptions(Asked):
    """Passages below the threshold are left out; rankers other than the cosine there are not."""

    ranker: Literal["auto", "none", "default-2024-11-15", "default_2024_08_21"] | None = None
    score_threshold: Annotated[float, Field(ge=0, le=1)] | None = None


Query = Annotated[str, Field(min_length=1, max_length=100_000)]
Results = Annotated[int, Field(ge=1, le=MOST_RESULTS)]
VersionNumber = Annotated[int, Field(ge=0, le=2**53)]


class SearchStore(Asked):
    """`POST /v1/vector_stores/{id}/search`; `version` is ours."""

    query: Query | Annotated[list[Query], Field(min_length=1, max_length=16)]
    filters: Filters = None
    max_num_results: Results | None = None
    ranking_options: RankingOptions | None = None
    rewrite_query: Literal[False] | None = Field(None, description="A query is never changed.")
    version: VersionNumber | None = Field(None, description="Of the store; the newest by default.")


class FileSearchTool(Asked):
    """`file_search` in `tools` of a chat; `version` is ours, one for each store or one for all."""

    type: Literal["file_search"]
    vector_store_ids: Annotated[list[FileId], Field(min_length=1, max_length=4)]
    max_num_results: Results | None = None
    filters: Filters = None
    ranking_options: RankingOptions | None = None
    version: VersionNumber | dict[FileId, VersionNumber] | None = Field(
        None, description="The version of each store, by its id, or of the one store; the newest by default."
    )


# answers


class FileCounts(BaseModel):
    """How many files there are, by status."""

    in_progress: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    total: int = 0


class Store(BaseModel):
    """A vector store; `project`, `embedding_model`, `version` and `oldest_version` are ours."""

    id: str
    object: Literal["vector_store"] = "vector_store"
    created_at: int
    name: str
    status: Literal["in_progress", "completed", "expired"]
    file_counts: FileCounts
    usage_bytes: int
    last_active_at: int
    expires_after: ExpiresAfter | None = None
    expires_at: int | None = None
    metadata: dict[str, str] = {}
    project: str
    embedding_model: str = Field(description="`name@version`.")
    version: int = Field(description="Counts up with every change that a search can see.")
    oldest_version: int = Field(description="The oldest that can be asked for.")


class StoreDeleted(BaseModel):
    """`DELETE /v1/vector_stores/{id}`."""

    id: str
    object: Literal["vector_store.deleted"] = "vector_store.deleted"
    deleted: Literal[True] = True


class LastError(BaseModel):
    """Why a file failed."""

    code: Literal["server_error", "unsupported_file", "invalid_file"]
    message: str


class StoreFile(BaseModel):
    """A file in a vector store."""

    id: str
    object: Literal["vector_store.file"] = "vector_store.file"
    created_at: int
    vector_store_id: str
    status: Literal["in_progress", "completed", "failed", "cancelled"]
    last_error: LastError | None = None
    usage_bytes: int
    attributes: dict[str, bool | float | str] = {}
    chunking_strategy: dict[str, Any]
    passages: int = Field(description="How many it was cut into.")
    filename: str


class StoreFileDeleted(BaseModel):
    """`DELETE /v1/vector_stores/{id}/files/{file_id}`."""

    id: str
    object: Literal["vector_store.file.deleted"] = "vector_store.file.deleted"
    deleted: Literal[True] = True


class Batch(BaseModel):
    """Files that were asked for together."""

    id: str
    object: Literal["vector_store.files_batch"] = "vector_store.files_batch"
    created_at: int
    vector_store_id: str
    status: Literal["in_progress", "completed", "failed", "cancelled"]
    file_counts: FileCounts


class Stores(BaseModel):
    """`GET /v1/vector_stores`."""

    object: Literal["list"] = "list"
    data: list[Store]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


class StoreFiles(BaseModel):
    """`GET /v1/vector_stores/{id}/files`."""

    object: Literal["list"] = "list"
    data: list[StoreFile]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


class TextContent(BaseModel):
    """A piece of text."""

    type: Literal["text"] = "text"
    text: str


class Place(BaseModel):
    """Where a passage is: the characters from `start` to before `end` of the file's text; `digest` is of its own."""

    start: int
    end: int
    index: int
    digest: str


class Result(BaseModel):
    """A passage that was found; `passage` is ours."""

    file_id: str
    filename: str
    score: float = Field(description="The cosine between query and passage, 0 at least.")
    attributes: dict[str, bool | float | str]
    content: list[TextContent]
    passage: Place


class SearchResults(BaseModel):
    """`POST /v1/vector_stores/{id}/search`; `version` is ours."""

    object: Literal["vector_store.search_results.page"] = "vector_store.search_results.page"
    search_query: list[str]
    data: list[Result]
    has_more: bool = False
    next_page: str | None = None
    version: int


class StoreFileContent(BaseModel):
    """`GET /v1/vector_stores/{id}/files/{file_id}/content`: the passages, in order; neighbours overlap."""

    object: Literal["vector_store.file_content.page"] = "vector_store.file_content.page"
    file_id: str
    filename: str
    attributes: dict[str, bool | float | str]
    data: list[TextContent]
    has_more: bool = False
    next_page: str | None = None
