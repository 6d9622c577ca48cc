"""The web server around the application, and how the process ends."""

import errno
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from litestar import Litestar

from app.connection_limits import ConnectionLimits, LimitedProtocol, ServerConfig
from app.settings import SecuritySettings
from domain.errors import ConfigurationError

AppFactory = Callable[[], Litestar]
DRAIN_S = 10
LAST_PORT = 65535
KEEP_ALIVE_S = 75


def bind(host: str, port: int) -> socket.socket:
    """A listening socket, taken before any engine starts, so that a port in use costs no waiting.

    Raises:
        ConfigurationError: the address can't be had.
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
        # Only listening tells for sure that nobody else does.
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


def serve(app: Litestar, listener: socket.socket, *, log_level: str, security: SecuritySettings) -> int:
    """Serve until SIGINT or SIGTERM; return the exit code.

    The first signal stops accepting and lets running requests finish for a while, the second hurries.
    """
    # uvicorn raises the signals it has taken once more when it is done: they shall not kill a process that
    # has ended everything in good order.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _ignore)
    server = uvicorn.Server(server_config(app, log_level=log_level, security=security))
    server.run(sockets=[listener])
    return 0 if server.started else 1


def server_config(
    app: Litestar | AppFactory, *, log_level: str, security: SecuritySettings, processes: int = 1
) -> uvicorn.Config:
    """How each process serves its application, or what makes it there."""
    config = ServerConfig(
        app,
        factory=not isinstance(app, Litestar),
        workers=processes,
        loop="uvloop",
        http=LimitedProtocol,
        ws="none",
        lifespan="on",
        log_level="warning" if log_level == "info" else log_level,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=DRAIN_S,
        ssl_certfile=security.tls_cert_file,
        ssl_keyfile=security.tls_key_file,
    )
    config.limits = ConnectionLimits(max_connections=security.max_connections, timeout_s=security.client_timeout_s)
    return config


def _ignore(_number: int, _frame: FrameType | None) -> None:
    pass
