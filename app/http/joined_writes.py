"""uvicorn's HTTP protocol, with the head of an answer and the beginning of its body in one write.

uvicorn writes them one after the other, and uvloop hands each write to the kernel at once: two system calls for
every answer, and a client that wakes twice.
"""

import asyncio
from typing import Any, cast

from app.http.http_1_0 import HttpProtocol

_STATUS_LINE = b"HTTP/1.1 "


class JoinedWritesProtocol(HttpProtocol):
    """What uvicorn calls for each connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """asyncio's callback."""
        super().connection_made(cast(asyncio.Transport, _JoiningTransport(transport, self.loop)))


class _JoiningTransport:
    """A transport that holds the head of an answer until something follows, or nothing does."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""

    def write(self, data: bytes) -> None:
        """Write, or hold the head of an answer for a moment: at most until what is under way has run."""
        if self._held:
            data, self._held = self._held + data, b""
        elif data.startswith(_STATUS_LINE):
            self._held = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        """Close, when all is written."""
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _flush(self) -> None:
        if self._held:
            data, self._held = self._held, b""
            self._transport.write(data)
