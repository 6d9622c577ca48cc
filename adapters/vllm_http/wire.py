"""What is read of vLLM's answers, and nothing more. Unknown fields are passed over."""

import msgspec


class ServerModel(msgspec.Struct, frozen=True):
    """One entry of `GET /v1/models`."""

    id: str
    created: int = 0
    max_model_len: int | None = None


class ServerModels(msgspec.Struct, frozen=True):
    """`GET /v1/models`."""

    data: list[ServerModel]


class ServerUsage(msgspec.Struct, frozen=True):
    """Token counts of an answer."""

    prompt_tokens: int
    completion_tokens: int | None = None


class ServerEmbedding(msgspec.Struct, frozen=True):
    """One vector as base64 of little-endian float32."""

    index: int
    embedding: str


class ServerEmbeddings(msgspec.Struct, frozen=True):
    """`POST /v1/embeddings` with `encoding_format: base64`."""

    data: list[ServerEmbedding]
    usage: ServerUsage


class ServerLogprobs(msgspec.Struct, frozen=True):
    """Log probabilities of a completion choice, in parallel lists."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]


class ServerChoice(msgspec.Struct, frozen=True):
    """One choice of a completion, or its part in a chunk."""

    index: int
    text: str = ""
    logprobs: ServerLogprobs | None = None
    finish_reason: str | None = None


class ServerError(msgspec.Struct, frozen=True):
    """The inside of vLLM's error body; `code` is its HTTP status, in error events of a stream too."""

    message: str = ""
    code: int | str | None = None


class ServerCompletion(msgspec.Struct, frozen=True):
    """`POST /v1/completions`, and each chunk of its stream; an error event has only `error`."""

    choices: list[ServerChoice] = []
    usage: ServerUsage | None = None
    error: ServerError | None = None


class ServerErrorBody(msgspec.Struct, frozen=True):
    """The body of a refusal; vLLM's 401 has a bare string inside."""

    error: ServerError | str | None = None


models_decoder = msgspec.json.Decoder(ServerModels)
embeddings_decoder = msgspec.json.Decoder(ServerEmbeddings)
completion_decoder = msgspec.json.Decoder(ServerCompletion)
error_decoder = msgspec.json.Decoder(ServerErrorBody)
