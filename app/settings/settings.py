"""What is set, as the rest of the service sees it."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from app.http.api_options import ApiOptions
from app.settings.otlp import OtlpSignal
from domain.policies.admission import Bounds
from domain.roles import Role

INPROCESS, HTTP = "vllm-inprocess", "vllm-http"
PREFIX = {Role.EMBED: "EMBED", Role.GENERATE: "GEN"}


class GpuMemory(msgspec.Struct, frozen=True):
    """Memory of the card for one engine: a share of it, or a size. One of the two is set."""

    fraction: float | None = None
    gib: float | None = None


class RoleSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What can be set for one engine."""

    backend: str
    model: str | None
    aliases: tuple[str, ...]
    urls: tuple[str, ...]
    api_key: str | None
    args: str
    gpu_memory: GpuMemory | None
    max_model_len: int | None
    bounds: Bounds
    tokenizer: str | None = None
    """Folder, file or hub name, for the embedding role over HTTP."""


class HttpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How servers are dealt with that are reached over HTTP."""

    connect_timeout_s: float
    read_timeout_s: float
    retries: int
    retry_share: float
    breaker_failures: int
    breaker_cool_down_s: float


class EmbeddingPolicies(msgspec.Struct, frozen=True, kw_only=True):
    """What stands between the API and the embedding engine."""

    join: bool | None
    """Join requests of several clients; None where it pays, which is over HTTP."""
    cache_bytes: int
    """0 for no cache."""


class SecuritySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Who may use the service, and how much of it."""

    api_keys: tuple[str, ...] = ()
    api_keys_file: Path | None = None
    requests_per_minute: int = 0
    """Of one key that has no limit of its own; 0 for none."""
    tokens_per_minute: int = 0
    cors_origins: tuple[str, ...] = ()
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    max_connections: int = 1000
    client_timeout_s: float = 30.0
    """0 for never."""

    def __repr__(self) -> str:
        """Without the keys, wherever it is printed."""
        return f"SecuritySettings({len(self.api_keys)} keys)"


class TelemetrySettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the service tells of itself, and where."""

    log_format: str
    """One of LOG_FORMATS; auto is text on a terminal and JSON elsewhere."""
    request_log: bool
    metrics: bool
    """Whether there is a page for Prometheus."""
    engine_metrics: bool
    """Whether engines in process count for it, too."""
    traces: OtlpSignal | None
    """None if traces are not exported, and then none are made."""
    metrics_export: OtlpSignal | None
    metrics_interval_ms: int
    service_name: str
    capture_content: bool
    environment: Mapping[str, str]
    """All of OpenTelemetry's variables that are set, for the SDK and for engine processes."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set."""

    host: str
    port: int
    api_processes: int
    log_level: str
    engine_log_level: str
    cache_dir: Path
    api: ApiOptions
    embed: RoleSettings
    generate: RoleSettings
    request_timeout_s: float
    drain_timeout_s: float
    hang_timeout_s: float
    embedding_policies: EmbeddingPolicies
    http: HttpOptions
    telemetry: TelemetrySettings
    security: SecuritySettings = SecuritySettings()

    def role(self, role: Role) -> RoleSettings:
        """The part for one engine."""
        return self.embed if role is Role.EMBED else self.generate
