"""Reads request bodies, builds the requests' context, and sends JSON answers, for all endpoints."""

import re
from typing import Any, TypeVar, cast

import msgspec
from litestar import Request
from litestar.types import Receive, Scope, Send

from app.http.codec import BodyDecoder, encode
from app.http.errors import ClientDisconnectedError
from app.http.ignored import note_ignored
from app.http.request_pacer import PACER, RequestPacer
from app.http.response_headers import request_id
from app.service import Service
from app.settings import ApiOptions
from app.telemetry.history import History
from app.telemetry.request import observation_of
from domain.catalog import ServedModel
from domain.errors import InvalidRequestError, PayloadTooLargeError, UnsupportedMediaTypeError
from domain.port import RequestContext
from domain.service_class import ServiceClass, class_of_tier

T = TypeVar("T", bound=msgspec.Struct)
AnyRequest = Request[Any, Any, Any]


_SECONDS = re.compile(rb"\d{1,6}(\.\d{1,3})?")
SERVICE, OPTIONS, METRICS, HISTORY = "service", "options", "metrics", "history"
RESPONSES, FILES, BATCHES = "responses", "files", "batches"
"""Keys in the application's state."""
SERVICE_CLASS = "service_class"
"""Key in a request's state of its `ServiceClass`; absent for requests of clients."""


def service_of(request: AnyRequest) -> Service:
    """The application's service."""
    return cast(Service, request.app.state[SERVICE])


def options_of(request: AnyRequest) -> ApiOptions:
    """The application's API settings."""
    return cast(ApiOptions, request.app.state[OPTIONS])


def history_of(request: AnyRequest) -> History:
    """The application's history."""
    return cast(History, request.app.state[HISTORY])


def context_of(
    request: AnyRequest, model: ServedModel | None = None, *, tier: str | None = None
) -> RequestContext:
    """The context that is passed to the engine.

    Args:
        request: the request.
        model: the requested model, recorded now because the call may fail before an engine is reached.
        tier: the body's `service_tier`, if it has one. A class in the request's state wins over it.

    Raises:
        InvalidRequestError: the client's timeout is invalid.
    """
    own_class: ServiceClass | None = request.scope["state"].get(SERVICE_CLASS)
    service_class = own_class if own_class is not None else class_of_tier(tier)
    observation = observation_of(request.scope)
    if observation is not None:
        observation.set_class(service_class)
        if model is not None:
            observation.set_model(model.name, model.role)
    return RequestContext(
        request_id=request_id(request.scope),
        timeout_s=_client_timeout_s(request),
        observer=observation,
        service_class=service_class,
    )


def _client_timeout_s(request: AnyRequest) -> float | None:
    """The client's timeout in seconds, from the header `x-request-timeout`."""
    for name, value in request.scope["headers"]:
        if name == b"x-request-timeout":
            if not _SECONDS.fullmatch(value) or not float(value):
                raise InvalidRequestError(
                    "The header 'x-request-timeout' must be a number of seconds above 0, such as 30 or 0.5.",
                    param="x-request-timeout",
                    code="invalid_value",
                )
            return float(value)
    return None


async def read_body(request: AnyRequest, decoder: BodyDecoder[T]) -> T:
    """Read and decode the request's body. What a tolerant decoder ignores is reported in a header.

    Raises:
        UnsupportedMediaTypeError: it is declared as something other than JSON, or as compressed.
        InvalidRequestError: it is invalid.
        ClientDisconnectedError: the client disconnected before the body was complete.
    """
    content, options = await _read_json(request), options_of(request)
    if not decoder.is_tolerant or options.strict_tools:
        return decoder.decode(content, allow_unknown=options.allow_unknown_fields)
    body, dropped = decoder.decode_tolerantly(content)
    if dropped:
        note_ignored(request.scope, dropped)
    return body


def content_headers(request: AnyRequest, default_type: str) -> tuple[str, int]:
    """The declared type and length of the body; the length is 0 if it is not declared.

    Raises:
        UnsupportedMediaTypeError: the body is declared as compressed.
    """
    declared, encoding, length = default_type, "", 0
    # Litestar's `headers` would first build a mapping of all headers.
    for name, value in request.scope["headers"]:
        if name == b"content-type":
            declared = value.decode("latin-1")
        elif name == b"content-encoding":
            encoding = value.decode("latin-1")
        elif name == b"content-length" and value.isdigit():
            length = int(value)
    if encoding.strip().lower() not in ("", "identity"):
        raise UnsupportedMediaTypeError(
            f"Unsupported content encoding: '{encoding[:100]}'. Send the body uncompressed."
        )
    return declared, length


async def _read_json(request: AnyRequest) -> bytes:
    """Read the request's body.

    Raises:
        UnsupportedMediaTypeError: the body is declared as something other than JSON, or as compressed.
        PayloadTooLargeError: it is larger than MAX_BODY_BYTES.
        ClientDisconnectedError: the client disconnected before the body was complete.
    """
    declared, length = content_headers(request, "application/json")
    if "json" not in declared.lower():
        raise UnsupportedMediaTypeError(
            f"Unsupported content type: '{declared[:100]}'. This API accepts 'application/json'."
        )
    body = await _read(request.receive, options_of(request).max_body_bytes, declared_bytes=length)
    pacer: RequestPacer | None = request.scope["state"].get(PACER)
    if pacer is not None:
        # Many clients may send their bodies at the same time, shortly after their headers.
        await pacer.wait_turn()
    return body


async def _read(receive: Receive, max_bytes: int, *, declared_bytes: int) -> bytes:
    """Read a complete body. Litestar's reader takes a tenth of the time of an embedding request."""
    if declared_bytes > max_bytes:
        raise _too_large()
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnectedError
        part = cast(bytes, message.get("body", b""))
        size += len(part)
        if size > max_bytes:
            raise _too_large()
        parts.append(part)
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large() -> PayloadTooLargeError:
    return PayloadTooLargeError("The request body is too large. Send fewer or shorter inputs at a time.")


class JSONAnswer:
    """A complete JSON answer as an ASGI application; cheaper than Litestar's response."""

    def __init__(self, body: bytes, status: int) -> None:
        self._body = body
        self._status = status

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send the answer."""
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(self._body)),
        ]
        await send({"type": "http.response.start", "status": self._status, "headers": headers})
        await send({"type": "http.response.body", "body": self._body, "more_body": False})


def json_response(answer: msgspec.Struct, *, status: int = 200) -> JSONAnswer:
    """A complete JSON answer."""
    return JSONAnswer(encode(answer), status)
