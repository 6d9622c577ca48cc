"""httpx's transport on asyncio's protocols and llhttp: the same API, without the price.

httpx's own connection pool (httpcore) looks at every connection for every request under one lock, and with 64
requests at a time it falls to some hundred a second. Here a free connection is popped from a list, bytes go to
llhttp (`httptools`) as they arrive, and a streamed body wakes its reader once for all that has come.

Source: httpx's documentation, "Custom transports"; RFC 9112 for when a connection can be used again.
"""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any, cast

import httptools
import httpx

READ_AHEAD_BYTES = 256 * 1024
"""A reader that is so far behind makes the connection stop reading, until it has caught up."""
NO_BODY = b""

Origin = tuple[str, str, int]
"""Scheme, host and port."""


class NoAnswerError(httpx.RemoteProtocolError):
    """The connection ended before any of an answer's content came."""


class PooledTransport(httpx.AsyncBaseTransport):
    """Keep-alive connections by origin, last used first.

    Raises, as httpx's own transport does: ConnectError, ConnectTimeout, ReadError, ReadTimeout,
    RemoteProtocolError (NoAnswerError if nothing of the answer's content came). There is no wait for a place:
    connections are opened as they are needed.
    """

    def __init__(self, *, max_idle: int = 256) -> None:
        """Make the transport; nothing is opened yet.

        Args:
            max_idle: connections to one origin that are kept open while nobody uses them.
        """
        self._max_idle = max_idle
        self._idle: dict[Origin, deque[_Connection]] = {}
        self._busy: set[_Connection] = set()
        self._tls: ssl.SSLContext | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See httpx: the response's head; its body is read by whoever gets it."""
        origin = _origin(request.url)
        timeouts: Mapping[str, float | None] = request.extensions.get("timeout", {})
        body = request.stream
        content = NO_BODY.join([part async for part in cast(AsyncIterator[bytes], body)])
        head = _head(request)
        while True:
            connection, is_fresh = await self._connection(origin, timeouts)
            try:
                status, headers = await connection.ask(head + content, timeouts.get("read"))
            except BaseException as error:
                self._release(origin, connection)
                # As a rule the server closed it while nobody used it. Inference changes nothing in the server, so
                # that a request without a byte of an answer may be asked again in any case.
                if isinstance(error, _ClosedIdleError) and not is_fresh:
                    continue
                if isinstance(error, _ClosedIdleError):
                    raise NoAnswerError("Server disconnected without sending a response.") from error
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
        """Keep a connection whose answer was read to its end; close any other."""
        self._busy.discard(connection)
        idle = self._idle.setdefault(origin, deque())
        if connection.is_reusable and len(idle) < self._max_idle:
            idle.append(connection)
        else:
            connection.close()


class _ClosedIdleError(Exception):
    """The connection ended before a byte of an answer came."""


class _Body(httpx.AsyncByteStream):
    """A response's body; closing it gives the connection back."""

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
    """One connection with one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser: Any = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._parts: list[bytes] = []
        self._unread = 0
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
        """Whether the last answer has come to its end and the server keeps the connection."""
        return self.is_open and self._is_complete and self._failure is None and self._keeps_alive

    def close(self) -> None:
        """End the connection at once; the server sees its client leave."""
        if self._transport is not None:
            self._transport.abort()

    async def ask(self, request: bytes, timeout_s: float | None) -> tuple[int, list[tuple[bytes, bytes]]]:
        """Send a request; status and headers of the answer."""
        if self._transport is None or not self.is_open:
            raise _ClosedIdleError
        self._parser = httptools.HttpResponseParser(self)
        self._headers, self._parts, self._unread = [], [], 0
        self._has_head = self._has_content = self._is_complete = False
        self._transport.write(request)
        while not self._has_head:
            if self._failure is not None:
                raise self._failure
            await self._wait(timeout_s)
        return self._parser.get_status_code(), self._headers

    async def read(self, timeout_s: float | None) -> bytes:
        """All of the body that has come, at least a byte; nothing at its end."""
        while not self._parts:
            if self._is_complete:
                return NO_BODY
            if self._failure is not None:
                raise self._failure
            await self._wait(timeout_s)
        parts, self._parts, self._unread = self._parts, [], 0
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            with contextlib.suppress(RuntimeError):
                self._transport.resume_reading()
        return parts[0] if len(parts) == 1 else NO_BODY.join(parts)

    async def _wait(self, timeout_s: float | None) -> None:
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        # A timer and no asyncio.timeout, which costs more than all the rest of a token.
        timer = loop.call_later(timeout_s, self._late, waiter, timeout_s) if timeout_s is not None else None
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _late(self, waiter: asyncio.Future[None], timeout_s: float) -> None:
        self._fail(httpx.ReadTimeout(f"The server was silent for {timeout_s:g} s."))
        if not waiter.done():
            waiter.set_result(None)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: Exception) -> None:
        if self._failure is None:
            self._failure = error
        self._wake()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(httpx.RemoteProtocolError(f"The server's answer is no HTTP: {error}."))
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
            self._fail(NoAnswerError("The server closed the connection before the content of its answer."))
        else:
            self._fail(httpx.RemoteProtocolError("The server closed the connection in the middle of its answer."))

    def _ends_with_connection(self) -> bool:
        """Whether the body has neither a length nor chunks, so that only the connection's end ends it."""
        names = {name.lower() for name, _ in self._headers}
        return not names & {b"content-length", b"transfer-encoding"}

    # What llhttp calls.

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
        self._unread += len(body)
        if self._unread > READ_AHEAD_BYTES and not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def on_message_complete(self) -> None:
        if self._has_head:
            self._is_complete = True
            # Only here does the parser know.
            self._keeps_alive = self._parser.should_keep_alive()
            self._wake()


def _origin(url: httpx.URL) -> Origin:
    return url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80)


def _head(request: httpx.Request) -> bytes:
    """Request line and headers."""
    lines = [b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
    lines += [b"%b: %b" % header for header in request.headers.raw]
    lines += [b"", b""]
    return b"\r\n".join(lines)
