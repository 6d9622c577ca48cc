"""Limits what one client may take of the server before the application has seen its request.

uvicorn bounds neither the head of a request nor the time that a client takes to send one or to read its answer.
Here a head has a maximum size (431), sending has a timeout (408), and a client that does not read its answer is
disconnected, which aborts its work in the engine. Connections beyond the maximum are refused (503), except for
health probes; some more beyond those are closed without an answer. A request that arrives in one piece costs a
comparison or two.
"""

import asyncio
from functools import partial
from typing import Any, cast

import msgspec
import uvicorn
from litestar.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.http.endpoints import ENDPOINTS, PROBES
from app.http.error_formats import ErrorFormats, request_id_of
from app.http.errors import REFUSAL, error_headers
from app.http.http_1_0 import without_chunks
from app.http.joined_writes import JoiningTransport
from app.http.request_pacer import PACER, RequestPacer
from app.telemetry.request import observation_of
from domain.errors import (
    HeadersTooLargeError,
    InferenceError,
    InvalidRequestError,
    RequestTimeoutError,
    TooManyConnectionsError,
)

MAX_HEAD_BYTES = 64 * 2**10
"""For the request line and all headers; the framing of a chunked body may take as much again."""
MAX_HEADERS = 256
MIN_BODY_RATE = 1024
"""Bytes per second: a body may take longer than the timeout if it arrives at this rate."""
CHUNK_OVERHEAD = 8
"""Maximum bytes on the wire per byte of a body: a chunk of one byte has five bytes of framing."""
RESERVE = 64
"""Connections beyond the maximum that are answered with 503 instead of being closed."""
_ERROR_FORMATS = ErrorFormats(ENDPOINTS)
_REASONS = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}


class ConnectionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits that settings choose."""

    max_connections: int = 1000
    timeout_s: float = 30.0
    """Seconds for a client to send its request, and to read what is waiting for it; 0 for no limit."""


class ServerConfig(uvicorn.Config):
    """uvicorn's configuration with the limits, as its protocols receive it."""

    limits: ConnectionLimits = ConnectionLimits()
    pacer: RequestPacer | None = None
    """Shared by all connections; made by the first of them, in the process and for the loop that serves them."""


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol of one connection, with the limits, joined writes, and no chunks for HTTP/1.0."""

    def __init__(self, config: uvicorn.Config, *arguments: Any, **more: Any) -> None:
        super().__init__(config, *arguments, **more)
        limited = config if isinstance(config, ServerConfig) else ServerConfig(config.app)
        self._limits = limited.limits
        if limited.pacer is None:
            limited.pacer = RequestPacer(self.loop)
        self._pacer = limited.pacer
        self._is_receiving = True
        """From the start of the connection to the end of its first message, and then during each message."""
        self._since = self.loop.time()
        self._wire_bytes = 0
        self._body_bytes = 0
        self._has_begun = False
        self._is_surplus = False
        self._receive_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """asyncio's callback."""
        super().connection_made(cast(asyncio.Transport, JoiningTransport(transport, self.loop)))
        connected = len(self.connections)
        self._is_surplus = connected > self._limits.max_connections
        if connected > self._limits.max_connections + RESERVE:
            transport.abort()
        elif self._limits.timeout_s:
            self._receive_timer = self.loop.call_later(self._limits.timeout_s, self._check_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's callback."""
        self._stop_receive_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """asyncio's callback."""
        super().data_received(data)
        if self._is_receiving:
            self._still_receiving(len(data))
        elif self._is_answered():
            # An empty line, which starts no message but has ended uvicorn's keep-alive timeout.
            self._is_receiving = True
            self._since = self.loop.time()
            self._still_receiving(len(data))

    def on_message_begin(self) -> None:
        """The parser's callback."""
        self._is_receiving = self._has_begun = True
        self._wire_bytes = self._body_bytes = 0
        self._since = self.loop.time()
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        """The parser's callback."""
        super().on_body(body)
        if not self.cycle.response_complete:
            # Bytes after the answer extend no timeout.
            self._body_bytes += len(body)

    def on_message_complete(self) -> None:
        """The parser's callback."""
        super().on_message_complete()
        self._is_receiving = False
        self._stop_receive_timer()

    def pause_writing(self) -> None:
        """asyncio's callback: unread data has reached the limit of the write buffer."""
        super().pause_writing()
        if self._limits.timeout_s and self._write_timer is None:
            self._write_timer = self.loop.call_later(self._limits.timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """asyncio's callback."""
        self._stop_write_timer()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP in the shape of all errors."""
        self._refuse(InvalidRequestError(f"The request could not be read: {msg.rstrip('.')}."))

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        scope = cycle.scope
        headers = scope["headers"]
        size = len(scope["raw_path"]) + len(scope["query_string"])
        size += sum([len(name) + len(value) for name, value in headers])
        if size > MAX_HEAD_BYTES or len(headers) > MAX_HEADERS:
            scope["state"][REFUSAL] = _head_too_large()
        elif self._is_surplus and scope["path"] not in PROBES:
            scope["state"][REFUSAL] = TooManyConnectionsError(
                f"All {self._limits.max_connections} connections that the service takes are in use. Please try "
                "again later.",
                retry_after_s=1,
            )
        if scope["http_version"] == "1.0":
            app = without_chunks(app, cycle)
        if scope["path"] in PROBES:
            # Probes do not queue.
            super()._start_asgi_task(cycle, app)
        else:
            scope["state"][PACER] = self._pacer
            self._pacer.start(partial(super()._start_asgi_task, cycle, app))

    def _still_receiving(self, size: int) -> None:
        """Check a message that did not arrive in one piece."""
        if self.transport.is_closing():
            return
        if self._has_begun:
            # The bytes before it in the same piece belong to another message.
            self._has_begun = False
        else:
            self._wire_bytes += size
        if self._wire_bytes > MAX_HEAD_BYTES + CHUNK_OVERHEAD * self._body_bytes and not self._is_answered():
            self._refuse(_head_too_large())
        elif self._receive_timer is None and self._limits.timeout_s:
            self._receive_timer = self.loop.call_later(self._limits.timeout_s, self._check_timeout)

    def _check_timeout(self) -> None:
        """Answer 408, unless the client had to wait for the server or has sent enough meanwhile."""
        self._receive_timer = None
        if self.transport.is_closing():
            return
        until = self._since + self._limits.timeout_s + self._body_bytes / MIN_BODY_RATE
        left = self._limits.timeout_s if self._keeps_client_waiting() else until - self.loop.time()
        if left > 0:
            self._receive_timer = self.loop.call_later(left, self._check_timeout)
            return
        seconds = f"{self._limits.timeout_s:g}"
        self._refuse(
            RequestTimeoutError(f"The request did not arrive within {seconds} seconds. Please try again.")
        )

    def _keeps_client_waiting(self) -> bool:
        """Whether reading is paused, or an earlier request is still to be answered."""
        is_answering = self.cycle is not None and not (self.cycle.more_body or self.cycle.response_complete)
        return self.flow.read_paused or is_answering

    def _is_answered(self) -> bool:
        return self.cycle is not None and self.cycle.response_complete

    def _refuse(self, error: InferenceError) -> None:
        """Answer, unless another answer has started, and close."""
        if self.cycle is None or not self.cycle.response_started or self._is_between_messages():
            body = _ERROR_FORMATS.of(self._path()).body(error, self._request_id())
            headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
            lines = [f"{name}: {value}\r\n" for name, value in (headers | error_headers(error)).items()]
            head = f"HTTP/1.1 {error.status} {_REASONS[error.status]}\r\n{''.join(lines)}\r\n"
            self.transport.write(head.encode() + body)
            self._report(error)
        self.transport.close()

    def _path(self) -> str:
        """The path of the message that is being received, as far as it has arrived; empty if none has begun."""
        target: bytes = getattr(self, "url", b"")
        return target.partition(b"?")[0].decode("latin-1")

    def _request_id(self) -> str:
        """The id of the request that is being received; empty if its head is incomplete."""
        return "" if self.cycle is None or self._is_answered() else request_id_of(cast(Scope, self.cycle.scope))

    def _report(self, error: InferenceError) -> None:
        """Report to the request's observer, if there is a request: its handler only sees a disconnect."""
        observation = (
            None if self.cycle is None or self._is_answered() else observation_of(cast(Scope, self.cycle.scope))
        )
        if observation is not None:
            observation.set_status(error.status)
            observation.failed(error)

    def _is_between_messages(self) -> bool:
        """Whether the last answer and its request are complete, so that new bytes belong to no request."""
        return self._is_answered() and self.cycle.more_body is False

    def _stop_receive_timer(self) -> None:
        if self._receive_timer is not None:
            self._receive_timer.cancel()
            self._receive_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


def _head_too_large() -> HeadersTooLargeError:
    return HeadersTooLargeError(
        f"The request's headers are too large: send at most {MAX_HEADERS}, of {MAX_HEAD_BYTES} bytes together."
    )
