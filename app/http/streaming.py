"""Server-sent events to a client, closed in order whatever ends them.

Source: OpenAI's streaming format: `data: {…}` for each chunk, `data: [DONE]` at the end. A failure after the
first byte can't change the status any more: it becomes `data: {"error": {…}}`, at which openai-python raises,
and no end mark follows, so that nobody takes a broken answer for a whole one.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence

import msgspec
from litestar.types import Receive, Scope, Send

from app.http.codec import encode
from app.http.disconnect import unless_disconnected
from app.http.errors import ClientDisconnectedError, as_inference_error, error_body
from app.telemetry.request import note_client_left, note_error

DONE = b"data: [DONE]\n\n"
# A line that begins with a colon is a comment; every reader of event streams passes over it.
KEEP_ALIVE = b": keep-alive\n\n"
Batch = Sequence[msgspec.Struct]
Chunks = AsyncGenerator[Batch, None]
"""Chunks that were ready together; they leave in one write."""
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx would hold small parts back otherwise.
    (b"x-accel-buffering", b"no"),
]


def event(data: bytes) -> bytes:
    """One event. JSON never holds a raw line end, so one data line is enough."""
    return b"data: %b\n\n" % data


def _events(chunks: Batch) -> bytes:
    return b"".join([event(encode(chunk)) for chunk in chunks])


class EventStream:
    """An ASGI response that sends chunks as they come, and comments while none come.

    A long prompt keeps the engine silent for a while, and proxies close connections on which nothing moves.
    """

    def __init__(self, chunks: Chunks, *, first: asyncio.Task[Batch], keep_alive_s: float) -> None:
        """Make the response.

        Args:
            chunks: the chunks to come; closed at the end, or when the client leaves.
            first: brings the first batch, or an empty one at the end of an empty stream.
            keep_alive_s: silence, in seconds, after which a comment is sent; 0 for none.
        """
        self._chunks = chunks
        self._first = first
        self._keep_alive_s = keep_alive_s
        self._sent_at = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, or stop when the client leaves."""
        try:
            await unless_disconnected(self._send_all(scope, send), receive)
        except ClientDisconnectedError:
            note_client_left(scope)
        finally:
            await _end(self._first, self._chunks)

    async def _send_all(self, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        pulse = asyncio.create_task(self._keep_alive(send)) if self._keep_alive_s > 0 else None
        try:
            if batch := await self._first:
                await self._send(send, _events(batch))
            async for batch in self._chunks:
                await self._send(send, _events(batch))
        except Exception as exception:
            error = as_inference_error(exception)
            note_error(scope, error)
            last = event(error_body(error))
        else:
            last = DONE
        finally:
            if pulse is not None:
                pulse.cancel()
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _send(self, send: Send, body: bytes) -> None:
        self._sent_at = time.monotonic()
        await send({"type": "http.response.body", "body": body, "more_body": True})

    async def _keep_alive(self, send: Send) -> None:
        if not self._first.done():
            # The response began because the silence has lasted that long already.
            await self._send(send, KEEP_ALIVE)
        while True:
            await asyncio.sleep(self._sent_at + self._keep_alive_s - time.monotonic())
            if time.monotonic() - self._sent_at >= self._keep_alive_s:
                await self._send(send, KEEP_ALIVE)


async def stream_response(chunks: Chunks, receive: Receive, *, keep_alive_s: float) -> EventStream:
    """The response for a stream, once its first chunk is there: until then a failure keeps its status.

    If that takes longer than `keep_alive_s` seconds the response begins without it: what the engine refuses it
    refuses soon, and a connection that stays silent may be closed on the way.

    Raises:
        InferenceError: the stream failed before its first chunk.
        ClientDisconnectedError: the client left before it.
    """
    first = asyncio.create_task(_next(chunks))
    try:
        await unless_disconnected(_wait(first, keep_alive_s), receive)
        if first.done():
            # Raises what the stream failed with.
            first.result()
    except BaseException:
        await _end(first, chunks)
        raise
    return EventStream(chunks, first=first, keep_alive_s=keep_alive_s)


async def _wait(first: asyncio.Task[Batch], keep_alive_s: float) -> None:
    await asyncio.wait({first}, timeout=keep_alive_s or None)


async def _next(chunks: Chunks) -> Batch:
    """The next batch, or an empty one at the end."""
    async for batch in chunks:
        return batch
    return []


async def _end(first: asyncio.Task[Batch], chunks: Chunks) -> None:
    """Close a stream. It can't be closed while somebody waits for its first chunk."""
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await chunks.aclose()
