"""The server's side of WebSocket connections: what HTTP connections have as limits and as an orderly end."""

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

DRAIN = "drain"
"""Marks the message with which the application learns that the service ends."""
SERVICE_RESTART = 1012
"""The code with which the service closes connections when it ends (RFC 6455, registry of close codes)."""


class DrainingWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's protocol, which lets answers under way finish when the service drains.

    uvicorn closes the connection at once. Here the application closes it when it is done, and the server waits for
    that as long as it waits for requests.
    """

    def shutdown(self) -> None:
        """uvicorn's callback when it starts to drain."""
        if not self.handshake_complete or self.close_sent:
            super().shutdown()
            return
        # Not ASGI's message of a disconnect, after which nothing can be sent.
        message: Any = {"type": "websocket.receive", DRAIN: True}
        self.queue.put_nowait(message)
