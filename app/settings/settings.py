"""Typed settings of the whole service."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from app.settings import parsers
from app.settings.api import ApiOptions
from app.settings.batches import BatchSettings
from app.settings.files import FileSettings
from app.settings.groups import (
    ACCESS,
    BACK_PRESSURE,
    CLIENT_LIMITS,
    EMBEDDINGS,
    LOG,
    SERVERS,
    SERVICE,
    TIME_LIMITS,
)
from app.settings.roles import RoleSettings
from app.settings.state import StateSettings
from app.settings.telemetry import TelemetrySettings
from app.settings.values import HTTP, INPROCESS
from domain.policies.allowance import BatchRules
from domain.policies.fault_tolerance import FaultTolerance
from domain.roles import Role


class SecuritySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Who may use the service, and how much of it."""

    api_keys: Annotated[
        tuple[str, ...],
        ACCESS.setting(
            "API_KEYS",
            "Accepted API keys, comma-separated. If this and API_KEYS_FILE are unset, no key is required.",
            parsers.parse_keys,
            is_secret=True,
        ),
    ] = ()
    api_keys_file: Annotated[
        Path | None,
        ACCESS.setting(
            "API_KEYS_FILE",
            "File with one key per line, optionally with a name and limits: alice KEY rpm=60 tpm=100000.",
            parsers.parse_file,
        ),
    ] = None
    requests_per_minute: Annotated[
        int,
        ACCESS.setting(
            "KEY_REQUESTS_PER_MINUTE",
            "Requests per minute for each key without a limit of its own; 0 for no limit.",
            parsers.parse_limit,
        ),
    ] = 0
    tokens_per_minute: Annotated[
        int,
        ACCESS.setting(
            "KEY_TOKENS_PER_MINUTE",
            "Tokens per minute, prompts and answers, for each key without a limit of its own; 0 for no limit.",
            parsers.parse_limit,
        ),
    ] = 0
    cors_origins: Annotated[
        tuple[str, ...],
        ACCESS.setting(
            "CORS_ORIGINS",
            "Origins whose web pages may use the service, comma-separated, such as https://app.example.com;"
            " * for all.",
            parsers.parse_origins,
        ),
    ] = ()
    tls_cert_file: Annotated[
        Path | None,
        ACCESS.setting(
            "TLS_CERT_FILE",
            "PEM file with the certificate chain, to serve HTTPS; requires TLS_KEY_FILE.",
            parsers.parse_file,
        ),
    ] = None
    tls_key_file: Annotated[
        Path | None,
        ACCESS.setting(
            "TLS_KEY_FILE",
            "PEM file with the private key of TLS_CERT_FILE, without a passphrase.",
            parsers.parse_file,
        ),
    ] = None
    max_connections: Annotated[
        int,
        CLIENT_LIMITS.setting(
            "MAX_CONNECTIONS",
            "Connections that each process accepts at a time; further ones are rejected with status 503.",
            parsers.parse_positive_int,
        ),
    ] = 1000
    client_timeout_s: Annotated[
        float,
        CLIENT_LIMITS.setting(
            "CLIENT_TIMEOUT_S",
            "Seconds that a client may take to send its request, or to read what is ready for it; 0 for no limit.",
            parsers.parse_seconds,
        ),
    ] = 30.0

    def __repr__(self) -> str:
        """A representation without the keys."""
        return f"SecuritySettings({len(self.api_keys)} keys)"


class EmbeddingPolicies(msgspec.Struct, frozen=True, kw_only=True):
    """The optional policies in front of the embedding engine."""

    join: Annotated[
        bool | None,
        EMBEDDINGS.setting(
            "EMBED_JOIN",
            f"Whether waiting embedding requests are sent as one batch: true, false, or auto (over {HTTP} only).",
            parsers.parse_auto_or_yes_or_no,
            default="auto",
        ),
    ] = None
    cache_bytes: Annotated[
        int,
        EMBEDDINGS.setting(
            "EMBED_CACHE",
            "Memory for cached embeddings, in bytes or as 256MiB; 0 disables the cache.",
            parsers.parse_bytes,
        ),
    ] = 0


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings."""

    host: Annotated[
        str,
        SERVICE.setting(
            "HOST",
            "Address to listen on. 0.0.0.0 accepts connections from the network; set API_KEYS then.",
            parsers.parse_host,
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int, SERVICE.setting("PORT", "TCP port to listen on; 0 takes any free one.", parsers.parse_port)
    ] = 8200
    api_processes: Annotated[
        int,
        SERVICE.setting(
            "API_PROCESSES",
            f"Number of processes that serve the port. More than 1 requires that all engines run over {HTTP}.",
            parsers.parse_positive_int,
        ),
    ] = 1
    cache_dir: Annotated[
        Path,
        SERVICE.setting(
            "MEMORIA_CACHE_DIR",
            "Folder for prepared models. If unset, memoria-vllm in the user's cache folder.",
            parsers.parse_folder,
        ),
    ]
    api: ApiOptions
    security: SecuritySettings
    request_timeout_s: Annotated[
        float,
        TIME_LIMITS.setting(
            "REQUEST_TIMEOUT_S",
            "Longest time of a request in seconds, waiting included; clients may ask for less; 0 for no limit.",
            parsers.parse_seconds,
        ),
    ] = 600.0
    drain_timeout_s: Annotated[
        float,
        TIME_LIMITS.setting(
            "DRAIN_TIMEOUT_S",
            "Seconds that running requests have to finish after SIGTERM; a second signal ends them immediately.",
            parsers.parse_seconds,
        ),
    ] = 30.0
    hang_timeout_s: Annotated[
        float,
        TIME_LIMITS.setting(
            "HANG_TIMEOUT_S",
            f"Seconds without progress after which an engine that has work is restarted; {INPROCESS} only.",
            parsers.parse_positive_seconds,
        ),
    ] = 30.0
    roles: Mapping[Role, RoleSettings]
    """Settings of the roles that are switched on, in the order of `domain.roles.ROLES`."""
    embedding_policies: EmbeddingPolicies
    state: StateSettings
    files: FileSettings
    batches: BatchSettings
    http: Annotated[FaultTolerance, SERVERS.settings("HTTP_")]
    batch_rules: Annotated[BatchRules, BACK_PRESSURE.settings("BATCH_")]
    log_level: Annotated[
        str,
        LOG.setting(
            "LOG_LEVEL",
            "Level of the service's own log: debug, info, warning or error.",
            parsers.parse_log_level,
        ),
    ] = "info"
    telemetry: TelemetrySettings
    engine_log_level: Annotated[
        str,
        LOG.setting(
            "ENGINE_LOG_LEVEL",
            "Level of vLLM's own log: debug, info, warning, or error, which tells only why an engine failed.",
            parsers.parse_log_level,
        ),
    ] = "error"

    def role(self, role: Role) -> RoleSettings:
        """The settings of a role that is switched on. Raises KeyError for one that is switched off."""
        return self.roles[role]
