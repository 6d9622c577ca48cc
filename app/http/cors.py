"""Configures which origins may read this API's answers (CORS), open a WebSocket, and upload files."""

from collections.abc import Sequence

from litestar.config.cors import CORSConfig

EXPOSED = [
    "x-request-id",
    "request-id",
    "x-memoria-ignored",
    "openai-processing-ms",
    "openai-version",
    "retry-after",
    *(f"x-ratelimit-{part}-{what}" for what in ("requests", "tokens") for part in ("limit", "remaining", "reset")),
]
"""Headers that a page may read in addition to the safelisted ones."""


def cors(origins: Sequence[str]) -> CORSConfig:
    """Litestar's configuration for these origins. The API uses no cookies, so credentials are not allowed."""
    return CORSConfig(
        allow_origins=list(origins),
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["*"],
        allow_credentials=False,
        expose_headers=EXPOSED,
    )


def is_origin_allowed(origin: str | None, host: str | None, config: CORSConfig | None) -> bool:
    """Whether a client may open a WebSocket, or upload: without asking the service, browsers let any page do both.

    Args:
        origin: the header that browsers send with both; None from other clients.
        host: the header with the address at which the client reaches the service.
        config: the other origins that are allowed; None for none.
    """
    if origin is None or (config is not None and config.is_origin_allowed(origin)):
        return True
    # The scheme is not compared: behind a proxy that ends TLS, it is another one here than in the browser.
    _, _, own = origin.partition("://")
    return bool(own) and host is not None and own.lower() == host.lower()
