"""Every failure that can reach a client, and how OpenAI would say it.

InferenceError
├── InvalidRequestError            400  the request itself is wrong
│   ├── AuthenticationError        401  no API key, or one that is not known
│   ├── ContextLengthError         400  more tokens than the model's context holds
│   ├── TooManyTokensError         400  more tokens than one embedding request may have
│   ├── ModelNotFoundError         404  no model of that name is served
│   ├── WrongEndpointError         404  the model exists, but not for this endpoint
│   ├── UnknownUrlError            404  no such path
│   ├── MethodNotAllowedError      405  the path exists, but not with this method
│   ├── RequestTimeoutError        408  the client took too long to send its request
│   ├── PayloadTooLargeError       413  more bytes than the service accepts
│   ├── UnsupportedMediaTypeError  415  the body is not declared as plain JSON
│   └── HeadersTooLargeError       431  more headers, or longer ones, than the service reads
├── RateLimitError                 429  the API key has used up its share of this minute
│   ├── RequestRateError           429  of requests
│   └── TokenRateError             429  of tokens
├── OverloadedError                429  more work waits already than the role takes
├── TooManyConnectionsError        503  as many clients as the service takes are connected
├── BackendUnavailableError        503  the engine is starting, gone or out of reach; worth a retry
│   ├── EngineDiedError            503  the engine's process has ended; a new one is started
│   ├── EngineHungError            503  the engine's process has stopped working; a new one is started
│   ├── BackendUnreachableError    503  nothing of an answer came: no connection, or it was reset
│   └── BackendBusyError           503  its server took nothing on, and said when to come again
├── BackendTimeoutError            504  the engine did not answer in time
│   └── DeadlineError              504  the request took longer than it may; it has been given up
├── BackendFailedError             500  the engine failed on this request
└── InternalError                  500  a fault of the service itself

Types and codes follow OpenAI's published schema `Error` (openai/openai-openapi) and the classes that
openai-python derives from the status. Messages tell the caller what to change, and carry no prompt, key or
path of this machine.
"""

from typing import ClassVar


class InferenceError(Exception):
    """Base of all failures that cross the port or the API.

    Attributes:
        message: one or two sentences for the caller.
        param: the request parameter at fault, in OpenAI's spelling (`messages[0].role`), or None.
        code: OpenAI's machine-readable code, or None.
        retry_after_s: whole seconds after which a retry makes sense, or None.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None
    should_retry: ClassVar[bool | None] = None
    """What OpenAI's client libraries are told of asking again; None leaves it to them and the status."""

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
    """The request can't be served as it is; sending it again won't help."""

    status = 400
    type = "invalid_request_error"


class ContextLengthError(InvalidRequestError):
    """The prompt, or one input, has more tokens than the model's context holds."""

    default_code = "context_length_exceeded"

    def __init__(self, max_model_len: int | None, *, param: str) -> None:
        limit = f"{max_model_len} tokens" if max_model_len else "shorter than this input"
        super().__init__(
            f"This model's maximum context length is {limit}. Please reduce the length of '{param}'.",
            param=param,
        )


class TooManyTokensError(InvalidRequestError):
    """The inputs of one embedding request have more tokens together than one request may have."""

    type = "max_tokens_per_request"
    default_code = "max_tokens_per_request"

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(
            f"Requested {tokens} tokens, max {limit} tokens per request. Send the inputs in several requests.",
            param="input",
        )


class AuthenticationError(InvalidRequestError):
    """The request has no API key, or one that is not known."""

    status = 401


class ModelNotFoundError(InvalidRequestError):
    """No model of that name is served here."""

    status = 404
    default_code = "model_not_found"


class WrongEndpointError(InvalidRequestError):
    """The model is served, but it can't do what this endpoint is for."""

    status = 404


class UnknownUrlError(InvalidRequestError):
    """The path is not part of the API."""

    status = 404
    default_code = "unknown_url"


class MethodNotAllowedError(InvalidRequestError):
    """The path exists, but not with this method."""

    status = 405
    default_code = "method_not_supported"


class PayloadTooLargeError(InvalidRequestError):
    """The body has more bytes than the service accepts."""

    status = 413
    default_code = "payload_too_large"


class UnsupportedMediaTypeError(InvalidRequestError):
    """The body is declared as something other than JSON, or as compressed."""

    status = 415
    default_code = "unsupported_media_type"


class RequestTimeoutError(InvalidRequestError):
    """The client took too long to send its request."""

    status = 408
    default_code = "request_timeout"


class HeadersTooLargeError(InvalidRequestError):
    """The head of the request has more or longer headers than the service reads."""

    status = 431
    default_code = "headers_too_large"


class RateLimitError(InferenceError):
    """The API key has used up what it may use in a minute."""

    status = 429
    type = "requests"
    default_code = "rate_limit_exceeded"


class RequestRateError(RateLimitError):
    """Too many requests in a minute."""


class TokenRateError(RateLimitError):
    """Too many tokens in a minute."""

    type = "tokens"


class TooManyConnectionsError(InferenceError):
    """As many clients as the service takes are connected."""

    status = 503
    type = "service_unavailable_error"
    default_code = "too_many_connections"


class BackendUnavailableError(InferenceError):
    """The engine can't take requests now: it is starting, it ended, or it can't be reached."""

    status = 503
    type = "service_unavailable_error"
    default_code = "model_not_ready"


class EngineDiedError(BackendUnavailableError):
    """The engine's process has ended while it was needed."""

    default_code = "engine_died"


class EngineHungError(BackendUnavailableError):
    """The engine's process is there and does nothing, although work waits."""

    default_code = "engine_hung"


class OverloadedError(InferenceError):
    """As much work waits for the engine as may wait; told at once, so that nobody waits in vain."""

    status = 429
    type = "overloaded_error"
    default_code = "queue_full"


class BackendUnreachableError(BackendUnavailableError):
    """No connection, or one that was reset before a byte of an answer: the request can safely go elsewhere."""


class BackendBusyError(BackendUnavailableError):
    """The server turned the request away without work on it; `retry_after_s` is what it asked for itself."""


class BackendTimeoutError(InferenceError):
    """The engine did not answer in time; the work there has been given up."""

    status = 504
    default_code = "timeout"


class DeadlineError(BackendTimeoutError):
    """The time that the request may take is over; its work has been aborted."""

    # The same again would take as long again.
    should_retry = False


class BackendFailedError(InferenceError):
    """The engine failed on this request; others may still succeed."""


class InternalError(InferenceError):
    """A fault of the service itself."""


class ConfigurationError(Exception):
    """A setting that can't be used. It ends a start before anything runs, and never reaches a client."""
