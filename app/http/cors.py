"""Configures which origins may read this API's answers (CORS)."""

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
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        allow_credentials=False,
        expose_headers=EXPOSED,
    )
