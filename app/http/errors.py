"""Turns any exception into an answer, in the error format of its endpoint."""

import logging
import traceback
from collections.abc import Sequence
from typing import Any, cast

from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException
from litestar.types import Method, Scope, Send
from litestar.utils import normalize_path

from app.http.endpoint import SERVED_ENDPOINTS, Endpoint
from app.http.error_formats import OPENAI, error_format_of, request_id_of
from app.http.url_hints import url_hint
from app.telemetry.request import STATUS_CLIENT_GONE, note_client_left, note_error
from domain.errors import (
    AuthenticationError,
    InferenceError,
    InternalError,
    InvalidRequestError,
    MethodNotAllowedError,
    UnknownUrlError,
)

log = logging.getLogger("memoria")

REFUSAL = "refusal"
"""Where a request's state keeps an error that answers it without calling its handler."""


class ClientDisconnectedError(Exception):
    """The client disconnected before it was answered."""


def as_inference_error(
    exception: Exception, *, method: str = "", path: str = "", endpoints: Sequence[Endpoint] = ()
) -> InferenceError:
    """The domain's error for any exception; an unexpected one is logged and hidden from the client.

    Args:
        exception: what was raised.
        method: the request's method.
        path: the request's path.
        endpoints: the endpoints that are served, for a path that is not.
    """
    if isinstance(exception, InferenceError):
        return exception
    if isinstance(exception, NotFoundException):
        return UnknownUrlError(f"Unknown request URL: {method} {path}. {url_hint(path, endpoints, method)}")
    if isinstance(exception, MethodNotAllowedException):
        return MethodNotAllowedError(f"Not allowed to {method} on {path}.")
    if isinstance(exception, HTTPException) and exception.status_code < 500:
        return InvalidRequestError(f"The request could not be read: {exception.detail}.")
    _log_unexpected(exception, method, path)
    return InternalError("The server had an error while processing your request. Please try again.")


def _log_unexpected(exception: Exception, method: str, path: str) -> None:
    """Log the stack but not the message, which may repeat a prompt. At level debug, log everything."""
    frames = "".join(traceback.format_tb(exception.__traceback__)).rstrip()
    log.error("unexpected failure on %s %r: %s\n%s", method, path, type(exception).__name__, frames)
    log.debug("details of the unexpected failure", exc_info=exception)


def error_body(error: InferenceError) -> bytes:
    """The JSON body for an error in OpenAI's shape, also the data of an error event."""
    return OPENAI.body(error, "")


def error_headers(error: InferenceError) -> dict[str, str]:
    """The headers that belong to an error."""
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, error.retry_after_s))
    if error.should_retry is not None:
        # OpenAI's and Anthropic's libraries read it before the status.
        headers["x-should-retry"] = str(error.should_retry).lower()
    if isinstance(error, AuthenticationError):
        # RFC 9110 (11.6.1) requires it with every 401.
        headers["www-authenticate"] = "Bearer"
    return headers


async def refuse(error: InferenceError, scope: Scope, send: Send, **more: str) -> None:
    """Answer a request with an error before any handler runs.

    Args:
        error: the error to answer with.
        scope: the scope of the request.
        send: sends the answer.
        more: headers in addition to those of the error.
    """
    note_error(scope, error)
    error_format = error_format_of(scope)
    body = error_format.body(error, request_id_of(scope))
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        **more,
        **error_headers(error),
    }
    head = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error_format.status(error), "headers": head})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def refuse_handshake(error: InferenceError, send: Send) -> None:
    """Answer the handshake of a WebSocket with an error (ASGI's extension "WebSocket Denial Response")."""
    body = error_body(error)
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error_headers(error)}
    head = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "websocket.http.response.start", "status": error.status, "headers": head})
    await send({"type": "websocket.http.response.body", "body": body, "more_body": False})


def note_route(request: Request[Any, Any, Any], allowed: str) -> None:
    """Set the path template of a request whose method is not allowed: the router sets it only on a match."""
    method = cast(Method, allowed.partition(",")[0])
    path = normalize_path(request.scope["path"])
    *_, request.scope["path_template"] = request.app.asgi_router.handle_routing(path=path, method=method)


def handle(request: Request[Any, Any, Any], exception: Exception) -> Response[bytes]:
    """Litestar's handler for every exception of every route, unknown routes included."""
    if isinstance(exception, ClientDisconnectedError):
        note_client_left(request.scope)
        return Response(b"", status_code=STATUS_CLIENT_GONE)
    endpoints = request.app.state[SERVED_ENDPOINTS]
    error = as_inference_error(exception, method=request.method, path=request.url.path, endpoints=endpoints)
    note_error(request.scope, error)
    headers = error_headers(error)
    if isinstance(exception, MethodNotAllowedException) and exception.headers:
        # The methods of the path, which RFC 9110 (15.5.6) requires.
        headers |= exception.headers
        note_route(request, exception.headers["allow"])
    error_format = error_format_of(request.scope)
    return Response(
        error_format.body(error, request_id_of(request.scope)),
        status_code=error_format.status(error),
        media_type="application/json",
        headers=headers,
    )
