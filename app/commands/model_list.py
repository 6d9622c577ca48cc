"""Asks a server for its models, as the doctor and `memoria launch` do."""

import functools
import ssl

import httpx


def request_models(address: str, *, api_key: str | None, timeout_s: float) -> httpx.Response:
    """The answer to `GET /v1/models`, requested without a proxy, as the service itself requests.

    Args:
        address: the server's URL without `/v1`.
        api_key: sent as a bearer token; None to send none.
        timeout_s: seconds to wait for the connection, and for each part of the answer.

    Raises:
        httpx.HTTPError: the server does not answer.
        httpx.InvalidURL: the address is not a URL.
        UnicodeError: the address or the key can't be encoded.
    """
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    with httpx.Client(trust_env=False, timeout=timeout_s, verify=trusted_certificates()) as client:
        return client.get(f"{address}/v1/models", headers=headers)


@functools.cache
def trusted_certificates() -> ssl.SSLContext:
    """The certificates that httpx trusts. Loading them takes longer than a request on the same machine."""
    return httpx.create_ssl_context(trust_env=False)
