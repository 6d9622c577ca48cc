"""Server-sent events to a client, closed in order whatever ends them.

Source: OpenAI's streaming format: `data: {…}` for each chunk, `data: [DONE]` at the end. A failure after the
first byte can't change the status any more: it becomes `data: {"error": {…}}`, at which openai-python raises,
and no end mark follows, so that nobody takes a broken answer for a whole one.
"""

from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from litestar.types import Receive, Scope, Send

from app.codec import encode
from app.disconnect import unless_disconnected
from app.errors import ClientDisconnectedError, as_inference_error, error_body

DONE = b"data: [DONE]\n\n"
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx would hold small parts back otherwise.
    (b"x-accel-buffering", b"no"),
]


def event(data: bytes) -> bytes:
    """One event. JSON never holds a raw line end, so one data line is enough."""
    return b"data: " + data + b"\n\n"


class EventStream:
    """An ASGI response that sends chunks as they come."""

    def __init__(self, chunks: AsyncGenerator[msgspec.Struct, None], *, first: list[msgspec.Struct]) -> None:
        """Make the response.

        Args:
            chunks: the chunks to come; closed at the end, or when the client leaves.
            first: chunks that were awaited before, while a failure could still be a status.
        """
        self._chunks = chunks
        self._first = first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, or stop when the client leaves."""
        try:
            await unless_disconnected(self._send_all(send), receive)
        except ClientDisconnectedError:
            pass
        finally:
            await self._chunks.aclose()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        for chunk in self._first:
            await _send(send, event(encode(chunk)))
        try:
            async for chunk in self._chunks:
                await _send(send, event(encode(chunk)))
        except Exception as exception:
            await _send(send, event(error_body(as_inference_error(exception))))
        else:
            await _send(send, DONE)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send(send: Any, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def stream_response(chunks: AsyncGenerator[msgspec.Struct, None], receive: Receive) -> EventStream:
    """The response for a stream, once its first chunk is there: until then a failure keeps its status.

    Raises:
        InferenceError: the stream failed before its first chunk.
        ClientDisconnectedError: the client left before it.
    """
    try:
        first = await unless_disconnected(_next(chunks), receive)
    except BaseException:
        await chunks.aclose()
        raise
    return EventStream(chunks, first=first)


async def _next(chunks: AsyncGenerator[msgspec.Struct, None]) -> list[msgspec.Struct]:
    """The next chunk, or none at the end."""
    async for chunk in chunks:
        return [chunk]
    return []
