"""Server-sent events to a client, closed in order whatever ends them.

Source: OpenAI's streaming format: `data: {…}` for each chunk, `data: [DONE]` at the end. A failure after the
first byte can't change the status any more: it becomes `data: {"error": {…}}`, at which openai-python raises,
and no end mark follows, so that a broken answer is not taken for a whole one.
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
# A line that begins with a colon is a comment; every reader of event streams skips it.
KEEP_ALIVE = b": keep-alive\n\n"
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx would hold small parts back otherwise.
    (b"x-accel-buffering", b"no"),
]

_encode_into = msgspec.json.Encoder().encode_into


class Presenter(Protocol):
    """What a stream needs of the presenter of its endpoint, besides the chunks for each item."""

    usage: UsageCounter

    def last_chunks(self) -> Sequence[msgspec.Struct]:
        """Chunks that end the stream."""
        ...


class StreamedAnswer(Generic[Item]):
    """An ASGI response that sends chunks as they come, and comments while none come.

    A long prompt keeps the engine silent for a while, and proxies close connections that are silent for too long:
    after `keep_alive_s` seconds the response begins without its first chunk. Until it has begun, a failure raises
    and keeps its status.
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
        """Make the response; the stream begins when it is sent.

        Args:
            stream: the items to send.
            chunks: turns an item into chunks, which leave in one write; none are nothing to send.
            presenter: whose `chunks` it is.
            reservation: tokens that the client's key has been charged, settled at the end.
            keep_alive_s: silence, in seconds, after which a comment is sent; 0 for none.
        """
        self._stream = stream
        self._chunks = chunks
        self._presenter = presenter
        self._reservation = reservation
        self._keep_alive_s = keep_alive_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, or stop when the client leaves.

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
    """Writes the response, and a comment whenever it was silent for too long."""

    def __init__(self, send: Send, keep_alive_s: float) -> None:
        self._send = send
        self._keep_alive_s = keep_alive_s
        self._wrote_at = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._comment: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(keep_alive_s, self._look) if keep_alive_s > 0 else None
        self.has_begun = False
        """Whether the status has been sent."""

    async def begin(self) -> None:
        """Send the head, if it has not been sent."""
        if not self.has_begun:
            self.has_begun = True
            await self._send({"type": "http.response.start", "status": 200, "headers": HEADERS})

    async def write(self, body: bytes) -> None:
        """Send a part of the body."""
        self._wrote_at = time.monotonic()
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self, body: bytes) -> None:
        """Send the last part of the body."""
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def stop(self) -> None:
        """Send no comments any more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._comment is not None:
            self._comment.cancel()
            await asyncio.wait([self._comment])

    def _look(self) -> None:
        silence_s = time.monotonic() - self._wrote_at
        if silence_s >= self._keep_alive_s:
            self._comment = asyncio.create_task(self._write_comment())
            silence_s = 0.0
        self._timer = self._loop.call_later(self._keep_alive_s - silence_s, self._look)

    async def _write_comment(self) -> None:
        # The next part of the answer meets whatever is wrong with the connection.
        with contextlib.suppress(Exception):
            await self.begin()
            await self.write(KEEP_ALIVE)


def _events(chunks: Sequence[Any]) -> bytes:
    """The events for some chunks. JSON never holds a raw line end, so one data line for each is enough."""
    buffer = bytearray()
    for chunk in chunks:
        buffer += b"data: "
        _encode_into(chunk, buffer, -1)
        buffer += b"\n\n"
    # Servers take any bytes-like object, and a copy would be one more for each token.
    return cast(bytes, buffer)
