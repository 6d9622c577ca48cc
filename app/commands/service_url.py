"""The address of the service, for the commands that are its clients."""

import ipaddress

import httpx

from app.settings import Settings
from domain.errors import ConfigurationError


def local_url(settings: Settings) -> str:
    """The address of the service on this machine.

    Raises:
        ConfigurationError: it is not known.
    """
    if settings.port == 0:
        raise ConfigurationError(
            "PORT is 0, so the service's port is not known in advance. Give its address with --url."
        )
    scheme = "https" if settings.security.tls_cert_file is not None else "http"
    return f"{scheme}://{_reachable(settings.host)}:{settings.port}"


def _reachable(host: str) -> str:
    """A host that clients on this machine can connect to."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "[::1]"
    return host if address.version == 4 else f"[{host}]"


def given_url(url: str) -> str:
    """The address in the option `--url`, without `/v1`.

    Raises:
        ConfigurationError: it is none.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError):
        parsed = httpx.URL("")
    if (
        parsed.scheme not in ("http", "https")
        or not parsed.host
        or parsed.userinfo
        or parsed.query
        or parsed.fragment
    ):
        raise ConfigurationError(
            "--url must be the address of the service, such as http://127.0.0.1:8200, without password and query."
        )
    return url.rstrip("/").removesuffix("/v1").rstrip("/")
