"""The shapes of errors: OpenAI's, and Anthropic's on its endpoints.

An endpoint names its format (`Endpoint.error_format`), which also holds for unknown paths below its own. The
format of a request is known before it is routed, so that every error has it: those of authentication and limits,
of unknown paths and methods, and of connections.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec
from litestar.types import Scope

from app.http.codec import encode
from domain.anthropic import error as anthropic
from domain.errors import InferenceError
from domain.openai.error import ErrorResponse, error_response

if TYPE_CHECKING:
    # Endpoints name their format.
    from collections.abc import Sequence

    from app.http.endpoint import Endpoint

ERROR_FORMAT = "error_format"
"""Where a request's state keeps its format."""


class ErrorFormat(msgspec.Struct, frozen=True, kw_only=True):
    """How errors of some endpoints are written."""

    body: Callable[[InferenceError, str], bytes]
    """The JSON of an error, from the error and the id of the request; the id may be empty."""
    status: Callable[[InferenceError], int]
    document: type[msgspec.Struct]
    """The type of the JSON, for the OpenAPI document."""
    other_statuses: tuple[int, ...] = ()
    """Statuses that only this format uses."""
    request_id_header: bytes | None = None
    """A header in addition to `x-request-id`, on all answers of these endpoints."""


def _openai_body(error: InferenceError, _request_id: str) -> bytes:
    return encode(error_response(error))


def _anthropic_body(error: InferenceError, request_id: str) -> bytes:
    return encode(anthropic.error_response(error, request_id or None))


OPENAI = ErrorFormat(body=_openai_body, status=lambda error: error.status, document=ErrorResponse)
ANTHROPIC = ErrorFormat(
    body=_anthropic_body,
    status=anthropic.error_status,
    document=anthropic.MessagesErrorResponse,
    other_statuses=(anthropic.OVERLOADED_STATUS,),
    request_id_header=b"request-id",
)


class ErrorFormats:
    """The formats of paths."""

    def __init__(self, endpoints: "Sequence[Endpoint]") -> None:
        formats: Mapping[str, ErrorFormat] = {row.template: row.error_format for row in endpoints}
        # Most paths have the default.
        self._others = tuple((path, kind) for path, kind in formats.items() if kind is not OPENAI)

    def of(self, path: str) -> ErrorFormat:
        """The format of the endpoint at this path, or of one that it is below of."""
        for prefix, kind in self._others:
            if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/"):
                return kind
        return OPENAI


def error_format_of(scope: Scope) -> ErrorFormat:
    """The format of a request's errors."""
    state = scope.get("state")
    kind: ErrorFormat = OPENAI if state is None else state.get(ERROR_FORMAT, OPENAI)
    return kind


def request_id_of(scope: Scope) -> str:
    """The id of a request; empty if an error precedes it."""
    return str(scope.get("state", {}).get("request_id", ""))
