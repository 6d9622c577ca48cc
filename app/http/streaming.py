"""Streams server-sent events to a client, in the format of its API (`stream_formats.py`).

A failure after the first byte can't change the status: it becomes an error event, on which the client libraries
raise, and no end mark follows, so that an incomplete answer is not mistaken for a complete one.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Generic, Protocol, TypeVar

import msgspec
from litestar.types import Receive, Scope, Send

from app.http.disconnect import unless_disconnected
from app.http.error_formats import request_id_of
from app.http.errors import ClientDisconnectedError, as_inference_error
from app.http.rate_limits import Reservation
from app.http.stream_formats import OPENAI_STREAM, StreamFormat
from app.telemetry.request import note_client_left, note_error
from domain.openai.common import UsageCounter

Item = TypeVar("Item")

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # Keeps nginx from buffering.
    (b"x-accel-buffering", b"no"),
]


class Presenter(Protocol):
    """The part of an endpoint's presenter that a stream needs, apart from the chunks of each item."""

    usage: UsageCounter

    def last_chunks(self) -> Sequence[msgspec.Struct]:
        """The chunks that end the stream."""
        ...


class StreamedAnswer(Generic[Item]):
    """An ASGI response that sends chunks as they arrive, and keep-alive events or comments while none arrive.

    A long prompt takes the engine a while, and proxies close connections that are idle for too long: after
    `keep_alive_s` seconds the response begins without its first chunk. Until then, a failure raises and keeps its
    own status.
    """

    def __init__(
        self,
        stream: AbstractAsyncContextManager[AsyncIterator[Item]],
        chunks: Callable[[Item], Sequence[msgspec.Struct]],
        presenter: Presenter,
        *,
        reservation: Reservation,
        keep_alive_s: float,
        stream_format: StreamFormat = OPENAI_STREAM,
    ) -> None:
        """Create the response; the stream starts when the response is sent.

        Args:
            stream: the items to send.
            chunks: converts an item to chunks, which are sent in one write; may be none.
            presenter: the presenter that `chunks` belongs to.
            reservation: tokens charged to the client's key, corrected at the end.
            keep_alive_s: idle time in seconds after which the format's `keep_alive` is sent; 0 for never.
            stream_format: how chunks, errors and the end are written.
        """
        self._stream = stream
        self._chunks = chunks
        self._presenter = presenter
        self._reservation = reservation
        self._keep_alive_s = keep_alive_s
        self._format = stream_format

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, or stop when the client disconnects.

        Raises:
            InferenceError: the stream failed before its first chunk.
        """
        try:
            await unless_disconnected(self._run(scope, send), receive)
        except ClientDisconnectedError:
            note_client_left(scope)

    async def _run(self, scope: Scope, send: Send) -> None:
        writer = StreamWriter(send, self._keep_alive_s, self._format.keep_alive)
        try:
            with self._reservation as reservation:
                try:
                    await self._write_all(writer)
                finally:
                    reservation.used = self._presenter.usage.total_tokens
        except Exception as exception:
            if not writer.has_begun:
                raise
            error = as_inference_error(exception)
            note_error(scope, error)
            last = self._format.error(error, request_id_of(scope))
        else:
            last = self._format.encode(self._presenter.last_chunks()) + self._format.end
        finally:
            await writer.stop()
        await writer.end(last)

    async def _write_all(self, writer: "StreamWriter") -> None:
        encode = self._format.encode
        async with self._stream as items:
            await writer.begin()
            async for item in items:
                if chunks := self._chunks(item):
                    await writer.write(encode(chunks))


class StreamWriter:
    """Writes the response, and a comment or event whenever it has been idle for too long."""

    def __init__(self, send: Send, keep_alive_s: float, keep_alive: bytes) -> None:
        self._send = send
        self._keep_alive = keep_alive
        self._keep_alive_s = keep_alive_s
        self._wrote_at = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._comment: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(keep_alive_s, self._check_idle) if keep_alive_s > 0 else None
        self.has_begun = False
        """Whether the status is decided: it can't be an error's any more."""
        self._has_sent_head = False

    async def begin(self) -> None:
        """Send the status and headers, unless they have been sent."""
        if not self.has_begun:
            self.has_begun = True
            await self._send_head()

    async def write(self, body: bytes) -> None:
        """Send a part of the body."""
        self._wrote_at = time.monotonic()
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self, body: bytes) -> None:
        """Send the last part of the body; the head too, if sending it was interrupted."""
        if not self._has_sent_head:
            await self._send_head()
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _send_head(self) -> None:
        await self._send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        self._has_sent_head = True

    async def stop(self) -> None:
        """Stop sending comments."""
        if self._timer is not None:
            self._timer.cancel()
        if self._comment is not None:
            self._comment.cancel()
            await asyncio.wait([self._comment])

    def _check_idle(self) -> None:
        idle_s = time.monotonic() - self._wrote_at
        if idle_s >= self._keep_alive_s:
            # On a blocked connection one comment waits, and no more.
            if self._comment is None or self._comment.done():
                self._comment = asyncio.create_task(self._write_comment())
            idle_s = 0.0
        self._timer = self._loop.call_later(self._keep_alive_s - idle_s, self._check_idle)

    async def _write_comment(self) -> None:
        # The next write of the answer reports problems of the connection.
        with contextlib.suppress(Exception):
            await self.begin()
            await self.write(self._keep_alive)
