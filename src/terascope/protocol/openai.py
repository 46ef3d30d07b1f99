"""OpenAI's requests and answers, as a floor: what is named here is checked, what is not is let through.

Our own engines parse requests with these models, and the gateway's OpenAPI shows them. Numbers outside what any
engine could honour are refused with the field's name; `model_extra` holds the unknown fields.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Wire(BaseModel):
    """Base of everything on the wire: unknown fields are kept, `"1"` and `true` are not numbers, NaN is nothing."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, protected_namespaces=())


def _whole_number(value: object) -> object:
    """Let an integer be written `5.0`, which JSON calls an integer too, but not `"5"` or `true`.

    From 2**53 on a float may stand for another integer than was written.
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


_NUMBER = BeforeValidator(_whole_number)
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1), _NUMBER]
Choices = Annotated[int, Field(ge=1, le=128), _NUMBER]
Rivals = Annotated[int, Field(ge=0, le=20), _NUMBER]
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1), _NUMBER]
StopString = Annotated[str, Field(min_length=1, max_length=1000)]
CacheSalt = Annotated[str, Field(min_length=1, max_length=256)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Json = dict[str, Any]


# requests


class StreamOptions(Wire):
    """`stream_options`."""

    include_usage: bool | None = Field(None, description="Send a last event with the usage of the whole request.")


class EncoderFields(Wire):
    """A projector, as the gateway puts it in the place of its name."""

    data: str = Field(description="Base64 of a safetensors file: `0.weight`, `0.bias`, ...")
    activation: str = "gelu"


class SamplingFields(Wire):
    """What chat completions and completions have in common."""

    model: str = Field(
        min_length=1,
        max_length=256,
        description="Model, `name` or `name@version`; with a soft prompt `name+softprompt`.",
    )
    stream: bool | None = Field(None, description="Send the answer as server-sent events while it is made.")
    stream_options: StreamOptions | None = None
    n: Choices | None = Field(None, description="How many answers to make.")
    max_tokens: Count | None = Field(None, description="Most tokens of each answer; the context's rest by default.")
    stop: StopString | Annotated[list[StopString], Field(max_length=16)] | None = Field(
        None, description="Up to 16 strings at which an answer ends; they are not part of it."
    )
    seed: Seed | None = Field(None, description="Makes the sampling repeatable.")
    reproducible: bool | None = Field(
        None,
        description="Give the same answer and the same log-probabilities to the last bit whenever the request is "
        "repeated, in any dtype, whatever else the engine computes; above `temperature` 0 give a `seed`, too. "
        "Refused where the engine cannot do that.",
    )
    cache_salt: CacheSalt | None = Field(
        None, description="Share computed prefixes only with requests of the same salt; narrows, never widens."
    )
    soft_prompt: str | None = Field(
        None, description="Vectors before the prompt, as in `prompt_embeds`; or name one in `model`: `name+softprompt`."
    )
    encoder: EncoderFields | str | None = Field(
        None, description="Name of a projector that the vectors of `prompt_embeds` go through."
    )
    temperature: Annotated[float, Field(ge=0, le=100)] | None = Field(None, description="0 takes the likeliest token.")
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, Bias] | None = Field(None, description="Token id to what is added to its logit.")
    user: str | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1), _NUMBER] | None = Field(None, description="0 or -1 turns it off.")
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    min_tokens: Count | None = Field(None, description="An answer does not end before it has as many tokens.")
    ignore_eos: bool | None = Field(None, description="Go on when the model says that it has finished.")
    structured_outputs: Json | None = Field(
        None, description="One of `json` (a schema), `regex`, `choice` (a list) or `grammar` (Lark), as vLLM has it."
    )
    guided_json: Json | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None


class ContentPart(Wire):
    """One part of a message whose content is a list."""

    type: str = Field(description="`text`, `prompt_embeds`, or another kind where the model takes it.")
    text: str | None = None
    prompt_embeds: str | None = Field(None, description="Base64 of a safetensors or .npy file: [vectors, width].")
    tokens: list[TokenId] | None = Field(None, description="Token ids; in completions only.")


PromptEmbeds = str | list[ContentPart] | list[str] | list[list[ContentPart]]


class ToolCallFunction(Wire):
    """The function of a tool call; `arguments` is JSON in a string."""

    name: str
    arguments: str = ""


class ToolCall(Wire):
    """A call that the model wants made."""

    id: str = ""
    type: str = "function"
    function: ToolCallFunction


class ChatMessage(Wire):
    """One message of a conversation."""

    role: str = Field(min_length=1, description="`system`, `developer`, `user`, `assistant` or `tool`.")
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class FunctionDefinition(Wire):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_.-]+$")
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None


class Tool(Wire):
    """An entry of `tools`."""

    type: Literal["function"]
    function: FunctionDefinition


class FunctionName(Wire):
    """Which function must be called."""

    name: str


class NamedToolChoice(Wire):
    """`tool_choice` that names one function."""

    type: Literal["function"]
    function: FunctionName


class JsonSchemaFormat(Wire):
    """The schema of a `json_schema` response format."""

    name: str | None = None
    description: str | None = None
    json_schema: Json | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Wire):
    """`response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class ChatCompletionRequest(SamplingFields):
    """Body of `POST /v1/chat/completions`."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: Count | None = Field(None, description="Newer name of `max_tokens`.")
    logprobs: bool | None = None
    top_logprobs: Rivals | None = Field(None, description="Needs `logprobs`.")
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: Json | None = Field(None, description="Further variables of the chat template.")
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = Field(None, description="Go on with the last message, not after it.")


class CompletionRequest(SamplingFields):
    """Body of `POST /v1/completions`."""

    prompt: str | list[str] | list[TokenId] | list[list[TokenId]] | None = Field(
        None, description="A text, a list of texts, a list of token ids, or a list of such lists."
    )
    prompt_embeds: PromptEmbeds | None = Field(
        None,
        description="In place of `prompt`: base64 of a safetensors or .npy file, [vectors, width]; a list of such "
        "prompts; or parts of type `text`, `tokens` and `prompt_embeds` in their order, or a list of such lists.",
    )
    suffix: str | None = None
    echo: bool | None = Field(None, description="Begin the answer with the prompt, its log-probabilities included.")
    logprobs: Rivals | None = None
    best_of: Choices | None = None
    response_format: ResponseFormat | None = None
    add_special_tokens: bool | None = Field(
        None, description="Whether the tokenizer adds what it adds; yes by default."
    )


class WindowFields(Wire):
    """How long inputs are divided."""

    size: Annotated[int, Field(ge=1, le=2**31 - 1), _NUMBER] | None = Field(
        None, description="Tokens of a window, with those that the tokenizer adds; the model's context by default."
    )
    overlap: Count | None = Field(None, description="Tokens that a window shares with the one before; none by default.")
    combine: Literal["mean", "none"] | None = Field(
        None, description="`mean`, weighted by tokens, or `none`: a vector for each window."
    )


class EmbeddingRequest(Wire):
    """Body of `POST /v1/embeddings`."""

    model: str = Field(min_length=1, max_length=256)
    input: str | list[str] | list[TokenId] | list[list[TokenId]] = Field(
        description="A text, a list of texts, a list of token ids, or a list of such lists."
    )
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="`base64` is little-endian float32; `float` is the default."
    )
    dimensions: Annotated[int, Field(ge=1, le=1_000_000), _NUMBER] | None = Field(
        None, description="Keep that many leading dimensions, scaled to length 1 again."
    )
    layer: Annotated[int, Field(ge=-10_000, le=10_000), _NUMBER] | None = Field(
        None, description="Whose states are taken, as transformers' `hidden_states` counts; the last by default."
    )
    pooling: Literal["last", "mean", "cls", "max", "weighted", "none"] | None = Field(
        None, description="How the states of tokens become one vector; `none` gives one for each token."
    )
    normalize: bool | None = Field(None, description="Whether vectors are scaled to length 1.")
    truncate: Literal["error", "start", "end"] | None = Field(
        None, description="What is cut off an input that is too long; by default it is an error."
    )
    windows: WindowFields | None = Field(None, description="Divide long inputs.")
    stream: bool | None = Field(None, description="Send vectors as server-sent events; then 100,000 inputs are taken.")
    user: str | None = None


class TokenizeRequest(Wire):
    """Body of `POST /tokenize`: `prompt` or `messages`."""

    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    tools: list[Tool] | None = None
    add_special_tokens: bool | None = Field(None, description="Yes by default for `prompt`, no for `messages`.")
    add_generation_prompt: bool | None = Field(None, description="Yes by default; for `messages`.")
    continue_final_message: bool | None = None
    return_token_strs: bool | None = None
    return_offsets: bool | None = Field(None, description="Also say which characters of `prompt` each token is.")
    chat_template_kwargs: Json | None = None


class DetokenizeRequest(Wire):
    """Body of `POST /detokenize`."""

    model: str | None = None
    tokens: list[TokenId]
    return_pieces: bool | None = Field(None, description="Also give the text of each token alone.")


# answers


class PromptTokensDetails(Wire):
    """What the prompt's tokens were made of."""

    cached_tokens: int = 0


class Usage(Wire):
    """What a request used, in tokens."""

    prompt_tokens: int
    completion_tokens: int = 0
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | None = None


class TopLogprob(Wire):
    """A token that could have come, in chat's format; `bytes` are its UTF-8 bytes."""

    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenLogprob(TopLogprob):
    """A token that did come, and its rivals."""

    top_logprobs: list[TopLogprob] = []


class ChoiceLogprobs(Wire):
    """Log-probabilities of a chat choice."""

    content: list[TokenLogprob] | None = None
    refusal: list[TokenLogprob] | None = None


class AnswerMessage(Wire):
    """The message of a chat choice."""

    role: str = "assistant"
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None


class ChatChoice(Wire):
    """One choice of a chat completion."""

    index: int
    message: AnswerMessage
    logprobs: ChoiceLogprobs | None = None
    finish_reason: str


class ChatCompletion(Wire):
    """Answer of `POST /v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str | None = None


class ToolCallFunctionDelta(Wire):
    """A piece of a tool call's function."""

    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(Wire):
    """A piece of a tool call; those of one call have one `index`."""

    index: int
    id: str | None = None
    type: str | None = None
    function: ToolCallFunctionDelta | None = None


class Delta(Wire):
    """What an event adds to a choice's message."""

    role: str | None = None
    content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChatChunkChoice(Wire):
    """One choice of a chat event."""

    index: int
    delta: Delta
    logprobs: ChoiceLogprobs | None = None
    finish_reason: str | None = None


class ChatCompletionChunk(Wire):
    """One event of a streamed chat completion; the usage event has no choices."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    system_fingerprint: str | None = None


class CompletionLogprobs(Wire):
    """Log-probabilities of a completion: lists of equal length. The first token of an echoed prompt has none."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None = None
    text_offset: list[int]


class CompletionChoice(Wire):
    """One choice of a completion, whole or a piece of a stream."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None


class Completion(Wire):
    """Answer of `POST /v1/completions`, and one event of its stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    system_fingerprint: str | None = None


class Embedding(Wire):
    """One vector, or a list of them: numbers, or base64 of little-endian float32."""

    index: int
    object: Literal["embedding"] = "embedding"
    embedding: list[float] | list[list[float]] | str
    shape: list[int] | None = Field(None, description="Of several vectors in base64.")
    windows: list[list[int]] | None = Field(None, description="First and last token of each window, from 0.")


class EmbeddingList(Wire):
    """Answer of `POST /v1/embeddings`."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


class TokenizeResponse(Wire):
    """Answer of `POST /tokenize`."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None
    offsets: list[list[int]] | None = Field(
        None, description="With `return_offsets`: the first character of each token, and the one after its last."
    )


class DetokenizeResponse(Wire):
    """Answer of `POST /detokenize`."""

    prompt: str
    pieces: list[str] | None = Field(None, description="With `return_pieces`: the text of each token alone.")


class ErrorDetail(Wire):
    """What went wrong; `code` is stable, `param` names the field."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(Wire):
    """Body of every error, and payload of an error event in a stream."""

    error: ErrorDetail
