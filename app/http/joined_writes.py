"""Writes the head of an answer together with the beginning of its body.

uvicorn writes them one after the other, and uvloop passes each write to the kernel at once: two system calls for
every answer, and the client wakes up twice.
"""

import asyncio
from typing import Any

_STATUS_LINE = b"HTTP/1.1 "


class JoiningTransport:
    """A transport that holds back the head of an answer until the next write or the next loop iteration."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""

    def write(self, data: bytes) -> None:
        """Write; the head of an answer is held back at most until the current callback has returned."""
        if self._held:
            data, self._held = self._held + data, b""
        elif data.startswith(_STATUS_LINE):
            self._held = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        """Close after writing what was held back."""
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _flush(self) -> None:
        if self._held:
            data, self._held = self._held, b""
            self._transport.write(data)
