"""Schema of error responses, the same for every status and for error events in streams."""

import msgspec

from domain.errors import InferenceError


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's schema `Error`: all four keys are always present; `code` is a string or null."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's schema `ErrorResponse`."""

    error: ErrorDetail


def error_response(error: InferenceError) -> ErrorResponse:
    """The response body for an error."""
    return ErrorResponse(
        error=ErrorDetail(message=error.message, type=error.type, param=error.param, code=error.code)
    )
