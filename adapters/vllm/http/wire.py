"""Defines the fields of vLLM's responses that the adapter reads. Unknown fields are ignored."""

import msgspec


class ServerModel(msgspec.Struct, frozen=True):
    """One entry of `GET /v1/models`."""

    id: str
    created: int = 0
    max_model_len: int | None = None
    root: str | None = None
    """Hub name or folder of the model."""


class ServerModels(msgspec.Struct, frozen=True):
    """`GET /v1/models`."""

    data: list[ServerModel]


class ServerUsageDetails(msgspec.Struct, frozen=True):
    """Breakdown of the completion tokens."""

    reasoning_tokens: int | None = None


class ServerPromptDetails(msgspec.Struct, frozen=True):
    """Breakdown of the prompt tokens."""

    cached_tokens: int | None = None


class ServerUsage(msgspec.Struct, frozen=True):
    """Token counts of a response.

    Only servers with a reasoning parser send details of the completion, and only those with the flag
    `--enable-prompt-tokens-details` send details of the prompt.
    """

    prompt_tokens: int
    completion_tokens: int | None = None
    prompt_tokens_details: ServerPromptDetails | None = None
    completion_tokens_details: ServerUsageDetails | None = None


class ServerEmbedding(msgspec.Struct, frozen=True):
    """One vector of little-endian float32, base64-encoded."""

    index: int
    embedding: str


class ServerEmbeddings(msgspec.Struct, frozen=True):
    """`POST /v1/embeddings` with `encoding_format: base64`."""

    data: list[ServerEmbedding]
    usage: ServerUsage


class ServerScore(msgspec.Struct, frozen=True):
    """The score of one pair."""

    index: int
    score: float


class ServerScores(msgspec.Struct, frozen=True):
    """`POST /score`."""

    data: list[ServerScore]
    usage: ServerUsage


class ServerLogprobs(msgspec.Struct, frozen=True):
    """Log probabilities of a completion choice as parallel lists."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]


class ServerChoice(msgspec.Struct, frozen=True):
    """One choice of a completion or of a chunk."""

    index: int
    text: str = ""
    logprobs: ServerLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    """The stop sequence, or the id of the stop token, that ended the choice."""
    prompt_token_ids: list[int] | None = None
    """In the first chunk of a choice, if `return_token_ids` is set; an echoed prompt then has no text."""


class ServerError(msgspec.Struct, frozen=True):
    """The error object of vLLM's error body or error event; `code` is the HTTP status."""

    message: str = ""
    code: int | str | None = None


class ServerCompletion(msgspec.Struct, frozen=True):
    """`POST /v1/completions`, and each chunk of its stream; an error event has only `error`."""

    choices: list[ServerChoice] = []
    usage: ServerUsage | None = None
    error: ServerError | None = None


class ServerFunction(msgspec.Struct, frozen=True):
    """The function of a tool call, or a delta of it."""

    name: str | None = None
    arguments: str | None = None


class ServerToolCall(msgspec.Struct, frozen=True):
    """A tool call; in a chunk, a delta of one with its index."""

    function: ServerFunction = ServerFunction()
    id: str | None = None
    index: int | None = None


class ServerChatMessage(msgspec.Struct, frozen=True):
    """The message of a choice, or its delta. Older servers send `reasoning_content`."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ServerToolCall] | None = None


class ServerTopLogprob(msgspec.Struct, frozen=True):
    """An alternative token at a position."""

    token: str
    logprob: float


class ServerChatLogprob(ServerTopLogprob, frozen=True):
    """The chosen token at a position."""

    top_logprobs: list[ServerTopLogprob] = []


class ServerChatLogprobs(msgspec.Struct, frozen=True):
    """Log probabilities of a chat choice."""

    content: list[ServerChatLogprob] | None = None


class ServerChatChoice(msgspec.Struct, frozen=True):
    """One choice of a chat completion or of a chunk."""

    index: int
    message: ServerChatMessage | None = None
    delta: ServerChatMessage | None = None
    logprobs: ServerChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    """As in `ServerChoice`."""


class ServerChatCompletion(msgspec.Struct, frozen=True):
    """`POST /v1/chat/completions`, and each chunk of its stream; an error event has only `error`."""

    choices: list[ServerChatChoice] = []
    usage: ServerUsage | None = None
    error: ServerError | None = None


class ServerTokens(msgspec.Struct, frozen=True):
    """`POST /tokenize`."""

    tokens: list[int]
    token_strs: list[str] | None = None


class ServerText(msgspec.Struct, frozen=True):
    """`POST /detokenize`."""

    prompt: str


class ServerErrorBody(msgspec.Struct, frozen=True):
    """The body of an error response; in vLLM's 401 `error` is a string."""

    error: ServerError | str | None = None


models_decoder = msgspec.json.Decoder(ServerModels)
embeddings_decoder = msgspec.json.Decoder(ServerEmbeddings)
scores_decoder = msgspec.json.Decoder(ServerScores)
completion_decoder = msgspec.json.Decoder(ServerCompletion)
chat_decoder = msgspec.json.Decoder(ServerChatCompletion)
tokens_decoder = msgspec.json.Decoder(ServerTokens)
text_decoder = msgspec.json.Decoder(ServerText)
error_decoder = msgspec.json.Decoder(ServerErrorBody)
