"""Errors that can reach a client, with OpenAI's status, type and code.

InferenceError
├── InvalidRequestError            400  the request itself is wrong
│   ├── AuthenticationError        401  no API key, or an unknown one
│   ├── ContextLengthError         400  more tokens than the model's context length
│   ├── TooManyTokensError         400  more tokens than allowed in one embedding request
│   ├── ThreadsUnsupportedError    400  a thread of the Messages API (in domain.anthropic.error)
│   ├── PreviousResponseError      400  no response of that id can be continued
│   ├── OriginNotAllowedError      403  a page of another origin uploads a file or opens a WebSocket
│   ├── ModelNotFoundError         404  no model of that name is served
│   ├── StoredObjectNotFoundError  404  nothing of that id is stored for this client
│   ├── WrongEndpointError         404  the model does not support this endpoint
│   ├── UnknownUrlError            404  no such path
│   ├── MethodNotAllowedError      405  the path does not support this method
│   ├── RequestTimeoutError        408  the client took too long to send its request
│   ├── PayloadTooLargeError       413  more bytes than the service accepts
│   ├── UnsupportedMediaTypeError  415  the content type is not the endpoint's, or the body is compressed
│   └── HeadersTooLargeError       431  too many or too long request headers
├── RateLimitError                 429  the API key has exceeded its quota for this minute
│   ├── RequestRateError           429  quota of requests
│   ├── TokenRateError             429  quota of tokens
│   └── UnfinishedBatchesError     429  too many batches that have not ended
├── OverloadedError                429  the role's queue is full
├── TooManyConnectionsError        503  the service's connection limit is reached
├── BackendUnavailableError        503  the engine is starting, stopped or unreachable; retry later
│   ├── EngineDiedError            503  the engine's process has ended; it is restarted
│   ├── EngineHungError            503  the engine's process is hung; it is restarted
│   ├── BackendUnreachableError    503  no connection, or it was reset before an answer
│   └── BackendBusyError           503  the server rejected the request as busy, and may have sent a retry time
├── StateUnavailableError          503  the database of stored responses does not work
├── FilesUnavailableError          503  the folder with the contents of files can't be read or written
├── InsufficientStorageError       507  the disk is full, or the files have reached their total size
├── BackendTimeoutError            504  the engine did not answer in time
│   └── DeadlineError              504  the request exceeded its timeout and was aborted
├── BackendFailedError             500  the engine failed on this request
└── InternalError                  500  an error in the service itself

Types and codes follow OpenAI's published schema `Error` (openai/openai-openapi) and the classes that
openai-python derives from the status. Messages say what the caller can change, and contain no prompts, keys or
local paths.
"""

from typing import ClassVar

MAX_SHOWN_ID = 100
"""Characters of an unknown id that an error message includes."""


class InferenceError(Exception):
    """Base of all errors that cross the port or the API.

    Attributes:
        message: one or two sentences for the caller.
        param: the request parameter at fault, in OpenAI's spelling (`messages[0].role`), or None.
        code: OpenAI's machine-readable code, or None.
        retry_after_s: whole seconds after which a retry makes sense, or None.
        has_reached_engine: False if the request was refused before an engine could see it.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None
    should_retry: ClassVar[bool | None] = None
    """Whether OpenAI's client libraries should retry; None lets them decide by the status."""

    has_reached_engine = True

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code if code is not None else self.default_code
        self.retry_after_s = retry_after_s


class InvalidRequestError(InferenceError):
    """The request is invalid; retrying it unchanged won't help."""

    status = 400
    type = "invalid_request_error"


class ContextLengthError(InvalidRequestError):
    """The prompt and its answer, or one input, have more tokens than the model's context length.

    Client libraries recognize OpenAI's sentences: the first one is for messages or a prompt that are too long by
    themselves, the second one for those that leave too little room for the answer.
    """

    default_code = "context_length_exceeded"

    def __init__(
        self,
        max_model_len: int | None,
        *,
        param: str,
        prompt_tokens: int | None = None,
        max_tokens: int | None = None,
    ) -> None:
        """Create the error.

        Args:
            max_model_len: context length in tokens, if known.
            param: `messages`, `prompt`, or the input to embed.
            prompt_tokens: tokens of the messages or the prompt, if known.
            max_tokens: tokens that the client requested for the answer, if the prompt is not too long by itself.
        """
        message = _context_message(max_model_len, param, prompt_tokens, max_tokens)
        super().__init__(message, param=param)


def _context_message(limit: int | None, param: str, prompt_tokens: int | None, max_tokens: int | None) -> str:
    maximum = f"This model's maximum context length is {limit} tokens."
    if param not in ("messages", "prompt"):
        known = maximum if limit else "This model's maximum context length is shorter than this input."
        return f"{known} Please reduce the length of '{param}'."
    if limit is None:
        return f"Input tokens exceed the configured limit of this model. Please reduce the length of the {param}."
    if prompt_tokens is None and max_tokens is not None:
        return (
            f"{maximum} However, you requested {max_tokens} tokens in the completion. Please reduce the length of "
            "the completion."
        )
    if prompt_tokens is None or prompt_tokens > limit:
        found = prompt_tokens or f"more than {limit}"
        return (
            f"Input tokens exceed the configured limit of {limit} tokens. Your {param} resulted in {found} "
            f"tokens. Please reduce the length of the {param}."
        )
    wanted = max_tokens or 1
    return (
        f"{maximum} However, you requested {prompt_tokens + wanted} tokens ({prompt_tokens} in the {param}, "
        f"{wanted} in the completion). Please reduce the length of the {param} or completion."
    )


class TooManyTokensError(InvalidRequestError):
    """The inputs of one embedding request exceed the limit on tokens per request."""

    type = "max_tokens_per_request"
    default_code = "max_tokens_per_request"

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(
            f"Requested {tokens} tokens, max {limit} tokens per request. Send the inputs in several requests.",
            param="input",
        )


class AuthenticationError(InvalidRequestError):
    """The request has no API key, or an unknown one."""

    status = 401


class OriginNotAllowedError(InvalidRequestError):
    """A page of another origin has sent the request."""

    status = 403
    default_code = "origin_not_allowed"

    def __init__(self) -> None:
        super().__init__("Pages of this origin may not use the service. The setting CORS_ORIGINS can allow them.")


class ModelNotFoundError(InvalidRequestError):
    """No model of that name is served here."""

    status = 404
    default_code = "model_not_found"


class PreviousResponseError(InvalidRequestError):
    """No response of that id is stored that the client may continue."""

    default_code = "previous_response_not_found"

    def __init__(self, response_id: str, hint: str) -> None:
        super().__init__(
            f"Previous response with id '{response_id[:MAX_SHOWN_ID]}' not found. {hint}",
            param="previous_response_id",
        )


class StoredObjectNotFoundError(InvalidRequestError):
    """No response, conversation, item or file of that id is stored for this client."""

    status = 404

    def __init__(self, what: str, object_id: str, *, param: str | None = None, hint: str = "") -> None:
        super().__init__(f"{what} with id '{object_id[:MAX_SHOWN_ID]}' not found. {hint}".rstrip(), param=param)


class WrongEndpointError(InvalidRequestError):
    """The model does not support this endpoint."""

    status = 404


class UnknownUrlError(InvalidRequestError):
    """The path is not part of the API."""

    status = 404
    default_code = "unknown_url"


class MethodNotAllowedError(InvalidRequestError):
    """The path does not support this method."""

    status = 405
    default_code = "method_not_supported"


class PayloadTooLargeError(InvalidRequestError):
    """The body has more bytes than the service accepts."""

    status = 413
    default_code = "payload_too_large"


class UnsupportedMediaTypeError(InvalidRequestError):
    """The body is declared as another type than the endpoint accepts, or as compressed."""

    status = 415
    default_code = "unsupported_media_type"


class RequestTimeoutError(InvalidRequestError):
    """The client took too long to send its request."""

    status = 408
    default_code = "request_timeout"


class HeadersTooLargeError(InvalidRequestError):
    """The request has too many or too long headers."""

    status = 431
    default_code = "headers_too_large"


class RateLimitError(InferenceError):
    """The API key has exceeded its quota per minute."""

    status = 429
    type = "requests"
    default_code = "rate_limit_exceeded"


class RequestRateError(RateLimitError):
    """Too many requests in a minute."""


class TokenRateError(RateLimitError):
    """Too many tokens in a minute."""

    type = "tokens"


class UnfinishedBatchesError(RateLimitError):
    """Too many batches of one key have not ended."""

    type = "batches"
    default_code = "batch_limit_exceeded"
    # It takes longer than a client library would wait.
    should_retry = False

    def __init__(self, unfinished: int) -> None:
        super().__init__(
            f"{unfinished} of your batches have not ended yet, as many as are allowed (BATCH_MAX_UNFINISHED). "
            "Wait until one has ended, or cancel one."
        )


class TooManyConnectionsError(InferenceError):
    """The connection limit of the service is reached."""

    status = 503
    type = "service_unavailable_error"
    default_code = "too_many_connections"


class BackendUnavailableError(InferenceError):
    """The engine can't take requests now: it is starting, stopped or unreachable."""

    status = 503
    type = "service_unavailable_error"
    default_code = "model_not_ready"


class EngineDiedError(BackendUnavailableError):
    """The engine's process has ended unexpectedly."""

    default_code = "engine_died"


class EngineHungError(BackendUnavailableError):
    """The engine's process makes no progress although requests are pending."""

    default_code = "engine_hung"


class OverloadedError(InferenceError):
    """The engine's queue is full; the request is rejected immediately."""

    status = 429
    type = "overloaded_error"
    default_code = "queue_full"


class BackendUnreachableError(BackendUnavailableError):
    """No connection, or one that was reset before the first byte of the answer: the request is safe to retry."""


class BackendBusyError(BackendUnavailableError):
    """The server rejected the request as busy without working on it; `retry_after_s` is the server's own value."""


class StateUnavailableError(InferenceError):
    """The database that keeps responses, conversations, files and batches does not work at the moment."""

    status = 503
    type = "service_unavailable_error"
    default_code = "state_unavailable"

    def __init__(self) -> None:
        super().__init__(
            "The database of stored responses, conversations, files and batches is unavailable. Retry later; a "
            "response can also be created with 'store': false and all input."
        )


class FilesUnavailableError(InferenceError):
    """The contents of files can't be read or written at the moment."""

    status = 503
    type = "service_unavailable_error"
    default_code = "files_unavailable"

    def __init__(self) -> None:
        super().__init__("The contents of files can't be read or written at the moment. Retry later.")


class InsufficientStorageError(InferenceError):
    """There is no space for more contents of files: on the disk, or within FILES_MAX_TOTAL_SIZE."""

    status = 507
    type = "service_unavailable_error"
    default_code = "insufficient_storage"
    # Sending a large file again changes nothing.
    should_retry = False


class BackendTimeoutError(InferenceError):
    """The engine did not answer in time; its work was aborted."""

    status = 504
    default_code = "timeout"


class DeadlineError(BackendTimeoutError):
    """The request exceeded its timeout; its work was aborted."""

    # A retry would take as long.
    should_retry = False


class BackendFailedError(InferenceError):
    """The engine failed on this request; others may still succeed."""


class InternalError(InferenceError):
    """An error in the service itself."""


class ConfigurationError(Exception):
    """An invalid setting. It aborts the start before anything runs, and never reaches a client."""
