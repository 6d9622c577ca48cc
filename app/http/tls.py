"""Checks the certificate and key files of TLS before anything starts."""

import ssl
from pathlib import Path

from app.settings import SecuritySettings
from domain.errors import ConfigurationError


def require_pair(security: SecuritySettings) -> None:
    """Require that both files are set or neither, can be read, and belong together.

    Raises:
        ConfigurationError: they can't be used.
    """
    certificate, key = security.tls_cert_file, security.tls_key_file
    if certificate is None and key is None:
        return
    if certificate is None or key is None:
        given, missing = ("TLS_CERT_FILE", "TLS_KEY_FILE") if key is None else ("TLS_KEY_FILE", "TLS_CERT_FILE")
        raise ConfigurationError(f"{given} is set, but {missing} is not. Set both to serve https, or none.")
    _require_readable("TLS_CERT_FILE", certificate)
    _require_readable("TLS_KEY_FILE", key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without a password OpenSSL would ask for one at the terminal.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except ssl.SSLError as error:
        raise ConfigurationError(_reason(error, certificate, key)) from None


def _require_readable(variable: str, path: Path) -> None:
    try:
        with path.open("rb") as file:
            file.read(1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "no file can have that name"
        raise ConfigurationError(f"{variable} is '{path}', which can't be read: {why}.") from None


def _reason(error: ssl.SSLError, certificate: Path, key: Path) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"TLS_KEY_FILE is '{key}', which is not the key of TLS_CERT_FILE, '{certificate}'."
    if not _is_certificate(certificate):
        return f"TLS_CERT_FILE is '{certificate}', which is no certificate in PEM."
    return f"TLS_KEY_FILE is '{key}', which is no private key in PEM, or has a password. Give one without."


def _is_certificate(path: Path) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except (ssl.SSLError, OSError):
        return False
    return True
