"""Schema of Anthropic's error responses, and the status and type of each error.

Source: Anthropic's API reference, "Errors"; anthropic-python chooses its exceptions by the status and reports the
type.
"""

from typing import Literal

import msgspec

from domain.errors import (
    AuthenticationError,
    BackendTimeoutError,
    InferenceError,
    InvalidRequestError,
    OverloadedError,
    PayloadTooLargeError,
    RateLimitError,
)

OVERLOADED_STATUS = 529
"""Anthropic's status for an overloaded service, where OpenAI has 429."""

ErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "not_found_error",
    "request_too_large",
    "rate_limit_error",
    "timeout_error",
    "api_error",
    "overloaded_error",
]


class UnsupportedThread(msgspec.Struct, frozen=True, kw_only=True):
    """Makes a client send the whole conversation (anthropic-python's `ThreadUnsupportedRequestErrorDetails`)."""

    error_code: Literal["thread_unsupported_request"] = "thread_unsupported_request"
    unsupported: tuple[str, ...] = ("thread",)


class ThreadsUnsupportedError(InvalidRequestError):
    """The client wants the service to keep the conversation.

    Without the details of this error, the tool runner of Anthropic's SDKs would give up.
    """

    details = UnsupportedThread()

    def __init__(self) -> None:
        super().__init__(
            "'thread' is not supported: messages are not stored. Send the whole conversation without it.",
            param="thread",
            code="unsupported_parameter",
        )


class MessagesErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """Type and message of an error."""

    type: ErrorType
    message: str
    details: UnsupportedThread | msgspec.UnsetType = msgspec.UNSET
    """For programs; only some errors have them."""


class MessagesErrorResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Anthropic's schema `ErrorResponse`, also the data of an error event."""

    type: Literal["error"] = "error"
    error: MessagesErrorDetail
    request_id: str | None


def error_response(error: InferenceError, request_id: str | None) -> MessagesErrorResponse:
    """The response body for an error."""
    details = error.details if isinstance(error, ThreadsUnsupportedError) else msgspec.UNSET
    return MessagesErrorResponse(
        error=MessagesErrorDetail(type=error_type(error), message=error.message, details=details),
        request_id=request_id,
    )


def error_status(error: InferenceError) -> int:
    """The HTTP status of an error."""
    return OVERLOADED_STATUS if isinstance(error, OverloadedError) else error.status


def error_type(error: InferenceError) -> ErrorType:
    """Anthropic's type of an error."""
    for kind, name in _TYPES:
        if isinstance(error, kind):
            return name
    if error.status == 404:
        return "not_found_error"
    if isinstance(error, InvalidRequestError):
        return "invalid_request_error"
    return "overloaded_error" if error.status == 503 else "api_error"


_TYPES: tuple[tuple[type[InferenceError], ErrorType], ...] = (
    (AuthenticationError, "authentication_error"),
    (PayloadTooLargeError, "request_too_large"),
    (RateLimitError, "rate_limit_error"),
    (OverloadedError, "overloaded_error"),
    (BackendTimeoutError, "timeout_error"),
)
