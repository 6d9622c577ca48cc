"""A load generator's HTTP client: as little work for each answer as can be, and a time stamp for each part.

The service, its engines and the generator share the same few cores, so whatever the generator spends is taken
from what it measures. General clients spend more on a request than the service does; this one writes bytes
that were made beforehand and hands what comes back to llhttp (`httptools`).
"""

import asyncio
import time
from typing import Self, cast
from urllib.parse import urlsplit

import httptools
import msgspec

CONNECT_TIMEOUT_S = 10.0


class Answer(msgspec.Struct):
    """What came back for one request. Times are seconds of `time.perf_counter`."""

    sent_at: float
    status: int = 0
    body: bytes = b""
    part_times: list[float] = []
    """When each part of the body arrived, however many events it held."""
    ended_at: float = 0.0


class Target(msgspec.Struct, frozen=True):
    """Where requests go."""

    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Self:
        """The target of a URL such as `http://127.0.0.1:8200`."""
        parts = urlsplit(url)
        return cls(parts.hostname or "127.0.0.1", parts.port or 80)

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        """A whole request as bytes."""
        lines = [
            f"POST {path} HTTP/1.1",
            f"host: {self.host}:{self.port}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Connection(asyncio.Protocol):
    """One keep-alive connection with one request at a time. Open it with `connect`."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: Answer | None = None
        self._parts: list[bytes] = []
        self._done: asyncio.Future[Answer] | None = None

    @classmethod
    async def connect(cls, target: Target) -> Self:
        """A fresh connection.

        Raises:
            OSError: the connection failed.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, connection = await loop.create_connection(cls, target.host, target.port)
        return connection

    @property
    def is_open(self) -> bool:
        """Whether another request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: bytes) -> Answer:
        """Send a request's bytes; the whole answer. Cancelling closes the connection.

        Raises:
            ConnectionError: the server closed the connection before the answer was whole.
        """
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("The connection has been closed.")
        self._parser = httptools.HttpResponseParser(self)
        self._parts = []
        self._answer = Answer(sent_at=time.perf_counter(), part_times=[])
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await self._done
        except asyncio.CancelledError:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's callback."""
        # uvloop's transports are of no class of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """asyncio's callback."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(f"not an HTTP answer: {error}"))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's callback."""
        self._fail(ConnectionResetError("The server closed the connection."))

    def on_body(self, body: bytes) -> None:
        """The parser's callback."""
        if self._answer is not None:
            self._answer.part_times.append(time.perf_counter())
            self._parts.append(body)

    def on_message_complete(self) -> None:
        """The parser's callback."""
        answer, done = self._answer, self._done
        if answer is None or done is None or done.done():
            return
        answer.ended_at = time.perf_counter()
        answer.status = self._parser.get_status_code()
        answer.body = b"".join(self._parts)
        if not self._parser.should_keep_alive() and self._transport is not None:
            self._transport.close()
        done.set_result(answer)

    def _fail(self, error: Exception) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(error)
