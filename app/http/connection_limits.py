"""What one client may take of the server before the application has seen its request.

uvicorn bounds neither the head of a request nor the time that a client takes to send one or to read its answer.
Here a head has a largest size (431), sending has a time (408), and a client that does not take its answer is
dropped, which ends its work in the engine. Clients beyond the most connections are told so (503), health probes
excepted; a crowd beyond that is closed unheard. A request that comes in one piece costs a comparison or two.
"""

import asyncio
from functools import partial
from typing import Any, cast

import msgspec
import uvicorn
from litestar.types import Scope

from app.http.endpoints import PROBES
from app.http.errors import REFUSAL, error_body, error_headers
from app.http.joined_writes import JoinedWritesProtocol
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
"""Of the first line and all headers; as much again may come around a body in chunks."""
MAX_HEADERS = 256
MIN_BODY_RATE = 1024
"""Bytes a second: a body may take longer than the timeout if it comes at this rate."""
CHUNK_OVERHEAD = 8
"""Bytes on the wire for each byte of a body, at most: a chunk of one byte has five more around it."""
RESERVE = 64
"""Connections beyond the most, which are told that they are too many."""
_REASONS = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}


class ConnectionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much a client may take."""

    max_connections: int = 1000
    timeout_s: float = 30.0
    """For a client to send its request, and to take what waits for it; 0 for no limit."""


class ServerConfig(uvicorn.Config):
    """uvicorn's, which its protocols are given, with the limits."""

    limits: ConnectionLimits = ConnectionLimits()
    pacer: RequestPacer | None = None
    """Shared by all connections; made by the first of them, in the process and for the loop that serves them."""


class LimitedProtocol(JoinedWritesProtocol):
    """What uvicorn calls for each connection."""

    def __init__(self, config: uvicorn.Config, *arguments: Any, **more: Any) -> None:
        super().__init__(config, *arguments, **more)
        limited = config if isinstance(config, ServerConfig) else ServerConfig(config.app)
        self._limits = limited.limits
        if limited.pacer is None:
            limited.pacer = RequestPacer(self.loop)
        self._pacer = limited.pacer
        self._is_receiving = True
        """From the connection's beginning to the end of its first message, and from then on within messages."""
        self._since = self.loop.time()
        self._wire_bytes = 0
        self._body_bytes = 0
        self._has_begun = False
        self._is_surplus = False
        self._receive_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """asyncio's callback."""
        super().connection_made(transport)
        connected = len(self.connections)
        self._is_surplus = connected > self._limits.max_connections
        if connected > self._limits.max_connections + RESERVE:
            transport.abort()
        elif self._limits.timeout_s:
            self._receive_timer = self.loop.call_later(self._limits.timeout_s, self._is_late)

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
            # An empty line, which begins no message, and has ended the wait for the next one.
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
            # What comes after the answer buys no more time.
            self._body_bytes += len(body)

    def on_message_complete(self) -> None:
        """The parser's callback."""
        super().on_message_complete()
        self._is_receiving = False
        self._stop_receive_timer()

    def pause_writing(self) -> None:
        """asyncio's callback: what the client does not take has reached the bound of what is kept for it."""
        super().pause_writing()
        if self._limits.timeout_s and self._write_timer is None:
            self._write_timer = self.loop.call_later(self._limits.timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """asyncio's callback."""
        self._stop_write_timer()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, in the shape of all errors."""
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
        if scope["path"] in PROBES:
            # Probes do not queue.
            super()._start_asgi_task(cycle, app)
        else:
            scope["state"][PACER] = self._pacer
            self._pacer.start(partial(super()._start_asgi_task, cycle, app))

    def _still_receiving(self, size: int) -> None:
        """A message that did not come in one piece."""
        if self.transport.is_closing():
            return
        if self._has_begun:
            # What came before it in the same piece was another message's.
            self._has_begun = False
        else:
            self._wire_bytes += size
        if self._wire_bytes > MAX_HEAD_BYTES + CHUNK_OVERHEAD * self._body_bytes and not self._is_answered():
            self._refuse(_head_too_large())
        elif self._receive_timer is None and self._limits.timeout_s:
            self._receive_timer = self.loop.call_later(self._limits.timeout_s, self._is_late)

    def _is_late(self) -> None:
        """Time is up, unless the client was held up here or has sent enough meanwhile."""
        self._receive_timer = None
        if self.transport.is_closing():
            return
        until = self._since + self._limits.timeout_s + self._body_bytes / MIN_BODY_RATE
        left = self._limits.timeout_s if self._holds_the_client_up() else until - self.loop.time()
        if left > 0:
            self._receive_timer = self.loop.call_later(left, self._is_late)
            return
        seconds = f"{self._limits.timeout_s:g}"
        self._refuse(
            RequestTimeoutError(f"The request did not arrive within {seconds} seconds. Please try again.")
        )

    def _holds_the_client_up(self) -> bool:
        """Whether what comes in is not being read yet, or an earlier request still has to be answered."""
        is_answering = self.cycle is not None and not (self.cycle.more_body or self.cycle.response_complete)
        return self.flow.read_paused or is_answering

    def _is_answered(self) -> bool:
        return self.cycle is not None and self.cycle.response_complete

    def _refuse(self, error: InferenceError) -> None:
        """Answer, where nothing else is being answered, and close."""
        if self.cycle is None or not self.cycle.response_started or self._is_between_messages():
            body = error_body(error)
            headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
            lines = [f"{name}: {value}\r\n" for name, value in (headers | error_headers(error)).items()]
            head = f"HTTP/1.1 {error.status} {_REASONS[error.status]}\r\n{''.join(lines)}\r\n"
            self.transport.write(head.encode() + body)
            self._tell(error)
        self.transport.close()

    def _tell(self, error: InferenceError) -> None:
        """Tell who watches the request, if it is one already: its handler only sees the client go."""
        observation = (
            None if self.cycle is None or self._is_answered() else observation_of(cast(Scope, self.cycle.scope))
        )
        if observation is not None:
            observation.answers(error.status)
            observation.failed(error)

    def _is_between_messages(self) -> bool:
        """Whether the last answer is complete, and what comes in belongs to no request that it answered."""
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
