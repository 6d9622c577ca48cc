"""Checks the settings for invalid values, conflicts and insecure combinations."""

import shlex
from collections.abc import Callable, Iterable

from app.commands.doctor.finding import Finding, failure, ok, warning
from app.engines import load_factory
from app.http.server import is_loopback
from app.settings import HTTP, INPROCESS, Settings
from domain.errors import ConfigurationError
from domain.roles import ROLES, Role


def mistakes(error: ConfigurationError) -> list[Finding]:
    """One finding per mistake; the messages themselves say what is allowed."""
    return [failure("settings", line) for line in str(error).splitlines()]


def check_settings(
    settings: Settings, rules: Iterable[Callable[[], object]], *, unknown: Iterable[str] = ()
) -> list[Finding]:
    """Check for conflicting settings.

    Args:
        settings: all settings, each valid by itself.
        rules: the checks that the service makes before it starts; each raises ConfigurationError.
        unknown: warnings about unknown names.
    """
    found = [warning("settings", sentence, "Correct the name, or remove the line") for sentence in unknown]
    for rule in rules:
        try:
            rule()
        except ConfigurationError as error:
            found += mistakes(error)
    for role in settings.roles:
        found += _check_backend(role, settings)
    return found or [ok("settings", "all are valid")]


def check_exposure(host: str, *, has_keys: bool, has_tls: bool) -> Finding:
    """Check who can use the service."""
    if is_loopback(host):
        return ok("access", f"only from this machine (HOST={host})")
    if not has_keys:
        return warning(
            "access",
            f"HOST is {host}: anyone who can reach this machine can use the models without an API key",
            "Set API_KEYS to require one, or set HOST=127.0.0.1",
        )
    if not has_tls:
        return warning(
            "access",
            f"HOST is {host}, and API keys are sent unencrypted",
            "Set TLS_CERT_FILE and TLS_KEY_FILE, unless a proxy in front of the service handles TLS",
        )
    return ok("access", f"with an API key, over HTTPS (HOST={host})")


def _check_backend(role: Role, settings: Settings) -> list[Finding]:
    own, prefix = settings.role(role), ROLES[role].prefix
    if own.backend == INPROCESS:
        try:
            shlex.split(own.args)
        except ValueError as error:
            return [failure("settings", f"VLLM_{prefix}_ARGS: {error}", "Check its quotes")]
    elif own.backend != HTTP:
        try:
            load_factory(role, own.backend)
        except ConfigurationError as error:
            return [failure("settings", str(error).removesuffix("."))]
    return []
