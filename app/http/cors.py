"""Which web sites' pages may read this API's answers."""

from collections.abc import Sequence

from litestar.config.cors import CORSConfig

EXPOSED = [
    "x-request-id",
    "openai-processing-ms",
    "openai-version",
    "retry-after",
    *(f"x-ratelimit-{part}-{what}" for what in ("requests", "tokens") for part in ("limit", "remaining", "reset")),
]
"""Headers that a page may read besides those that it always may."""


def cors(origins: Sequence[str]) -> CORSConfig:
    """What Litestar has to know. Cookies are not part of this API, so none are asked for."""
    return CORSConfig(
        allow_origins=list(origins),
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        allow_credentials=False,
        expose_headers=EXPOSED,
    )
