"""Implements an httpx transport on asyncio protocols and llhttp, faster than httpx's default.

httpx's default connection pool (httpcore) checks every connection for every request under one lock; with 64
concurrent requests it drops to some hundred requests per second. Here an idle connection is popped from a list,
bytes go to llhttp (`httptools`) as they arrive, and a streamed body wakes its reader once for all buffered data.

Source: httpx's documentation, "Custom transports"; RFC 9112 for when a connection can be reused.
"""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any, cast

import httptools
import httpx

MAX_BUFFERED_BYTES = 256 * 1024
"""Unread bytes at which a connection stops reading until its reader has caught up."""
NO_BODY = b""

Origin = tuple[str, str, int]
"""Scheme, host and port."""


class NoResponseError(httpx.RemoteProtocolError):
    """The connection was closed before any content of the response arrived."""


class PooledTransport(httpx.AsyncBaseTransport):
    """A pool of keep-alive connections by origin, most recently used first.

    Raises, like httpx's default transport: ConnectError, ConnectTimeout, ReadError, ReadTimeout,
    RemoteProtocolError (NoResponseError if no content of the response arrived). The number of connections is not
    limited: one is opened whenever none is idle.
    """

    def __init__(self, *, max_idle: int = 256) -> None:
        """Create the transport without connecting.

        Args:
            max_idle: maximum idle connections to one origin that are kept open.
        """
        self._max_idle = max_idle
        self._idle: dict[Origin, deque[_Connection]] = {}
        self._busy: set[_Connection] = set()
        self._tls: ssl.SSLContext | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See httpx. Returns once the headers have arrived; the caller reads the body."""
        origin = _origin(request.url)
        timeouts: Mapping[str, float | None] = request.extensions.get("timeout", {})
        body = request.stream
        content = NO_BODY.join([part async for part in cast(AsyncIterator[bytes], body)])
        head = _head(request)
        while True:
            connection, is_fresh = await self._connection(origin, timeouts)
            try:
                status, headers = await connection.send(head + content, timeouts.get("read"))
            except BaseException as error:
                self._release(origin, connection)
                # Usually the server closed the connection while it was idle. Inference does not change state on
                # the server, so a request without any response byte is always safe to repeat.
                if isinstance(error, _ClosedIdleError) and not is_fresh:
                    continue
                if isinstance(error, _ClosedIdleError):
                    raise NoResponseError("Server disconnected without sending a response.") from error
                raise
            return httpx.Response(
                status,
                headers=headers,
                stream=_Body(self, origin, connection, timeouts.get("read")),
                extensions={"http_version": b"HTTP/1.1"},
            )

    async def aclose(self) -> None:
        """Close all connections, those in use included."""
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()
        for connection in list(self._busy):
            connection.close()

    async def _connection(
        self, origin: Origin, timeouts: Mapping[str, float | None]
    ) -> tuple["_Connection", bool]:
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.is_open:
                self._busy.add(connection)
                return connection, False
        connection = await self._open(origin, timeouts.get("connect"))
        self._busy.add(connection)
        return connection, True

    async def _open(self, origin: Origin, timeout_s: float | None) -> "_Connection":
        scheme, host, port = origin
        loop = asyncio.get_running_loop()
        if scheme == "https" and self._tls is None:
            self._tls = httpx.create_ssl_context(trust_env=False)
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await loop.create_connection(
                    _Connection, host, port, ssl=self._tls if scheme == "https" else None
                )
        except TimeoutError as error:
            raise httpx.ConnectTimeout(f"No connection within {timeout_s:g} s.") from error
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
        return connection

    def _release(self, origin: Origin, connection: "_Connection") -> None:
        """Return a connection to the pool if its response was read completely; close it otherwise."""
        self._busy.discard(connection)
        idle = self._idle.setdefault(origin, deque())
        if connection.is_reusable and len(idle) < self._max_idle:
            idle.append(connection)
        else:
            connection.close()


class _ClosedIdleError(Exception):
    """The connection was closed before any byte of a response arrived."""


class _Body(httpx.AsyncByteStream):
    """A response body; closing it releases the connection."""

    def __init__(
        self, transport: PooledTransport, origin: Origin, connection: "_Connection", timeout_s: float | None
    ) -> None:
        self._transport = transport
        self._origin = origin
        self._connection: _Connection | None = connection
        self._timeout_s = timeout_s

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        connection = self._connection
        if connection is None:
            raise httpx.StreamClosed
        while part := await connection.read(self._timeout_s):
            yield part

    async def aclose(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            self._transport._release(self._origin, connection)


class _Connection(asyncio.Protocol):
    """A connection that serves one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser: Any = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._parts: list[bytes] = []
        self._buffered_bytes = 0
        self._is_paused = False
        self._has_head = False
        self._has_content = False
        self._is_complete = True
        self._keeps_alive = False
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether a request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_reusable(self) -> bool:
        """Whether the last response is complete and the server keeps the connection open."""
        return self.is_open and self._is_complete and self._failure is None and self._keeps_alive

    def close(self) -> None:
        """Abort the connection; the server sees the client disconnect."""
        if self._transport is not None:
            self._transport.abort()

    async def send(self, request: bytes, timeout_s: float | None) -> tuple[int, list[tuple[bytes, bytes]]]:
        """Send a request; returns status and headers of the response."""
        if self._transport is None or not self.is_open:
            raise _ClosedIdleError
        self._parser = httptools.HttpResponseParser(self)
        self._headers, self._parts, self._buffered_bytes = [], [], 0
        self._has_head = self._has_content = self._is_complete = False
        self._transport.write(request)
        while not self._has_head:
            if self._failure is not None:
                raise self._failure
            await self._wait(timeout_s)
        return self._parser.get_status_code(), self._headers

    async def read(self, timeout_s: float | None) -> bytes:
        """All buffered data of the body, at least one byte; empty at the end of the body."""
        while not self._parts:
            if self._is_complete:
                return NO_BODY
            if self._failure is not None:
                raise self._failure
            await self._wait(timeout_s)
        parts, self._parts, self._buffered_bytes = self._parts, [], 0
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            with contextlib.suppress(RuntimeError):
                self._transport.resume_reading()
        return parts[0] if len(parts) == 1 else NO_BODY.join(parts)

    async def _wait(self, timeout_s: float | None) -> None:
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        # A timer instead of asyncio.timeout, which costs more than everything else done for a token.
        timer = loop.call_later(timeout_s, self._on_timeout, waiter, timeout_s) if timeout_s is not None else None
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _on_timeout(self, waiter: asyncio.Future[None], timeout_s: float) -> None:
        self._fail(httpx.ReadTimeout(f"No data received for {timeout_s:g} s."))
        if not waiter.done():
            waiter.set_result(None)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: Exception) -> None:
        if self._failure is None:
            self._failure = error
        self._wake()

    # Callbacks of asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(httpx.RemoteProtocolError(f"The server's response is not valid HTTP: {error}."))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_complete:
            return
        if not self._has_head:
            self._fail(_ClosedIdleError())
        elif self._ends_with_connection():
            self._is_complete = True
            self._wake()
        elif not self._has_content:
            self._fail(NoResponseError("The server closed the connection before sending any content."))
        else:
            self._fail(httpx.RemoteProtocolError("The server closed the connection in the middle of a response."))

    def _ends_with_connection(self) -> bool:
        """Whether the body has neither a length nor chunks, so that it ends when the connection closes."""
        names = {name.lower() for name, _ in self._headers}
        return not names & {b"content-length", b"transfer-encoding"}

    # Callbacks of llhttp.

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._parser.get_status_code() >= 200:
            self._has_head = True
            self._wake()
        else:
            self._headers = []

    def on_body(self, body: bytes) -> None:
        self._has_content = True
        self._parts.append(body)
        self._buffered_bytes += len(body)
        if self._buffered_bytes > MAX_BUFFERED_BYTES and not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def on_message_complete(self) -> None:
        if self._has_head:
            self._is_complete = True
            # The parser knows this only now.
            self._keeps_alive = self._parser.should_keep_alive()
            self._wake()


def _origin(url: httpx.URL) -> Origin:
    return url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80)


def _head(request: httpx.Request) -> bytes:
    """The request line and the headers."""
    lines = [b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
    lines += [b"%b: %b" % header for header in request.headers.raw]
    lines += [b"", b""]
    return b"\r\n".join(lines)
