"""Streams server-sent events to a client.

Source: OpenAI's streaming format: `data: {…}` for each chunk, `data: [DONE]` at the end. A failure after the
first byte can't change the status: it becomes `data: {"error": {…}}`, on which openai-python raises, and no end
mark follows, so that an incomplete answer is not mistaken for a complete one.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, Protocol, TypeVar, cast

import msgspec
from litestar.types import Receive, Scope, Send

from app.http.disconnect import unless_disconnected
from app.http.errors import ClientDisconnectedError, as_inference_error, error_body
from app.http.rate_limits import Reservation
from app.telemetry.request import note_client_left, note_error
from domain.openai.common import UsageCounter

Item = TypeVar("Item")

DONE = b"data: [DONE]\n\n"
# A line that begins with a colon is a comment, which clients ignore.
KEEP_ALIVE = b": keep-alive\n\n"
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # Keeps nginx from buffering.
    (b"x-accel-buffering", b"no"),
]

_encode_into = msgspec.json.Encoder().encode_into


class Presenter(Protocol):
    """The part of an endpoint's presenter that a stream needs, apart from the chunks of each item."""

    usage: UsageCounter

    def last_chunks(self) -> Sequence[msgspec.Struct]:
        """The chunks that end the stream."""
        ...


class StreamedAnswer(Generic[Item]):
    """An ASGI response that sends chunks as they arrive, and comments while none arrive.

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
    ) -> None:
        """Create the response; the stream starts when the response is sent.

        Args:
            stream: the items to send.
            chunks: converts an item to chunks, which are sent in one write; may be none.
            presenter: the presenter that `chunks` belongs to.
            reservation: tokens charged to the client's key, corrected at the end.
            keep_alive_s: idle time in seconds after which a comment is sent; 0 for never.
        """
        self._stream = stream
        self._chunks = chunks
        self._presenter = presenter
        self._reservation = reservation
        self._keep_alive_s = keep_alive_s

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
        writer = _Writer(send, self._keep_alive_s)
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
            last = b"data: %b\n\n" % error_body(error)
        else:
            last = _events(self._presenter.last_chunks()) + DONE
        finally:
            await writer.stop()
        await writer.end(last)

    async def _write_all(self, writer: "_Writer") -> None:
        async with self._stream as items:
            await writer.begin()
            async for item in items:
                if chunks := self._chunks(item):
                    await writer.write(_events(chunks))


class _Writer:
    """Writes the response, and a comment whenever it has been idle for too long."""

    def __init__(self, send: Send, keep_alive_s: float) -> None:
        self._send = send
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
            await self.write(KEEP_ALIVE)


def _events(chunks: Sequence[Any]) -> bytes:
    """Encode chunks as events. JSON contains no raw line breaks, so one data line per chunk is enough."""
    buffer = bytearray()
    for chunk in chunks:
        buffer += b"data: "
        _encode_into(chunk, buffer, -1)
        buffer += b"\n\n"
    # Servers accept any bytes-like object; this saves a copy per token.
    return cast(bytes, buffer)
