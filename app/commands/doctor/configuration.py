"""Settings: what is written wrong, what does not go together, and what is dangerous."""

import shlex
from collections.abc import Callable, Iterable

from app.commands.doctor.finding import Finding, failure, ok, warning
from app.engines import load_factory
from app.settings import HTTP, INPROCESS, Settings
from domain.errors import ConfigurationError
from domain.roles import ROLES, Role

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def mistakes(error: ConfigurationError) -> list[Finding]:
    """A line for each mistake; they say themselves what is allowed."""
    return [failure("settings", line) for line in str(error).splitlines()]


def check_settings(
    settings: Settings, rules: Iterable[Callable[[], object]], *, unknown: Iterable[str] = ()
) -> list[Finding]:
    """What of the settings does not go together.

    Args:
        settings: all of them, each by itself well formed.
        rules: what the service asks before it starts; each raises ConfigurationError.
        unknown: sentences about names that nothing reads.
    """
    found = [warning("settings", sentence, "Correct the name, or remove the line") for sentence in unknown]
    for rule in rules:
        try:
            rule()
        except ConfigurationError as error:
            found += mistakes(error)
    for role in settings.roles:
        found += _check_backend(role, settings)
    return found or [ok("settings", "all can be used")]


def check_exposure(host: str, *, has_keys: bool, has_tls: bool) -> Finding:
    """Who can use the service."""
    if host in LOOPBACK or host.startswith("127."):
        return ok("access", f"only programs on this machine reach it (HOST={host})")
    if not has_keys:
        return warning(
            "access",
            f"HOST is {host}: whoever reaches this machine can use the models, without a key",
            "Set API_KEYS to ask for one, or HOST=127.0.0.1",
        )
    if not has_tls:
        return warning(
            "access",
            f"HOST is {host}, and keys travel unencrypted",
            "Set TLS_CERT_FILE and TLS_KEY_FILE, unless a proxy before the service does it",
        )
    return ok("access", f"with a key, over https (HOST={host})")


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
