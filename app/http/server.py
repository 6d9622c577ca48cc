"""Runs the web server around the application and ends the process on signals."""

import asyncio
import errno
import math
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from litestar import Litestar

from app.http.connection_limits import ConnectionLimits, LimitedProtocol, ServerConfig
from app.http.websockets import DrainingWebSocket
from app.settings import Settings
from domain.errors import ConfigurationError

AppFactory = Callable[[], Litestar]
LAST_PORT = 65535
KEEP_ALIVE_S = 75
POLL_S = 0.05


def bind(host: str, port: int) -> socket.socket:
    """A listening socket, opened before any engine starts, so that a port in use is reported at once.

    Raises:
        ConfigurationError: the address can't be bound.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"HOST: '{host}' is no address or name of this machine ({error}).") from error
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        # Binding can succeed while another process listens; listening can't.
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise ConfigurationError(f"HOST: '{host}' is no address of this machine.") from error
        other = port + 1 if 0 < port < LAST_PORT else 8200
        raise ConfigurationError(
            f"PORT: {host}:{port} can't be used ({error.strerror}). Stop what listens there, or choose another "
            f"port: PORT={other} or memoria serve --port."
        ) from error
    return listener


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on this host."""
    return host in ("localhost", "::1") or host.startswith("127.")


def serve(app: Litestar, listener: socket.socket, settings: Settings, *, on_drain: Callable[[], None]) -> int:
    """Serve until SIGINT or SIGTERM; return the exit code.

    The first signal stops accepting and lets running requests finish for a while, the second hurries.
    """
    # uvicorn raises the signals that it caught again when it is done. They must not kill a process that has shut
    # down cleanly.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _ignore)
    server = DrainingServer(server_config(app, settings), on_drain=on_drain)
    server.run(sockets=[listener])
    return 0 if server.started else 1


class DrainingServer(uvicorn.Server):
    """uvicorn, which reports when it starts to drain and stops draining on a second signal of any kind.

    uvicorn's own forced exit skips the application's shutdown, and with it that of the engines.
    """

    def __init__(self, config: uvicorn.Config, *, on_drain: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_drain = on_drain
        self._signals = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note the signal; this runs between any two instructions, so it does nothing else."""
        self._signals += 1
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting connections, let running requests finish, then shut down the application."""
        self._on_drain()
        await super().shutdown(sockets)

    async def _wait_tasks_to_complete(self) -> None:
        waiting = asyncio.create_task(super()._wait_tasks_to_complete())
        try:
            while not waiting.done():
                if self._signals > 1:
                    # uvicorn cancels the requests that are still running.
                    raise TimeoutError
                await asyncio.wait([waiting], timeout=POLL_S)
            await waiting
        finally:
            waiting.cancel()


def server_config(app: Litestar | AppFactory, settings: Settings) -> uvicorn.Config:
    """uvicorn's configuration for an application, or for a factory that each process calls."""
    security = settings.security
    config = ServerConfig(
        app,
        factory=not isinstance(app, Litestar),
        workers=settings.api_processes,
        loop="uvloop",
        http=LimitedProtocol,
        ws=DrainingWebSocket,
        ws_max_size=settings.api.max_body_bytes,
        # Tokens are short, and compressing each costs more than it saves.
        ws_per_message_deflate=False,
        lifespan="on",
        # uvicorn logs through the service's handlers.
        log_config=None,
        log_level="warning" if settings.log_level == "info" else settings.log_level,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(settings.drain_timeout_s),
        ssl_certfile=security.tls_cert_file,
        ssl_keyfile=security.tls_key_file,
    )
    config.limits = ConnectionLimits(max_connections=security.max_connections, timeout_s=security.client_timeout_s)
    return config


def _ignore(_number: int, _frame: FrameType | None) -> None:
    pass
