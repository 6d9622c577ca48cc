"""Limits and graceful shutdown for WebSocket connections."""

import asyncio
from typing import Any

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from app.http.connection_limits import ServerConfig

DRAIN = "drain"
"""Key of the message that signals shutdown to the application."""
SERVICE_RESTART = 1012
"""The code with which the service closes connections when it ends (RFC 6455, registry of close codes)."""


class DrainingWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's protocol, which lets answers under way finish when the service drains.

    uvicorn closes the connection at once. Here the application closes it when it is done, and the server waits for
    that as long as it waits for requests.

    As over HTTP, a client that does not read its answers is disconnected, which aborts its work in the engine.
    """

    def __init__(self, config: uvicorn.Config, *arguments: Any, **more: Any) -> None:
        super().__init__(config, *arguments, **more)
        limited = config if isinstance(config, ServerConfig) else ServerConfig(config.app)
        self._timeout_s = limited.limits.timeout_s
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's callback."""
        self._stop_write_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """asyncio's callback: unread data has reached the limit of the write buffer."""
        super().pause_writing()
        if self._timeout_s and self._write_timer is None:
            self._write_timer = self.loop.call_later(self._timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """asyncio's callback."""
        self._stop_write_timer()
        super().resume_writing()

    def keepalive_timeout(self) -> None:
        """uvicorn's callback when a ping is not answered in time."""
        super().keepalive_timeout()
        if self.transport.get_write_buffer_size():
            # Closed, the transport would wait without end for a client that does not read.
            self.transport.abort()

    def shutdown(self) -> None:
        """uvicorn's callback when it starts to drain."""
        if not self.handshake_complete or self.close_sent:
            super().shutdown()
            return
        # Not ASGI's message of a disconnect, after which nothing can be sent.
        message: Any = {"type": "websocket.receive", DRAIN: True}
        self.queue.put_nowait(message)

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
