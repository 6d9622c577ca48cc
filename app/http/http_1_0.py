"""Sends answers without a length, such as streams, to clients of HTTP/1.0 without chunked encoding.

uvicorn sends them chunked, which RFC 9112 (6.1) forbids: an old client would take the chunk sizes for a part of
the answer. In HTTP/1.0 the end of the connection marks the end of such an answer.
"""

from typing import Any

from litestar.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


def without_chunks(app: Any, cycle: RequestResponseCycle) -> Any:
    """Wrap the application: an answer without a content-length ends with its connection."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        has_length = True

        async def send_plain(message: Message) -> None:
            nonlocal has_length
            if message["type"] == "http.response.start":
                has_length = any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
                if not has_length:
                    cycle.chunked_encoding = False
            elif message["type"] == "http.response.body" and not has_length:
                # uvicorn checks the body against the expected length.
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_plain)

    return answer
