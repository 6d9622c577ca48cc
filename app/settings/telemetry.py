"""Settings of logs, metrics and traces.

Some of OpenTelemetry's variables are only checked here; the SDK reads them from the environment itself.
"""

from collections.abc import Mapping
from typing import Annotated

import msgspec

from app.settings import otlp, parsers
from app.settings.groups import LOG, METRICS, OTLP
from app.settings.values import INPROCESS


class TelemetrySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of logs, metrics and traces."""

    log_format: Annotated[
        str,
        LOG.setting(
            "LOG_FORMAT",
            "Format of log lines: text, json, or auto (text on a terminal, json elsewhere).",
            parsers.parse_log_format,
        ),
    ] = "auto"
    request_log: Annotated[
        bool,
        LOG.setting(
            "REQUEST_LOG",
            "Whether each request is logged at level info, without its content.",
            parsers.parse_yes_or_no,
        ),
    ] = True
    metrics: Annotated[
        bool,
        METRICS.setting(
            "METRICS", "Whether metrics for Prometheus are served at /metrics.", parsers.parse_yes_or_no
        ),
    ] = True
    engine_metrics: Annotated[
        bool,
        METRICS.setting(
            "ENGINE_METRICS",
            f"Whether vLLM's own metrics are among the metrics; {INPROCESS} only.",
            parsers.parse_yes_or_no,
        ),
    ] = True
    history: Annotated[
        bool,
        METRICS.setting(
            "HISTORY",
            "Whether the status page shows the last minutes; if false, nothing of them is kept.",
            parsers.parse_yes_or_no,
        ),
    ] = True
    endpoint: Annotated[
        str,
        OTLP.setting(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "OTLP endpoint for traces and metrics, such as http://127.0.0.1:4318. If unset, nothing is exported.",
            otlp.parse_endpoint,
        ),
    ] = ""
    traces_endpoint: Annotated[
        str,
        OTLP.setting(
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "OTLP endpoint for traces, with its full path, such as http://127.0.0.1:6006/v1/traces.",
            otlp.parse_endpoint,
        ),
    ] = ""
    metrics_endpoint: Annotated[
        str,
        OTLP.setting(
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
            "OTLP endpoint for metrics, with its full path.",
            otlp.parse_endpoint,
        ),
    ] = ""
    protocol: Annotated[
        str,
        OTLP.setting(
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            f"Protocol of the export: {otlp.HTTP_PROTOBUF} or {otlp.GRPC}.",
            otlp.one_of(otlp.PROTOCOLS),
        ),
    ] = otlp.HTTP_PROTOBUF
    traces_protocol: Annotated[
        str,
        OTLP.setting(
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
            "Protocol for traces. If unset, OTEL_EXPORTER_OTLP_PROTOCOL applies.",
            otlp.one_of(otlp.PROTOCOLS),
        ),
    ] = ""
    metrics_protocol: Annotated[
        str,
        OTLP.setting(
            "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
            "Protocol for metrics. If unset, OTEL_EXPORTER_OTLP_PROTOCOL applies.",
            otlp.one_of(otlp.PROTOCOLS),
        ),
    ] = ""
    headers: Annotated[
        str,
        OTLP.setting(
            "OTEL_EXPORTER_OTLP_HEADERS",
            "Headers sent with every export, comma-separated, such as authorization=Bearer%20KEY.",
            otlp.parse_headers,
            is_secret=True,
        ),
    ] = ""
    traces_exporter: Annotated[
        str,
        OTLP.setting(
            "OTEL_TRACES_EXPORTER",
            "otlp, or none to export no traces even if an endpoint is set.",
            otlp.one_of(otlp.EXPORTERS),
        ),
    ] = "otlp"
    metrics_exporter: Annotated[
        str,
        OTLP.setting(
            "OTEL_METRICS_EXPORTER",
            "otlp, or none to export no metrics even if an endpoint is set.",
            otlp.one_of(otlp.EXPORTERS),
        ),
    ] = "otlp"
    sampler: Annotated[
        str,
        OTLP.setting(
            "OTEL_TRACES_SAMPLER",
            "Which traces are kept; parentbased_traceidratio keeps the share in OTEL_TRACES_SAMPLER_ARG.",
            otlp.one_of(otlp.SAMPLERS),
        ),
    ] = "parentbased_always_on"
    sampler_argument: Annotated[
        str,
        OTLP.setting(
            "OTEL_TRACES_SAMPLER_ARG",
            "Share of traces that ratio samplers keep, from 0 to 1. If unset, 1.",
            otlp.parse_sampler_argument,
        ),
    ] = ""
    metrics_interval_ms: Annotated[
        int,
        OTLP.setting(
            "OTEL_METRIC_EXPORT_INTERVAL",
            "Milliseconds between two exports of metrics.",
            otlp.parse_interval,
        ),
    ] = 60000
    service_name: Annotated[
        str,
        OTLP.setting(
            "OTEL_SERVICE_NAME",
            "Name of the service in traces and metrics.",
            str,
            fallback=otlp.name_in_attributes,
        ),
    ] = "memoria-vllm"
    resource_attributes: Annotated[
        str,
        OTLP.setting(
            "OTEL_RESOURCE_ATTRIBUTES",
            "Additional attributes of the service in traces and metrics, such as deployment.environment=test.",
            otlp.parse_attributes,
        ),
    ] = ""
    capture_content: Annotated[
        bool,
        OTLP.setting(
            "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT",
            "Whether spans contain prompts and answers, which may be private.",
            parsers.parse_yes_or_no,
        ),
    ] = False
    sdk_disabled: Annotated[
        str,
        OTLP.setting("OTEL_SDK_DISABLED", "true exports nothing at all.", otlp.one_of(("true", "false"))),
    ] = "false"
    environment: Mapping[str, str] = msgspec.field(default_factory=dict)
    """All of OpenTelemetry's variables that differ from their defaults, for the SDK and for engine processes."""

    @property
    def traces(self) -> otlp.OtlpSignal | None:
        """Where traces are exported; None if they are not, and then no spans are created."""
        return self._signal("traces", self.traces_exporter, self.traces_endpoint, self.traces_protocol)

    @property
    def metrics_export(self) -> otlp.OtlpSignal | None:
        """Where metrics are exported; None if they are not."""
        return self._signal("metrics", self.metrics_exporter, self.metrics_endpoint, self.metrics_protocol)

    def _signal(self, name: str, exporter: str, endpoint: str, protocol: str) -> otlp.OtlpSignal | None:
        if self.sdk_disabled == "true" or exporter == "none" or not (endpoint or self.endpoint):
            return None
        protocol = protocol or self.protocol
        if not endpoint:
            # The common endpoint is a base URL to which a signal's path is added; gRPC has no paths.
            has_path = protocol == otlp.HTTP_PROTOBUF
            endpoint = f"{self.endpoint.rstrip('/')}/v1/{name}" if has_path else self.endpoint
        return otlp.OtlpSignal(endpoint=endpoint, protocol=protocol)
