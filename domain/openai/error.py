"""The error body, the same for every status and for error events inside a stream."""

import msgspec

from domain.errors import InferenceError


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's schema `Error`: all four keys are always there; `code` is a string or null."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's schema `ErrorResponse`."""

    error: ErrorDetail


def error_response(error: InferenceError) -> ErrorResponse:
    """The body that tells a client of this failure."""
    return ErrorResponse(
        error=ErrorDetail(message=error.message, type=error.type, param=error.param, code=error.code)
    )
